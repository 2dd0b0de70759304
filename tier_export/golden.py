"""Golden vectors for the bundle: a few phantoms, and what PyTorch in float32 makes of them.

Always phantoms, also when parity is measured on the user's radiographs: those never leave with a
bundle.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tier_export.crops import phantom_crops
from tier_export.members import Members
from tier_export.parity import GATES, Floats
from tier_infer.bundle import sha256
from tier_infer.golden import Golden, SetScores, golden_files

COUNT = 6  # at 224 x 224 pixels 0.3 MB of crops and 0.15 MB of embeddings


def make_golden(
    members: Members, tables: Mapping[str, Floats], queries: Mapping[str, bytes]
) -> dict[str, bytes]:
    """path in the bundle → bytes; of each label set its table [L, D] and its query graph."""
    crops = phantom_crops(members.geometry, members.networks[0].intensity, COUNT)
    image, patches = members.encode(crops.pixels)
    expected = {
        set_id: SetScores(sha256(queries[set_id]), image @ table.T)
        for set_id, table in tables.items()
    }
    gates = {
        precision: {key: float(gate[key]) for key in ("max_dz", "max_dcell")}
        for precision, gate in GATES.items()
    }
    source = f"{crops.source}, torch {torch.__version__} fp32"
    return golden_files(Golden(crops.pixels, image, patches, expected, gates, source))
