"""Golden vectors for the bundle: a few phantoms, and what PyTorch in float32 makes of them.

Always phantoms, also when parity is measured on the user's radiographs: those never leave with a
bundle.
"""

from __future__ import annotations

import torch

from tier_export.crops import phantom_crops
from tier_export.parity import GATES, Encode, Score
from tier_infer.bundle import sha256
from tier_infer.golden import Golden, SetScores, golden_files
from tier_train.checkpoint import Checkpoint

COUNT = 6  # at 224 x 224 pixels 0.3 MB of crops and 0.15 MB of embeddings


def make_golden(
    checkpoint: Checkpoint, encode: Encode, scores: dict[str, tuple[bytes, Score]]
) -> dict[str, bytes]:
    """path in the bundle → bytes; `scores`: label set → its query graph and PyTorch's own Z."""
    crops = phantom_crops(checkpoint, COUNT)
    image, patches = encode(crops.pixels)
    expected = {
        set_id: SetScores(sha256(graph), score(image)) for set_id, (graph, score) in scores.items()
    }
    gates = {
        precision: {key: float(gate[key]) for key in ("max_dz", "max_dcell")}
        for precision, gate in GATES.items()
    }
    source = f"{crops.source}, torch {torch.__version__} fp32"
    return golden_files(Golden(crops.pixels, image, patches, expected, gates, source))
