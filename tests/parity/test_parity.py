"""python -m pytest tests/parity/test_parity.py -- PyTorch, ONNX fp32 and ONNX fp16 agree.

On phantoms and on real crops (tests/data/nih), for embeddings, every heatmap cell, scores, ranking,
decisions and AUC. How the differences are measured is held against numpy, scipy and scikit-learn.
"""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import tier_export.cells
from tests.parity.sides import Sides
from tier_export.heads import TableScore
from tier_export.parity import Crops, Outputs, check, compare, scored

PROOFS = ("fp32", "fp16", "fp16 half activations")


def cells(found: Outputs) -> NDArray[np.float32]:
    """float32 [N, L, g, g], all at once."""
    n, grid, _, dim = found.patches.shape
    flat = found.score(np.ascontiguousarray(found.patches.reshape(-1, dim)))
    return flat.reshape(n, grid, grid, -1).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("pictures", ["phantoms", "real"])
@pytest.mark.parametrize("proof", PROOFS)
def test_embeddings_cells_scores_and_auc_agree(sides: Sides, proof: str, pictures: str) -> None:
    crops = sides.crops[pictures]
    before, after = sides.reference(crops.pixels), sides.exported(proof, crops.pixels)
    found = compare(before, after, sides.labels, crops)
    check(proof[:4], proof, found)
    np.testing.assert_allclose(np.linalg.norm(after.image, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(after.patches, axis=-1), 1, atol=1e-5)
    if pictures == "phantoms":
        assert all(row["auc"] for row in found["labels"].values())
    else:
        assert found["max_dauc"] is None  # no truth: not gated, and said so


@pytest.mark.parametrize("proof", PROOFS)
def test_every_figure_is_what_its_library_says(sides: Sides, proof: str) -> None:
    """numpy, scipy.stats.spearmanr, sklearn.metrics.roc_auc_score."""
    before, after = sides.right, sides.exported(proof, sides.phantoms.pixels)
    found = compare(before, after, sides.labels, sides.phantoms)
    dz, dcell = np.abs(after.scores - before.scores), np.abs(cells(after) - cells(before))
    dimage, dpatch = np.abs(after.image - before.image), np.abs(after.patches - before.patches)
    for key, d in (("dz", dz), ("dcell", dcell), ("dembedding", dimage), ("dpatch", dpatch)):
        assert found[f"max_{key}"] == d.max()
        assert found[f"p99_{key}"] == pytest.approx(np.percentile(d, 99), rel=1e-6)
    for i, (label, row) in enumerate(found["labels"].items()):
        a, b, y = before.scores[:, i], after.scores[:, i], sides.phantoms.truth[label]
        assert row["max_dz"] == dz[:, i].max()
        assert row["p99_dz"] == pytest.approx(np.percentile(dz[:, i], 99), rel=1e-6)
        assert row["max_dcell"] == dcell[:, i].max()
        alike = spearmanr(cells(before)[:, i].ravel(), cells(after)[:, i].ravel()).statistic
        assert row["cell_rank"] == pytest.approx(alike, abs=1e-12)
        assert row["spread"] == a.max() - a.min()
        assert row["auc"] == pytest.approx([roc_auc_score(y, z) for z in (a, b)], abs=1e-12)
        assert row["dauc"] == abs(row["auc"][1] - row["auc"][0])
        assert row["pairs"] == int(y.sum() * (1 - y).sum())
        assert row["rank"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
        assert row["flips"] == ((a > row["threshold"]) != (b > row["threshold"])).sum()
        assert np.percentile(a, 38) < row["threshold"] < np.percentile(a, 62)
    rows = found["labels"].values()
    assert found["flips"] == sum(row["flips"] for row in rows)
    assert found["max_dauc"] == max(row["dauc"] for row in rows)
    assert found["min_rank"] == min(row["rank"] for row in rows)
    assert found["min_cell_rank"] == min(row["cell_rank"] for row in rows)
    norms = [np.linalg.norm(e.astype(np.float64), axis=-1) for e in (after.image, after.patches)]
    assert found["max_dnorm"] == pytest.approx(max(abs(n - 1).max() for n in norms), abs=2e-7)
    assert found["crops"] == 320


@pytest.mark.parametrize("proof", ["fp32", "fp16"])
@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_the_batch_does_not_matter(sides: Sides, proof: str, count: int) -> None:
    pixels = sides.phantoms.pixels[:32]
    whole = sides.exported(proof, pixels)
    part = sides.exported(proof, pixels[:count])
    np.testing.assert_allclose(part.scores, whole.scores[:count], atol=1e-6)
    np.testing.assert_allclose(cells(part), cells(whole)[:count], atol=1e-5)


def test_extremes_are_finite(sides: Sides) -> None:
    side = sides.phantoms.pixels.shape[1]
    checkerboard = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = np.stack([np.zeros_like(checkerboard), np.full_like(checkerboard, 255), checkerboard])
    for proof in PROOFS:
        assert np.isfinite(cells(sides.exported(proof, pixels))).all()


def unit(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    v = rng.standard_normal(shape).astype(np.float32)
    found: NDArray[np.float32] = v / np.linalg.norm(v, axis=-1, keepdims=True)
    return found


def wide(crops: int, labels: int) -> tuple[Outputs, Outputs, Crops]:
    """Random embeddings and a slightly other version of them, for many labels."""
    rng = np.random.default_rng(0)
    image, patches, table = unit(rng, crops, 8), unit(rng, crops, 7, 7, 8), unit(rng, labels, 8)
    one = scored(image, patches, TableScore(table))
    other = scored(image + np.float32(1e-4), patches + 1e-3 * unit(rng, crops, 7, 7, 8), one.score)
    return one, other, Crops(np.zeros((crops, 1, 1), np.uint8), {}, "noise")


@pytest.mark.parametrize("block", [1, 1000, 12345])
def test_blocks_of_crops_give_the_same_figures(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    one, other, crops = wide(23, 6)
    names = [str(i) for i in range(6)]
    whole = compare(one, other, names, crops)
    monkeypatch.setattr(tier_export.cells, "BLOCK", block)
    parts = compare(one, other, names, crops)
    assert parts["p99_dcell"] == pytest.approx(whole["p99_dcell"], rel=1e-4)
    assert parts["max_dcell"] == pytest.approx(whole["max_dcell"], rel=1e-4)
    exact = np.abs(cells(other) - cells(one))
    assert parts["p99_dcell"] == pytest.approx(np.percentile(exact, 99), rel=1e-4)
    for i, row in enumerate(parts["labels"].values()):
        assert row["max_dcell"] == pytest.approx(exact[:, i].max(), rel=1e-4)


def test_the_cells_of_many_labels_are_never_held_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, crops = wide(64, 500)
    array = 64 * 49 * 500 * 4  # bytes of all cells of one side
    monkeypatch.setattr(tier_export.cells, "BLOCK", array // 4 // 16)
    tracemalloc.start()
    compare(one, other, [str(i) for i in range(500)], crops)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array


def test_thousands_of_labels_are_ranked_on_cells_of_every_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No column of the grid, and no image, decides for all."""
    one, other, crops = wide(64, 6)
    noise = unit(np.random.default_rng(1), 64, 7, 7, 8)
    monkeypatch.setattr(tier_export.cells, "BLOCK", 6 * 1000)  # of 3136 cells
    for where in ((slice(None), slice(None), slice(4)), (slice(32),)):
        patches = other.patches.copy()
        patches[where] = noise[where]  # about half of the cells
        wrong = scored(other.image, patches, one.score)
        exact = [
            spearmanr(cells(one)[:, i].ravel(), cells(wrong)[:, i].ravel()).statistic
            for i in range(6)
        ]
        rows = compare(one, wrong, [str(i) for i in range(6)], crops)["labels"].values()
        assert [row["cell_rank"] for row in rows] == pytest.approx(exact, abs=0.1)


def test_too_few_pairs_are_not_gated_and_counted(sides: Sides) -> None:
    crops = sides.phantoms
    few = Crops(crops.pixels[:40], {n: y[:40] for n, y in crops.truth.items()}, "few")
    same = sides.reference(few.pixels)
    found = compare(same, same, sides.labels, few)
    assert found["max_dauc"] is None
    for label, row in found["labels"].items():
        positives = int((few.truth[label] == 1).sum())
        assert row["pairs"] == positives * (40 - positives)
        assert row["auc"] is None
        assert row["rank"] is None  # 40 crops


def test_unknown_truth_is_left_out(sides: Sides) -> None:
    label, y = sides.labels[0], sides.phantoms.truth[sides.labels[0]].copy()
    y[::3] = np.nan
    after = sides.exported("fp16", sides.phantoms.pixels)
    row = compare(sides.right, after, sides.labels, replace(sides.phantoms, truth={label: y}))
    known = ~np.isnan(y)
    expected = roc_auc_score(y[known], after.scores[known, 0])
    assert row["labels"][label]["auc"][1] == pytest.approx(expected, abs=1e-12)


def test_tied_scores_do_not_flip_decisions(sides: Sides) -> None:
    one = sides.phantoms.pixels[:1]
    crops = Crops(np.concatenate([one, one]), {}, "one image twice")
    right = sides.reference(crops.pixels)
    off = replace(right, scores=right.scores + np.float32(1e-8))
    found: dict[str, Any] = compare(right, off, sides.labels, crops)
    assert found["flips"] == 0
