"""How alike two sides rank and decide: Spearman's ρ, and flips at a threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def rank_correlation(a: Floats, b: Floats) -> float | None:
    """Spearman's ρ of two [N] arrays, ties by mid-rank; 0 when only `b` is constant.

    None when `a` is constant: it ranks nothing that `b` could have kept.
    """
    ranks = [mid_ranks(x) for x in (a, b)]
    if not len(a) or np.ptp(ranks[0]) == 0:
        return None
    if np.ptp(ranks[1]) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def middle_gap(scores: Floats) -> float | None:
    """[N] → a threshold in the widest gap between the 40th and the 60th percentile; None where all
    of these are equal.

    Between two scores that are nearly tied a difference of 1e-8 would count as a flip. So this is
    where decisions hold most easily: no flip here says nothing of other thresholds.
    """
    ordered = np.sort(scores.astype(np.float64))
    around = ordered[len(ordered) * 2 // 5 : len(ordered) * 3 // 5 + 1]
    gaps = np.diff(around)
    if not len(gaps) or not gaps.max() > 0:
        return None
    at = int(gaps.argmax())
    return float((around[at] + around[at + 1]) / 2)


def mid_ranks(values: Floats) -> NDArray[np.float64]:
    """1-based, averaged over ties."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
