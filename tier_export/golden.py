"""Golden vectors for the bundle: a few phantoms, and what PyTorch in float32 makes of them.

Always phantoms, also when parity is measured on the user's radiographs: those never leave with a
bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from tier_export.crops import phantom_crops
from tier_export.members import Members
from tier_export.parity import Crops, Floats
from tier_infer.bundle import sha256
from tier_infer.engine import open_session, run_encoder
from tier_infer.errors import ParityError
from tier_infer.golden import GOLDEN_GATES, INT8_CEILING, Golden, SetScores, golden_files

COUNT = 6  # at 224 x 224 pixels 0.3 MB of crops and 0.15 MB of embeddings
ROOM = 1.25


def make_golden(
    members: Members,
    tables: Mapping[str, Floats],
    queries: Mapping[str, bytes],
    int8: bytes | None = None,
) -> dict[str, bytes]:
    """path in the bundle → bytes; of each label set its table [L, D] and its query graph.

    `int8` is the quantised encoder, for a bundle that holds one; ParityError where it moves the
    vectors further than any replay may allow.
    """
    crops = phantom_crops(members.geometry, members.networks[0].intensity, COUNT)
    image, patches = members.encode(crops.pixels)
    expected = {
        set_id: SetScores(sha256(queries[set_id]), image @ table.T)
        for set_id, table in tables.items()
    }
    gates = dict(GOLDEN_GATES)
    if int8 is not None:
        gates["int8"] = _observed(int8, crops, image, patches, list(tables.values()))
    source = f"{crops.source}, torch {torch.__version__} fp32"
    return golden_files(Golden(crops.pixels, image, patches, expected, gates, source))


def _observed(
    graph: bytes, crops: Crops, image: Floats, patches: Floats, tables: Sequence[Floats]
) -> dict[str, float]:
    """The gates of a quantised encoder: what it shows here, times ROOM, rounded up.

    No fixed number fits, because each network has steps of its own. Where a value lies between two
    steps, another processor or another onnxruntime may round it the other way; so the graph is
    computed in two ways, fused into integer operators and one by one in floats, and the worse
    counts.
    """
    dz, dcell = 0.0, 0.0
    for session in (open_session(graph, "cpu"), open_session(graph, "cpu", fused=False)):
        found = run_encoder(session, crops.pixels)
        d = found.image - image
        dz = max([dz, np.abs(d).max(), *(np.abs(d @ table.T).max() for table in tables)])
        dcell = max(dcell, np.abs(found.patches - patches).max())
    gate = {"max_dz": _rounded_up(ROOM * dz), "max_dcell": _rounded_up(ROOM * dcell)}
    for key, most in INT8_CEILING.items():
        if gate[key] > most:
            raise ParityError(
                f"int8: the golden vectors would need the gate {key} {gate[key]:g}, at most "
                f"{most:g} is allowed; leave --int8 out"
            )
    return gate


def _rounded_up(value: float) -> float:
    """To two digits, so that PyTorch's last bit, which differs from run to run, rarely shows."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    return round(math.ceil(value / digit) * digit, 12)
