"""The gate that a quantised encoder's golden vectors are replayed at. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tier_export.heads import Floats, Score
from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.errors import ParityError
from tier_infer.golden import INT8_CEILING, Golden
from tier_infer.sessions import open_session, run_encoder

ROOM = 1.25


def int8_gate(
    graph: bytes,
    crops: NDArray[np.uint8],
    image: Floats,
    patches: Floats,
    scores: Sequence[Score],
) -> dict[str, float]:
    """What it shows on `crops` against PyTorch's `image` [N, D] and `patches` [N, g, g, D], times
    ROOM, rounded up; ParityError above the ceiling.

    No fixed number fits, because each network has steps of its own. Where a value lies between two
    steps, another processor or another onnxruntime may round it the other way; so the graph is
    computed in two ways, fused into integer operators and one by one in floats, and the worse
    counts.
    """
    dz, dcell = 0.0, 0.0
    for session in (open_session(graph, "cpu"), open_session(graph, "cpu", fused=False)):
        found = run_encoder(session, crops)
        both = ((found.image, found.patches), (image, patches))
        pairs = [[score.images(*side) for side in both] for score in scores]
        dz = max([dz, *(float(np.abs(a - b).max()) for a, b in [(found.image, image), *pairs])])
        dcell = max(dcell, float(np.abs(found.patches - patches).max()))
    gate = {"max_dz": _rounded_up(ROOM * dz), "max_dcell": _rounded_up(ROOM * dcell)}
    for key, most in INT8_CEILING.items():
        if gate[key] > most:
            raise ParityError(
                f"int8: the golden vectors would need the gate {key} {gate[key]:g}, at most "
                f"{most:g} is allowed; leave --int8 out"
            )
    return gate


def widened(bundle: Bundle, golden: Golden, pooled: Sequence[Score]) -> dict[str, dict[str, float]]:
    """The gates of a bundle that gets `pooled` sets. That of INT8 is what the sets of the export
    showed, and patches move further than an image's embedding."""
    if "int8" not in golden.gates or ENCODERS["int8"] not in bundle.manifest.files or not pooled:
        return golden.gates
    was = golden.gates["int8"]
    graph = bundle.encoder("int8")
    found = int8_gate(graph, golden.crops, golden.image, golden.patches, pooled)
    return golden.gates | {"int8": {key: max(was[key], found[key]) for key in was}}


def _rounded_up(value: float) -> float:
    """To two digits, so that PyTorch's last bit, which differs from run to run, rarely shows."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    return round(math.ceil(value / digit) * digit, 12)
