"""Areas under the ROC curve and their intervals, in numpy: the runtime carries no scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def roc_auc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve = P(positive scores higher) + half of P(tie). NaN with one class.

    truth: [n] of 0/1. scores: [n] finite. Ranks are averaged over ties, as scikit-learn does.
    """
    known = np.asarray(truth)
    s = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(s).all():
        raise ValueError("scores must be finite")
    if not np.isin(known, (0, 1)).all():
        raise ValueError("truth must be 1 or 0; leave unknown cases out")
    y = known.astype(bool)
    n_pos, n_neg = int(y.sum()), int((~y).sum())
    if n_pos == 0 or n_neg == 0:
        return float("nan")
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[inverse]  # 1-based mid-rank
    return float((rank[y].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def bootstrap_auc(
    truth: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the AUC over resampled groups (patients); images are the default.

    Resamples with one class only are dropped. Returns (nan, nan) when fewer than half remain.
    """
    y = np.asarray(truth)
    s = np.asarray(scores, dtype=np.float64)
    if draws < 1 or not len(y):
        return float("nan"), float("nan")
    names = np.arange(len(y)) if groups is None else np.asarray(groups)
    _, member = np.unique(names, return_inverse=True)
    rows_of: list[NDArray[np.intp]] = [np.flatnonzero(member == g) for g in range(member.max() + 1)]
    rng = np.random.default_rng(seed)
    areas = []
    for _ in range(draws):
        chosen = rng.integers(0, len(rows_of), len(rows_of))
        rows = np.concatenate([rows_of[g] for g in chosen])
        area = roc_auc(y[rows], s[rows])
        if not np.isnan(area):
            areas.append(area)
    if len(areas) < draws / 2:
        return float("nan"), float("nan")
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)
