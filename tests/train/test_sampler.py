"""python -m pytest tests/train/test_sampler.py -- which pairs a step gets, whoever asks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.augment import augment
from tier_train.data.dataset import Row
from tier_train.recipe import recipe_from
from tier_train.sampler import Pairs, batches, generator, index_batches, partners, resolved


def _pairs(count: int) -> Pairs:
    """Row i says i and its picture is filled with i."""
    rows = [Row(f"{i}.png", "train", str(i), {}, i + 2) for i in range(count)]
    return Pairs(rows, [np.full((128, 128), i, np.uint8) for i in range(count)])


@pytest.mark.parametrize("steps", [1, 3, 4, 10])
def test_batches_are_counted_and_drop_the_remainder(steps: int) -> None:
    recipe = recipe_from({"steps": steps, "batch_size": 4})
    found = list(index_batches(14, recipe))
    assert [step for step, _, _ in found] == list(range(1, steps + 1))
    assert [epoch for _, _, epoch in found] == [i // 3 for i in range(steps)]
    seen: dict[int, list[int]] = {}
    for _, indices, epoch in found:
        assert indices.shape == (4,)
        seen.setdefault(epoch, []).extend(indices.tolist())
    assert all(len(set(images)) == len(images) for images in seen.values())
    if steps == 10:
        assert seen[0] != seen[1] != seen[2]
    for k in range(2, steps + 1):
        later = list(index_batches(14, recipe, k))
        assert [(s, i.tolist()) for s, i, _ in later] == [
            (s, i.tolist()) for s, i, _ in found[k - 1 :]
        ]


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_hold_what_augment_makes_of_the_whole(workers: int) -> None:
    """Each half as its part of the whole, ahead of time or not."""
    pairs, geometry = _pairs(14), GEOMETRIES["small-112"]
    recipe = recipe_from({"steps": 9, "batch_size": 4, "rotate": 5.0, "seed": 3})
    halves = [list(batches(pairs, recipe, 2, part, workers)) for part in (slice(0, 2), slice(2, 4))]
    for (step, indices, epoch), one, two in zip(index_batches(14, recipe, 2), *halves, strict=True):
        pictures = [pairs.pictures[i] for i in indices]
        whole = augment(pictures, geometry, recipe, generator(3, 2, step))
        assert torch.equal(torch.cat([one.pixels, two.pixels]), whole)
        assert one.captions == two.captions == [str(i) for i in indices]
        assert (one.step, one.epoch) == (step, epoch)


def test_a_batch_that_fails_in_a_thread_fails_in_the_loop() -> None:
    class Broken(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            raise UsageError("line 7 is refused")

    pairs = Pairs(_pairs(14).rows, Broken([0] * 14))
    with pytest.raises(UsageError, match="line 7"):
        next(batches(pairs, recipe_from({"steps": 9, "batch_size": 4}), workers=2))


def test_resolved_counts_epochs() -> None:
    recipe = recipe_from({"epochs": 3, "batch_size": 4, "validate_every": 0, "steps": 7})
    assert (resolved(recipe, 14).steps, resolved(recipe, 14).validate_every) == (9, 3)
    assert resolved(recipe_from({"steps": 7, "batch_size": 4}), 14).steps == 7


def test_shuffled_captions_are_torn_apart_once() -> None:
    recipe = recipe_from({"shuffle_captions": True})
    partner = partners(16, recipe)
    assert Counter(partner.tolist()) == Counter(range(16))
    assert partner.tolist() == partners(16, recipe).tolist()
    other = recipe_from({"shuffle_captions": True, "seed": 1})
    assert partner.tolist() != partners(16, other).tolist()
    assert partners(16, recipe_from({})).tolist() == list(range(16))
    table = {"steps": 8, "batch_size": 4, "shuffle_captions": True}
    for batch in batches(_pairs(16), recipe_from(table | {"brightness": 0, "contrast": 0})):
        images = batch.pixels[:, 56, 56].int().tolist()
        assert batch.captions == [str(partner[i]) for i in images]


@pytest.mark.parametrize("seed", range(8))
def test_no_image_keeps_its_own_caption_when_shuffled(seed: int) -> None:
    partner = partners(16, recipe_from({"shuffle_captions": True, "seed": seed}))
    assert not [i for i, other in enumerate(partner) if i == other]
