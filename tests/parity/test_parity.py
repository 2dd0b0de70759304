"""python -m pytest tests/parity -- PyTorch, ONNX fp32 and ONNX fp16 give the same answers.

On phantoms and on real crops (tests/data/nih), for embeddings, every heatmap cell, scores,
ranking, decisions and AUC; and faults planted on purpose must break the gate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.stats import spearmanr

from tests.conftest import DATA
from tier_export.crops import phantom_crops
from tier_export.export import half_encoder
from tier_export.members import members_of
from tier_export.parity import (
    GATES,
    Crops,
    Outputs,
    check,
    compare,
    numpy_score,
    onnx_encoder,
    onnx_query,
    outputs,
)
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.errors import ParityError
from tier_infer.geometry import GEOMETRIES, to_crop
from tier_infer.images import load_image
from tier_infer.label_sets import load_label_set
from tier_train.checkpoint import Checkpoint, load_checkpoint

PROOFS = ("fp32", "fp16", "fp16 half activations")


class Sides:
    """The trained checkpoint and its bundle, with what both give for two kinds of pictures."""

    def __init__(self, checkpoint: Checkpoint, bundle: Bundle, crops: dict[str, Crops]) -> None:
        self.checkpoint, self.bundle, self.crops = checkpoint, bundle, crops
        self.members = members_of([checkpoint])
        labels = load_label_set("chexpert")
        self.labels = [label.id for label in labels.labels]
        self.table = self.members.table(labels)
        self.query = bundle.query_graph("chexpert")
        self.encoders = {
            "torch": self.members.encode,
            "fp32": onnx_encoder(bundle.encoder("fp32")),
            "fp16": onnx_encoder(bundle.encoder("fp16")),
            "fp16 half activations": half_encoder(self.members),
        }

    def reference(self, pixels: NDArray[np.uint8]) -> Outputs:
        return outputs(self.encoders["torch"], numpy_score(self.table), pixels)

    def exported(self, proof: str, pixels: NDArray[np.uint8]) -> Outputs:
        return outputs(self.encoders[proof], onnx_query(self.query), pixels)


@pytest.fixture(scope="module")
def sides(site: Path) -> Sides:
    checkpoint = load_checkpoint(site / "ckpt.pt")
    geometry = GEOMETRIES[checkpoint.recipe.geometry]
    films = [load_image(p, checkpoint.intensity).grey for p in sorted((DATA / "nih").glob("*.jpg"))]
    real = Crops(np.stack([to_crop(film, geometry) for film in films]), {}, "NIH")
    crops = {"phantoms": phantom_crops(geometry, checkpoint.intensity), "real": real}
    return Sides(checkpoint, load_bundle(site / "bundle"), crops)


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
        assert set(found["dauc"]) == set(sides.labels)
    else:
        assert found["max_dauc"] is None  # no truth: not gated, and said so


@pytest.mark.parametrize("proof", PROOFS)
def test_ranking_agrees(sides: Sides, proof: str) -> None:
    pixels = sides.crops["phantoms"].pixels
    before, after = sides.reference(pixels).scores, sides.exported(proof, pixels).scores
    for column in range(before.shape[1]):
        assert spearmanr(before[:, column], after[:, column]).statistic > 0.9999


@pytest.mark.parametrize("proof", ["fp32", "fp16"])
@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_the_batch_does_not_matter(sides: Sides, proof: str, count: int) -> None:
    pixels = sides.crops["phantoms"].pixels[:32]
    whole = sides.exported(proof, pixels)
    part = sides.exported(proof, pixels[:count])
    np.testing.assert_allclose(part.scores, whole.scores[:count], atol=1e-6)
    np.testing.assert_allclose(part.cells, whole.cells[:count], atol=1e-5)


def test_extremes_are_finite(sides: Sides) -> None:
    side = sides.crops["phantoms"].pixels.shape[1]
    checkerboard = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = np.stack([np.zeros_like(checkerboard), np.full_like(checkerboard, 255), checkerboard])
    for proof in PROOFS:
        assert np.isfinite(sides.exported(proof, pixels).cells).all()


# Faults on purpose: each must be a breach, by name.


def broken(sides: Sides, proof: str, after: Outputs, precision: str = "fp32") -> str:
    crops = sides.crops["phantoms"]
    found = compare(sides.reference(crops.pixels), after, sides.labels, crops)
    with pytest.raises(ParityError) as caught:
        check(precision, proof, found)
    return str(caught.value)


def test_a_changed_mean_is_a_breach(sides: Sides) -> None:
    """The normalisation's shift, −mean / std, moved by half a grey level."""
    model = onnx.load_model_from_string(sides.bundle.encoder("fp32"))
    geometry = GEOMETRIES[sides.checkpoint.recipe.geometry]
    shift = -geometry.mean[0] / geometry.std[0]
    hits = [
        t
        for t in model.graph.initializer
        if np.prod(t.dims) == 1 and np.isclose(numpy_helper.to_array(t).item(), shift)
    ]
    assert hits, "the shift of the normalisation is not in the graph"
    for tensor in hits:
        moved = numpy_helper.to_array(tensor) + np.float32(0.5 / 255 / geometry.std[0])
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    pixels = sides.crops["phantoms"].pixels
    encode = onnx_encoder(model.SerializeToString())
    message = broken(sides, "changed mean", outputs(encode, onnx_query(sides.query), pixels))
    assert "score Z differs by" in message
    assert f"allowed {GATES['fp32']['max_dz']:g}" in message


def test_a_transposed_grid_is_a_breach(sides: Sides) -> None:
    """Global scores stay right: only the cells can tell."""
    right = sides.exported("fp32", sides.crops["phantoms"].pixels)
    turned = Outputs(
        right.image, right.patches.transpose(0, 2, 1, 3), right.scores,
        right.cells.transpose(0, 1, 3, 2),
    )  # fmt: skip
    message = broken(sides, "transposed grid", turned)
    assert "heatmap cell differs" in message
    assert "score Z" not in message


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_swapped_label_is_a_breach(sides: Sides, precision: str) -> None:
    model = onnx.load_model_from_string(sides.query)
    table = numpy_helper.to_array(model.graph.initializer[0]).copy()
    table[[0, 1]] = table[[1, 0]]
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    pixels = sides.crops["phantoms"].pixels
    swapped = outputs(sides.encoders["fp32"], onnx_query(model.SerializeToString()), pixels)
    assert "score Z" in broken(sides, "swapped label", swapped, precision)


def test_a_missing_cell_or_nan_is_a_breach(sides: Sides) -> None:
    crops = sides.crops["phantoms"]
    right = sides.exported("fp32", crops.pixels)
    short = Outputs(right.image, right.patches, right.scores, right.cells[..., :6])
    holed = Outputs(right.image, right.patches, right.scores * np.nan, right.cells)
    for wrong in (short, holed):
        with pytest.raises(ParityError):
            compare(right, wrong, sides.labels, crops)


def test_too_few_pairs_are_not_gated_and_counted(sides: Sides) -> None:
    crops = sides.crops["phantoms"]
    few = Crops(crops.pixels[:40], {n: y[:40] for n, y in crops.truth.items()}, "few")
    same = sides.reference(few.pixels)
    found = compare(same, same, sides.labels, few)
    assert found["max_dauc"] is None
    for label, pairs in found["auc_not_gated"].items():
        positives = int((few.truth[label] == 1).sum())
        assert pairs == positives * (40 - positives)


def test_a_collapsed_network_cannot_hide_behind_its_small_scores(sides: Sides) -> None:
    """Found in review: with Z within 1e-4 of each other a constant output was inside the gate."""
    crops = Crops(sides.crops["phantoms"].pixels, {}, "no truth")
    right = sides.reference(crops.pixels)
    small = Outputs(right.image, right.patches, right.scores * 1e-4, right.cells * 1e-4)
    flat = Outputs(right.image, right.patches, small.scores * 0, small.cells * 0)
    found = compare(small, flat, sides.labels, crops)
    with pytest.raises(ParityError, match="rank correlation"):
        check("fp16", "constant", found)


def test_tied_scores_do_not_flip_decisions(sides: Sides) -> None:
    one = sides.crops["phantoms"].pixels[:1]
    crops = Crops(np.concatenate([one, one]), {}, "one image twice")
    right = sides.reference(crops.pixels)
    off = Outputs(right.image, right.patches, right.scores + 1e-8, right.cells)
    assert compare(right, off, sides.labels, crops)["flips"] == 0
