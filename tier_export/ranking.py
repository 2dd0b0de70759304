"""How two sides decide: flips at a threshold. How they rank: tier_infer.evaluation.ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.evaluation.ranking import middle_gap

Floats = NDArray[np.float32]


def decisions(before: Floats, after: Floats, threshold: float | None) -> dict[str, Any]:
    """Flips of one label [N], at the threshold given, else in the widest gap between the 40th and
    the 60th percentile, which may lie away from the median; max_dz tells of other thresholds."""
    if threshold is None:
        threshold = middle_gap(before)
    if threshold is None:
        return {"threshold": None, "flips": 0}
    return {
        "threshold": threshold,
        "flips": int(((before > threshold) != (after > threshold)).sum()),
    }
