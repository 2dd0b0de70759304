"""Mutated files through the real reader, parent and child with all their caps.

    python benchmarks/fuzz_dicom.py --inputs 100000 --seed 1 [--jobs 1] [-o fuzz.csv] [FOLDER …]
    python benchmarks/fuzz_dicom.py --check fuzz.csv                 the summary out of the file
    python benchmarks/fuzz_dicom.py --seed 1 --show 4711 -o x.dcm    one input as a file

Every input must end as a picture or as a RefusedImage. `bug` is anything else: another exception in
the parent, or one in the child that no line of ours expected (it is caught there, answered with the
reason `bug` and must be given a name). Inputs come from `benchmarks/fuzz`, the same for a
seed and a number; a FOLDER adds files to mutate. They are written to a RAM disk where there is one.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fuzz.mutate import mutated
from benchmarks.fuzz.seeds import Seed, all_seeds
from tier_infer.errors import RefusedImage
from tier_infer.intensity import PRESETS
from tier_infer.reader import MEMORY_BYTES, SECONDS, Reader

FIELDS = ("number", "seed", "mutation", "bytes", "outcome", "seconds", "child_kib", "parent_kib")
FIELDS += ("death", "changed", "bug")
UNEXPECTED = re.compile(r"a bug of ours on this file \((\w+)\)")
SPAWN = multiprocessing.get_context("spawn")
BATCH = 200
SEEDS: list[Seed] = []  # in the process that makes inputs
MEMBERS = 3  # of an archive that are read
RAM = Path("/dev/shm")
Row = dict[str, Any]


class WatchedReader(Reader):
    """Keeps how children ended, and the largest memory of any child."""

    lost: int | None = None

    def _lose(self) -> None:
        child = self._child
        assert child is not None
        child.kill()  # only one that hangs is still there
        self.lost = child.wait()
        super()._lose()

    def peak_kib(self) -> int:
        """The child's largest resident memory since it was last asked; 0 without /proc."""
        if self._child is None:
            return 0
        process = Path(f"/proc/{self._child.pid}")
        try:
            found = kib(process, "VmHWM")
            (process / "clear_refs").write_text("5")
        except OSError:
            return 0
        return found


def kib(process: Path, field: str) -> int:
    status = (process / "status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return int(found[1]) if found else 0


def fuzz(seeds: list[Seed], run: int, numbers: Iterable[int]) -> Iterator[Row]:
    """One row for each input. They are made by a process of their own, a batch at a time, so that
    what this one grows by is the reader's doing."""
    folder = RAM if os.access(RAM, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        ProcessPoolExecutor(1, SPAWN, initializer=_prepare, initargs=(seeds,)) as maker,
        WatchedReader() as reader,
    ):
        clean: dict[tuple[str, str], list[bytes]] = {}
        todo = iter(numbers)
        while batch := list(itertools.islice(todo, BATCH)):
            for number, made in zip(
                batch, maker.submit(_make, run, batch, name).result(), strict=True
            ):
                seed, path, size, mutation = made
                reader.intensity = PRESETS[number % len(PRESETS)]
                key = (seed, reader.intensity)
                if key not in clean:
                    clean[key] = _clean(reader, next(s for s in seeds if s.name == seed), name)
                yield {"number": number, "seed": seed, "mutation": mutation, "bytes": size} | _row(
                    reader, Path(path), clean[key]
                )
                os.unlink(path)


def _row(reader: WatchedReader, path: Path, clean: list[bytes]) -> Row:
    reader.lost = None
    reader.peak_kib()
    start = time.perf_counter()
    outcome, pictures, bug = _read(reader, path)
    return {
        "outcome": outcome,
        "seconds": f"{time.perf_counter() - start:.4f}",
        "child_kib": reader.peak_kib(),
        "parent_kib": kib(Path("/proc/self"), "VmRSS") if RAM.exists() else 0,
        "death": "" if reader.lost is None else reader.lost,
        "changed": int(not set(pictures) <= set(clean)),
        "bug": bug,
    }


def _clean(reader: WatchedReader, seed: Seed, folder: str) -> list[bytes]:
    """What the seed itself gives."""
    path = Path(folder) / f"clean{seed.suffix}"
    path.write_bytes(seed.data)
    return _read(reader, path)[1]


def _prepare(seeds: list[Seed]) -> None:
    global SEEDS
    SEEDS = seeds


def _make(run: int, numbers: list[int], folder: str) -> list[tuple[str, str, int, str]]:
    """In the maker: seed, path, size and mutation of each input."""
    made = []
    for number in numbers:
        seed, data, mutation = mutated(SEEDS, run, number)
        path = Path(folder) / f"{number}{seed.suffix}"
        path.write_bytes(data)
        made.append((seed.name, str(path), len(data), mutation))
    return made


def _read(reader: Reader, path: Path) -> tuple[str, list[bytes], str]:
    """('scored' or the reason, digests of the pictures, what should not have happened)."""
    pictures: list[bytes] = []
    try:
        inside = reader.members(str(path)) if path.suffix == ".zip" else []
    except RefusedImage:
        inside = []
    except Exception as error:
        return "bug", pictures, f"parent {type(error).__name__}"
    names = [f"{path}/{name}" for name in inside[:MEMBERS]] or [str(path)]
    reason = "scored"
    for name in names:
        try:
            grey = reader.read(name, display=True).grey
            pictures.append(hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).digest())
        except RefusedImage as refusal:
            reason = refusal.reason
            found = UNEXPECTED.search(str(refusal))
            if found:
                return reason, pictures, f"child {found[1]}"
        except Exception as error:
            return "bug", pictures, f"parent {type(error).__name__}"
    return "scored" if pictures else reason, pictures, ""


def _part(folders: list[Path], run: int, numbers: range) -> list[Row]:
    return list(fuzz(all_seeds(folders), run, numbers))


def summary(rows: list[dict[str, str]]) -> str:
    """In words; every figure is worked out from the rows of the CSV."""
    outcomes = Counter(row["outcome"] for row in rows)
    bugs = Counter(row["bug"] for row in rows if row["bug"])
    deaths = Counter((row["seed"], row["death"]) for row in rows if row["death"])
    seconds = sorted(float(row["seconds"]) for row in rows)
    parent = [int(row["parent_kib"]) for row in rows]
    settled = parent[min(1000, len(parent) - 1)]
    scored = outcomes["scored"]
    changed = sum(int(row["changed"]) for row in rows)
    over = sum(s > SECONDS for s in seconds)
    parent_bugs = sum(n for bug, n in bugs.items() if bug.startswith("parent"))
    lines = [
        f"{len(rows)} inputs, {sum(map(int, (r['bytes'] for r in rows))) / 2**20:.0f} MiB, "
        f"{sum(seconds):.0f} s in the reader",
        f"scored {scored} ({scored / len(rows):.1%}), of these with other pixels than the seed "
        f"{changed} ({changed / len(rows):.1%} of all)",
        f"parent: {parent_bugs} unexpected exceptions; "
        f"grew {(max(parent) - settled) / 1024:.1f} MiB after the first 1,000",
        f"child: {sum(deaths.values())} deaths, {sum(bugs.values()) - parent_bugs} unexpected "
        f"exceptions; largest {max(int(r['child_kib']) for r in rows) / 1024:.0f} MiB of "
        f"{MEMORY_BYTES // 2**20}",
        f"seconds: median {seconds[len(seconds) // 2]:.4f}, 99.9 % below "
        f"{seconds[int(len(seconds) * 0.999)]:.3f}, longest {seconds[-1]:.2f}, "
        f"over the limit of {SECONDS:g}: {over}",
    ]
    lines += [f"  death of {seed}: {n} (exit {code})" for (seed, code), n in deaths.most_common()]
    for bug, count in bugs.most_common():
        first = [row["number"] for row in rows if row["bug"] == bug][:5]
        lines.append(f"  bug {bug}: {count}, inputs {', '.join(first)}")
    lines += [f"  {reason:<18} {n:7d}" for reason, n in outcomes.most_common()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--show", type=int, metavar="NUMBER")
    parser.add_argument("--check", type=Path, metavar="CSV")
    parser.add_argument("-o", "--output", type=Path, default=Path("fuzz.csv"))
    asked = parser.parse_args()
    if asked.show is not None:
        seed, data, mutation = mutated(all_seeds(asked.folders), asked.seed, asked.show)
        asked.output.write_bytes(data)
        print(f"{asked.output}: {seed.name}, {mutation}, intensity {PRESETS[asked.show % 4]}")
        return
    if asked.check is None:
        with asked.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            if asked.jobs == 1:
                writer.writerows(fuzz(all_seeds(asked.folders), asked.seed, range(asked.inputs)))
            else:
                parts = [range(i, asked.inputs, asked.jobs) for i in range(asked.jobs)]
                with ProcessPoolExecutor(asked.jobs, SPAWN) as pool:
                    jobs = [pool.submit(_part, asked.folders, asked.seed, p) for p in parts]
                    for job in jobs:
                        writer.writerows(job.result())
    with (asked.check or asked.output).open(newline="") as file:
        rows = list(csv.DictReader(file))
    print(summary(rows))
    if any(row["bug"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
