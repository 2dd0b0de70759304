"""python -m pytest tests/train/figures/test_pair.py -- two checkpoints and what they are shown."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.figures.twins import checkpoint, truth_of
from tier_infer.errors import UsageError
from tier_infer.evaluation.datasets import held_out
from tier_train.figures.pair import make_pair


@pytest.mark.parametrize(
    ("splits", "expected"),
    [(["Train", "valid", "TEST"], "test"), (["train", "valid", "train"], "val"), (["a"], "")],
)
def test_maps_are_of_what_is_held_out(manifest: Path, splits: list[str], expected: str) -> None:
    rows = [row | {"split": splits[i % len(splits)]} for i, row in enumerate(truth_of(manifest))]
    table = manifest.with_name(f"{expected or 'all'}.csv")
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    assert held_out(f"manifest:{table}", None).split == expected
    if expected:
        assert held_out(f"manifest:{table}", "train").split == "train"


def test_twins_of_another_geometry_or_exchanged_are_refused() -> None:
    first, second = checkpoint(1, 0.2), checkpoint(2, 0.0)
    other = replace(second, recipe=replace(second.recipe, geometry="tier-224-imagenet"))
    with pytest.raises(UsageError, match="differ in geometry"):
        make_pair(first, other)
    with pytest.raises(UsageError, match="exchange --regularized and --unregularized"):
        make_pair(second, first)


def test_twins_of_other_pixels_or_untrained_patches_are_refused() -> None:
    first, second = checkpoint(1, 0.2), checkpoint(2, 0.0)
    with pytest.raises(UsageError, match="differ in intensity or views"):
        make_pair(first, replace(second, intensity="mimic-jpg"))
    untrained = {"patches": "not trained"}
    with pytest.raises(UsageError, match="never trained to meet words"):
        make_pair(replace(first, training=untrained), replace(second, training=untrained))
