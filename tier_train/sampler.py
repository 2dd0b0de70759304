"""Which pairs each step trains on, and their pixels: a pure function of recipe and step.

Nothing here has a memory: a resumed run asks for step 401 and gets what the uninterrupted one got.
Of several processes each draws the whole batch and prepares its own rows.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.augment import apply, draw
from tier_train.data.dataset import Pictures, Row
from tier_train.recipe import Recipe

A = TypeVar("A")
B = TypeVar("B")
AHEAD = 2  # batches per worker that wait for the device


@dataclass(frozen=True)
class Pairs:
    rows: list[Row]
    pictures: Pictures  # uint8 [h, w] each, short side as the geometry resizes it


class Batch(NamedTuple):
    step: int  # from 1
    epoch: int  # from 0
    pixels: Tensor  # float32 [n, crop, crop], 0..255, of this process
    captions: list[str]  # of all B pairs, so that every process pads alike


def resolved(recipe: Recipe, count: int) -> Recipe:
    """`steps` and `validate_every` as numbers of steps, for `count` training pairs."""
    if count < recipe.batch_size:
        raise UsageError(
            f"{count} training pairs are fewer than batch_size {recipe.batch_size}; add rows, or "
            "--set batch_size=N"
        )
    epoch = count // recipe.batch_size
    return replace(
        recipe,
        steps=recipe.epochs * epoch or recipe.steps,
        validate_every=recipe.validate_every or epoch,
    )


def index_batches(
    count: int, recipe: Recipe, first: int = 1
) -> Iterator[tuple[int, NDArray[np.int64], int]]:
    """(step, int64 [B], epoch) from step `first` to the last; an order per epoch, its rest cut."""
    per_epoch = count // recipe.batch_size
    order, known = np.empty(0, np.int64), -1
    for step in range(first, recipe.steps + 1):
        epoch, place = divmod(step - 1, per_epoch)
        if epoch != known:
            order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(count)
            known = epoch
        yield step, order[place * recipe.batch_size : (place + 1) * recipe.batch_size], epoch


def partners(count: int, recipe: Recipe) -> NDArray[np.int64]:
    """Whose row each image gets: its own. With shuffle_captions another's, the same throughout."""
    partner = np.arange(count)
    if recipe.shuffle_captions:
        ring = np.random.default_rng([recipe.seed, 3]).permutation(partner)
        partner[ring] = np.roll(ring, 1)  # nobody keeps its own
    return partner


def batches(
    pairs: Pairs,
    recipe: Recipe,
    first: int = 1,
    part: slice = slice(None),
    workers: int = 0,
    pin: bool = False,
) -> Generator[Batch]:
    """From step `first` to the last; pixels of the rows `part` of each batch.

    With workers, threads decode and augment ahead of the device; the result is the same. `pin`: in
    memory that a GPU copies from while it computes.
    """
    geometry = GEOMETRIES[recipe.geometry]
    partner = partners(len(pairs.rows), recipe)

    def prepare(chosen: tuple[int, NDArray[np.int64], int]) -> Batch:
        step, indices, epoch = chosen
        chances = draw(len(indices), geometry, recipe, generator(recipe.seed, 2, step))
        pictures = [pairs.pictures[int(i)] for i in indices[part]]
        captions = [pairs.rows[partner[i]].caption(recipe.seed, epoch) for i in indices]
        pixels = apply(pictures, chances[part], geometry, recipe)
        return Batch(step, epoch, pixels.pin_memory() if pin else pixels, captions)

    yield from _mapped(prepare, index_batches(len(pairs.rows), recipe, first), workers)


def _mapped(function: Callable[[A], B], items: Iterator[A], workers: int) -> Iterator[B]:
    """map, in order, up to AHEAD · workers items before they are asked for."""
    if not workers:
        yield from map(function, items)
        return
    # one thread per picture: torch's own threads beside them would only fight for the cores
    with ThreadPoolExecutor(workers, "augment", torch.set_num_threads, (1,)) as pool:
        waiting: collections.deque[Future[B]] = collections.deque()
        try:
            waiting.extend(
                pool.submit(function, item) for item in itertools.islice(items, AHEAD * workers)
            )
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def generator(*seeds: int) -> torch.Generator:
    """Independent of every other random stream, so that a change elsewhere moves nothing here."""
    return torch.Generator().manual_seed(seed_of(*seeds))


def seed_of(*seeds: int) -> int:
    state = np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0]
    return int(state) >> 1
