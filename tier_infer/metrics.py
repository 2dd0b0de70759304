"""ROC curves, the areas under them and their intervals, in numpy: the runtime carries no
scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tier_infer.evaluation.bootstrap import auc_draws, interval, resample

Floats = NDArray[np.float64]


def binary(truth: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """bool [n] and float64 [n], or ValueError: truth is 1 or 0, scores are finite, both as long."""
    known = np.asarray(truth)
    s = np.asarray(scores, dtype=np.float64)
    if known.ndim != 1 or known.shape != s.shape:
        raise ValueError(f"truth {known.shape} and scores {s.shape} must be two lists as long")
    if not np.isfinite(s).all():
        raise ValueError("scores must be finite")
    if not np.isin(known, (0, 1)).all():
        raise ValueError("truth must be 1 or 0; leave unknown cases out")
    return known.astype(bool), s


def both_classes(truth: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """As `binary`; ValueError where only one class is there."""
    y, s = binary(truth, scores)
    if y.all() or not y.any():
        raise ValueError(f"{y.sum()} of {len(y)} cases are positive; both classes are needed")
    return y, s


def roc_auc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve = P(positive scores higher) + half of P(tie). NaN with one class.

    truth: [n] of 0/1. scores: [n] finite. Ranks are averaged over ties, as scikit-learn does.
    """
    y, s = binary(truth, scores)
    n_pos, n_neg = int(y.sum()), int((~y).sum())
    if n_pos == 0 or n_neg == 0:
        return float("nan")
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[inverse]  # 1-based mid-rank
    return float((rank[y].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def roc_counts(
    truth: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """False and true positives of `score >= t`, and t: inf, then every distinct score downwards.

    [1 + distinct scores] each. ValueError with one class.
    """
    y, s = both_classes(truth, scores)
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    last = np.append(np.flatnonzero(s[1:] != s[:-1]), len(s) - 1)  # of every distinct score
    tp = np.cumsum(y, dtype=np.int64)[last]
    fp = last + 1 - tp
    return np.append(0, fp), np.append(0, tp), np.append(np.inf, s[last])


def roc_curve(truth: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False and true positive rate of `score >= t`, and t, as scikit-learn's roc_curve gives them
    with drop_intermediate=False: from (0, 0) at t = inf to (1, 1). ValueError with one class."""
    fp, tp, thresholds = roc_counts(truth, scores)
    return fp / fp[-1], tp / tp[-1], thresholds


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
    y, s = binary(truth, scores)
    names = [""] * len(y) if groups is None else [str(g) for g in np.asarray(groups).tolist()]
    areas = auc_draws(y[:, None], s[:, None], resample(names, max(draws, 0), seed))
    return interval(areas[:, 0]) or (float("nan"), float("nan"))
