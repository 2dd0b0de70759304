"""python -m pytest tests/train/test_train.py -- the loop: one seed, one checkpoint; its parts."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trained import run
from tier_infer.errors import UsageError
from tier_train.checkpoint import Checkpoint, flat_state, load_checkpoint
from tier_train.manifest import Row, read_manifest
from tier_train.phantom import FINDINGS
from tier_train.recipe import Recipe, recipe_from
from tier_train.train import COLUMNS, LN_P, Pairs, batches, collapse_alarm, learning_rate, train

torch.set_num_threads(1)
TINY: dict[str, Any] = {
    "steps": 6, "batch_size": 16, "validate_every": 3, "vocab_size": 150, "embed_dim": 16,
    "text_width": 16, "text_layers": 1,
}  # fmt: skip
Fit = tuple[Checkpoint, list[dict[str, str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "phantoms"
    counts = ("--train", "64", "--val", "24", "--test", "0")
    run("tier-train", "data", "phantoms", "-o", str(path), *counts, cwd=path.parent)
    return path


@pytest.fixture(scope="module")
def fit(folder: Path) -> Callable[..., Fit]:
    def fitted(name: str, **changes: Any) -> Fit:
        output = folder / f"{name}.pt"
        recipe = recipe_from(TINY | changes)
        train(read_manifest(folder / "manifest.csv"), recipe, output, False, lambda _: None)
        with (folder / f"{name}.metrics.csv").open(encoding="utf-8") as file:
            return load_checkpoint(output), list(csv.DictReader(file))

    return fitted


@pytest.fixture(scope="module")
def first(fit: Callable[..., Fit]) -> Fit:
    return fit("first")


def _without_seconds(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_the_checkpoint_and_its_metrics(first: Fit) -> None:
    checkpoint, rows = first
    assert [tuple(row) for row in rows] == [COLUMNS, COLUMNS]
    assert [row["step"] for row in rows] == ["3", "6"]
    assert checkpoint.intensity == "mimic-jpg"
    assert checkpoint.recipe == recipe_from(TINY)
    assert (checkpoint.training["train_pairs"], checkpoint.training["val_pairs"]) == (64, 24)
    areas = checkpoint.training["val_auc"]
    assert set(areas) <= set(FINDINGS)
    assert float(rows[-1]["val_auc"]) == pytest.approx(np.mean(list(areas.values())))
    for row in rows:
        terms = (float(row[k]) for k in ("clip_loss", "patch_entropy", "token_entropy"))
        expected = np.dot([1, 0.2, 0.1], list(terms))
        assert float(row["loss"]) == pytest.approx(expected, abs=1e-5)
        assert 3.4 < float(row["patch_entropy"]) <= LN_P + 1e-6
    assert float(rows[-1]["lr"]) == pytest.approx(0, abs=1e-12)


def test_one_seed_gives_one_checkpoint(first: Fit, fit: Callable[..., Fit]) -> None:
    (ours, rows), (theirs, again) = first, fit("second")
    assert ours.tokenizer.vocab == theirs.tokenizer.vocab
    assert _without_seconds(rows) == _without_seconds(again)
    state = flat_state(theirs.model)
    for key, value in flat_state(ours.model).items():
        assert torch.equal(value, state[key]), key


def test_another_seed_gives_another_checkpoint(first: Fit, fit: Callable[..., Fit]) -> None:
    (ours, rows), (theirs, others) = first, fit("third", seed=1)
    key = "trunk.conv1.weight"
    assert not torch.equal(flat_state(ours.model)[key], flat_state(theirs.model)[key])
    assert rows[0]["loss"] != others[0]["loss"]


def test_weights_move_and_batch_norms_count(first: Fit) -> None:
    state = flat_state(first[0].model)
    assert state["proj.1.num_batches_tracked"] == TINY["steps"]
    assert state["proj.3.bias"].abs().max() > 0


def test_fewer_pairs_than_a_batch_are_refused(folder: Path) -> None:
    recipe = recipe_from(TINY | {"batch_size": 65})
    manifest = read_manifest(folder / "manifest.csv")
    with pytest.raises(UsageError, match="64 training pairs are fewer than batch_size 65"):
        train(manifest, recipe, folder / "none.pt", False, lambda _: None)
    assert not (folder / "none.pt").exists()


def _pairs(count: int) -> Pairs:
    """Row i says i and its square is filled with i."""
    rows = [Row(f"{i}.png", "train", str(i), {}, i + 2) for i in range(count)]
    fill = np.arange(count, dtype=np.uint8)[:, None, None]
    return Pairs(rows, np.broadcast_to(fill, (count, 2, 2)))


@pytest.mark.parametrize("steps", [1, 3, 4, 10])
def test_batches_are_counted_and_drop_the_remainder(steps: int) -> None:
    recipe = recipe_from({"steps": steps, "batch_size": 4})
    found = list(batches(_pairs(14), recipe))
    assert len(found) == steps
    assert [epoch for _, _, epoch in found] == [i // 3 for i in range(steps)]
    seen: dict[int, list[int]] = {}
    for rows, squares, epoch in found:
        assert squares.shape == (4, 2, 2)
        assert squares.dtype == torch.uint8
        assert [int(row.text) for row in rows] == squares[:, 0, 0].tolist()
        seen.setdefault(epoch, []).extend(squares[:, 0, 0].tolist())
    assert all(len(set(images)) == len(images) for images in seen.values())
    if steps == 10:
        assert seen[0] != seen[1] != seen[2]


def _partners(count: int, seed: int) -> dict[int, set[str]]:
    table = {"steps": 8, "batch_size": 4, "shuffle_captions": True, "seed": seed}
    partners: dict[int, set[str]] = {}
    for rows, squares, _ in batches(_pairs(count), recipe_from(table)):
        for row, image in zip(rows, squares[:, 0, 0].tolist(), strict=True):
            partners.setdefault(image, set()).add(row.text)
    return partners


def test_shuffled_captions_are_torn_apart_once() -> None:
    partners = _partners(16, 0)
    assert all(len(texts) == 1 for texts in partners.values()), "the same in every epoch"
    texts = Counter(text for group in partners.values() for text in group)
    assert texts == Counter(str(i) for i in range(16))
    assert partners != _partners(16, 1)


@pytest.mark.parametrize("seed", range(8))
def test_no_image_keeps_its_own_caption_when_shuffled(seed: int) -> None:
    assert not [i for i, texts in _partners(16, seed).items() if str(i) in texts]


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    recipe = recipe_from({"steps": 100, "warmup": 0.1, "lr": 1e-3})
    rates = [learning_rate(step, recipe) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == max(rates) == pytest.approx(1e-3)
    assert rates[54] == pytest.approx(5e-4)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(np.diff(rates[:10]) > 0)
    assert all(np.diff(rates[9:]) < 0)
    assert learning_rate(1, dataclasses.replace(recipe, warmup=0.0)) == 1e-3


@pytest.mark.parametrize(
    ("clip", "entropy", "step", "words"),
    [
        (1.0, 3.7, 50, ""),
        (math.log(32), 3.7, 50, "CLIP loss .* guessing, ln 32 = 3.466"),
        (math.log(32) - 0.019, 3.7, 50, "CLIP loss"),
        (math.log(32) - 0.021, 3.7, 50, ""),
        (1.0, LN_P, 50, "patch entropy .* ln 49 = 3.8918"),
        (1.0, LN_P - 0.0011, 50, ""),
        (math.log(32), LN_P, 10, ""),  # still warming up
        (math.log(32), LN_P, 11, "CLIP loss"),
    ],
)
def test_the_collapse_alarm(clip: float, entropy: float, step: int, words: str) -> None:
    recipe = Recipe(steps=100, warmup=0.1, batch_size=32)
    alarm = collapse_alarm(clip, entropy, recipe, step)
    assert bool(alarm) == bool(words)
    assert re.search(words, alarm)
