"""python -m pytest tests/export/test_average_sets.py -- an average is judged on every label set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import tier_export.export
from tests.export.kin import saved, shuffled
from tier_export.average import average_of
from tier_export.crops import phantom_crops
from tier_export.export import Wish, build
from tier_export.parity import Crops
from tier_infer.errors import ParityError
from tier_infer.label_sets import load_label_set, parse_label_set
from tier_train.checkpoint import load_checkpoint

LUNGS = {
    "set": "lungs",
    "label": [
        {"id": "wet", "positive": ["Edema is present."], "negative": ["The lungs are clear."]}
    ],
}


def test_a_second_set_that_the_average_lost(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth of the first is what the average itself says, so there it beats its members."""
    own = load_checkpoint(site / "ckpt.pt")
    members = average_of([own, saved(shuffled(own, 1), tmp_path / "twin.pt")])
    lungs, chexpert = parse_label_set(LUNGS, "lungs"), load_label_set("chexpert")
    crops = phantom_crops(members.geometry, own.intensity)
    z = members.encode(crops.pixels)[0] @ members.table(lungs)[0]
    truth = crops.truth | {"wet": (z > np.median(z)).astype(np.float32)}
    monkeypatch.setattr(
        tier_export.export, "encoder_graph",
        lambda *_: onnx.load(str(site / "bundle/image_encoder.onnx")),
    )  # fmt: skip
    with pytest.raises(
        ParityError, match=r"^the average of 2 checkpoints is not what they are in set chexpert: "
    ):
        build(members, [lungs, chexpert], Crops(crops.pixels, truth, "x"), Wish(), lambda _: None)
