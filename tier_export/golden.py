"""Golden vectors for the bundle: a few phantoms, and what PyTorch in float32 makes of them.

Always phantoms, also when parity is measured on the user's radiographs: those never leave with a
bundle.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tier_export.crops import phantom_crops
from tier_export.golden_gate import int8_gate
from tier_export.heads import Score
from tier_export.members import Members
from tier_infer.bundle import sha256
from tier_infer.golden import GOLDEN_GATES, Golden, SetScores, golden_files

COUNT = 6  # at 224 x 224 pixels 0.3 MB of crops and 0.15 MB of embeddings


def make_golden(
    members: Members,
    scores: Mapping[str, Score],
    queries: Mapping[str, bytes],
    int8: bytes | None = None,
) -> dict[str, bytes]:
    """path in the bundle → bytes; of each label set what PyTorch scores with, and its query graph.

    `int8` is the quantised encoder, for a bundle that holds one; ParityError where it moves the
    vectors further than any replay may allow.
    """
    crops = phantom_crops(members.geometry, members.networks[0].intensity, COUNT)
    image, patches = members.encode(crops.pixels)
    expected = {
        set_id: SetScores(sha256(queries[set_id]), score.images(image, patches))
        for set_id, score in scores.items()
    }
    gates = dict(GOLDEN_GATES)
    if int8 is not None:
        gates["int8"] = int8_gate(int8, crops.pixels, image, patches, list(scores.values()))
    source = f"{crops.source}, torch {torch.__version__} fp32"
    return golden_files(Golden(crops.pixels, image, patches, expected, gates, source))
