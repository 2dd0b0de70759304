"""One mutated file out of a seed and a number, the same one every time."""

from __future__ import annotations

import copy
import functools
import random
import struct
import zlib
from collections.abc import Sequence

from benchmarks.fuzz import elements
from benchmarks.fuzz.archives import mutate_zip
from benchmarks.fuzz.codestreams import mutate_stream
from benchmarks.fuzz.headers import CHANGES
from benchmarks.fuzz.raw import change_bytes, change_range
from benchmarks.fuzz.seeds import Seed


def mutated(seeds: Sequence[Seed], run: int, number: int) -> tuple[Seed, bytes, str]:
    """Input `number` of run `run`: the seed it came from, its bytes, what was done to it."""
    rng = random.Random(f"{run}/{number}")
    seed = rng.choices(seeds, [s.weight for s in seeds])[0]
    data, done = seed.data, []
    if rng.random() < 0.75:  # by structure, then perhaps by bytes on top
        data, done = _by_structure(seed, rng)
    if not done or rng.random() < 0.15:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            if rng.random() < 0.6:
                data, name = change_bytes(data, rng), "bytes"
            else:
                data, name = change_range(data, rng, rng.choice(seeds).data), "range"
            done.append(name)
    return seed, data, "+".join(done)


def _by_structure(seed: Seed, rng: random.Random) -> tuple[bytes, list[str]]:
    if seed.suffix == ".zip":
        data = seed.data
        times = rng.choice((1, 1, 2, 3))
        for _ in range(times):
            data = mutate_zip(data, rng)
        return data, ["zip"] * times
    if seed.suffix != ".dcm":
        return mutate_stream(seed.data, rng)[0], ["codestream"]
    try:
        file = copy.deepcopy(_parsed(seed.data))
    except (ValueError, struct.error, zlib.error, UnicodeDecodeError):  # a seed given by the user
        return seed.data, []
    done = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 6))):
        change = rng.choice(CHANGES)
        change(file, rng)
        done.append(change.__name__)
    return elements.written(file), done


@functools.lru_cache(maxsize=256)
def _parsed(data: bytes) -> elements.File:
    return elements.read(data)
