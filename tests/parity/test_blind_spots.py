"""python -m pytest tests/parity/test_blind_spots.py -- what passed the gates before.

AUC and ranking see no scale and no heatmap; few images, or equal ones, show no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.parity.sides import Sides
from tier_export.fp16 import to_fp16
from tier_export.heads import Floats, TableScore
from tier_export.parity import Crops, Outputs, breaches, check, compare
from tier_infer.errors import ParityError, UsageError
from tier_infer.evaluation.ranking import rank_correlation


def judged(sides: Sides, precision: str, after: Outputs) -> list[str]:
    return breaches(precision, compare(sides.right, after, sides.labels, sides.phantoms))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_embedding_that_lost_its_norm(sides: Sides, precision: str) -> None:
    tenfold = replace(sides.right, image=sides.right.image * 10, scores=sides.right.scores * 10)
    words = judged(sides, precision, tenfold)
    assert words[0] == "the norm of an embedding is off 1 by 9, allowed 0.001"
    patches = sides.right.patches.copy()
    patches[7, 0, 0] *= np.float32(0.998)  # one patch of one image
    (first, *_) = judged(sides, precision, replace(sides.right, patches=patches))
    assert first == "the norm of an embedding is off 1 by 0.002, allowed 0.001"
    patches[7, 0, 0] /= np.float32(0.9985)
    assert judged(sides, "int8", replace(sides.right, patches=patches)) == []


def noise(patches: Floats) -> Floats:
    drawn = np.random.default_rng(0).standard_normal(patches.shape).astype(np.float32)
    found: Floats = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    return found


WRONG: dict[str, Callable[[Floats], Floats]] = {
    "noise": noise,
    "one patch everywhere": lambda patches: np.broadcast_to(patches[:1, :1, :1], patches.shape),
    "of another image": lambda patches: np.roll(patches, 1, axis=0),
    "moved by one cell": lambda patches: np.roll(patches, 1, axis=1),
    "transposed": lambda patches: patches.transpose(0, 2, 1, 3),
    "upside down": lambda patches: patches[:, ::-1],
}


@pytest.mark.parametrize("fault", WRONG)
def test_int8_a_wrong_heatmap_beside_right_scores(sides: Sides, fault: str) -> None:
    wrong = np.ascontiguousarray(WRONG[fault](sides.right.patches))
    (words,) = judged(sides, "int8", replace(sides.right, patches=wrong))
    assert words.startswith("rank correlation of heatmap cells is ")
    assert words.endswith("), allowed 0.98")
    assert judged(sides, "int8", sides.exported("fp16", sides.phantoms.pixels)) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_reference_that_ranks_nothing_proves_nothing(sides: Sides, precision: str) -> None:
    assert rank_correlation(np.ones(5, np.float32), np.arange(5, dtype=np.float32)) is None
    assert rank_correlation(np.arange(5, dtype=np.float32), np.ones(5, np.float32)) == 0
    flat = replace(sides.right, scores=sides.right.scores * 0)
    unknown = replace(sides.phantoms, truth={})
    found = compare(flat, flat, sides.labels, unknown)
    assert found["min_rank"] is None
    with pytest.raises(
        UsageError, match=rf"^{precision} can't be proven for .* on 320 images: .* all of them one"
    ):
        check(precision, "here", found)


def test_int8_is_not_granted_where_all_heatmap_cells_are_equal(sides: Sides) -> None:
    flat = replace(sides.right, score=TableScore(sides.table * 0))
    found = compare(flat, flat, sides.labels, sides.phantoms)
    assert found["min_cell_rank"] is None
    with pytest.raises(UsageError, match="gives all heatmap cells one value; name more with --da"):
        check("int8", "here", found)
    check("fp16", "here", found)  # whose cells have a gate of their own


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_few_images_and_scores_that_hardly_differ(sides: Sides, precision: str) -> None:
    """A collapsed network: a constant is within max_dz, and 3 images rank nothing."""
    few = Crops(sides.phantoms.pixels[:3], {}, "three")
    small = np.float32(4e-6 / np.ptp(sides.right.scores[:3], axis=0).max())
    right = Outputs(
        sides.right.image[:3], sides.right.patches[:3], sides.right.scores[:3] * small,
        sides.right.score,
    )  # fmt: skip
    flat = replace(right, scores=np.broadcast_to(right.scores.mean(0), right.scores.shape))
    found = compare(right, flat, sides.labels, few)
    found["flips"] = 0  # a constant may fall on the side of a threshold where nobody was
    (words,) = breaches(precision, found)
    assert words.startswith("score Z differs by 0.")
    assert "of what it spans on 3 images (" in words
    assert words.endswith("), allowed 0.1 where neither AUC nor ranking is gated")
    near = replace(right, scores=right.scores + np.ptp(right.scores, axis=0) * np.float32(0.05))
    found = compare(right, near, sides.labels, few) | {"flips": 0}
    assert breaches(precision, found) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_one_image_proves_nothing(sides: Sides, precision: str) -> None:
    one = Crops(sides.phantoms.pixels[:1], {}, "one")
    right = sides.reference(one.pixels)
    with pytest.raises(
        UsageError, match=rf"^{precision} can't be proven for .* on 1 images: .*--dataset, or none"
    ):
        check(precision, "here", compare(right, right, sides.labels, one))


def test_fp16_a_weight_beyond_half(sides: Sides) -> None:
    model = onnx.load_model_from_string(sides.bundle.encoder("fp32"))
    last = [node.input[1] for node in model.graph.node if node.op_type == "Conv"][-1]
    tensor = next(t for t in model.graph.initializer if t.name == last)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = -1e6
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(
        ParityError, match=r"a weight of 1e\+06, beyond the 65504 of half .* leave --fp16 out"
    ):
        to_fp16(model)


def test_fp16_an_operator_that_nobody_measured(sides: Sides) -> None:
    model = onnx.load_model_from_string(sides.bundle.encoder("fp32"))
    relus = [node for node in model.graph.node if node.op_type == "Relu"]
    relus[len(relus) // 2].op_type = "Softplus"
    with pytest.raises(UsageError, match=r"the encoder holds Softplus, .*leave --fp16 out"):
        to_fp16(model)
