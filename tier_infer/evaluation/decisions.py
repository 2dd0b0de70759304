"""Yes or no: thresholds chosen on validation scores, frozen, then counted on test.

The rule is that of TIER's released code (peers.md 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tier_infer.evaluation.bootstrap import Resamples
from tier_infer.metrics import binary, roc_counts

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Thresholds:
    """Each is the best for its figure; inf where no threshold does better than never saying yes."""

    mcc: float
    f1: float

    def decided(self, scores: ArrayLike, which: str) -> NDArray[np.bool_]:
        """bool [n], `score > t` by the threshold of `which`: mcc or f1. ValueError for scores not
        finite."""
        s = np.asarray(scores, np.float64)
        if not np.isfinite(s).all():
            raise ValueError("scores must be finite")
        return np.asarray(s > {"mcc": self.mcc, "f1": self.f1}[which])


def mcc(truth: ArrayLike, decided: ArrayLike) -> float:
    """Matthews' correlation in [−1, 1]; 0 where truth or decisions are all alike."""
    return float(_mcc(*_counts(truth, decided))[0])


def f1(truth: ArrayLike, decided: ArrayLike) -> float:
    """2 tp / (2 tp + fp + fn) in [0, 1]; 0 where nothing is positive and nothing was called so."""
    return float(_f1(*_counts(truth, decided))[0])


def best_thresholds(truth: ArrayLike, scores: ArrayLike) -> Thresholds:
    """The published choice on validation data: of the thresholds that scikit-learn's roc_curve
    gives, inf and then downwards, the first with the highest figure; yes is `score > t`. truth,
    scores: [n]. ValueError with one class.

    roc_curve keeps only the corners of the curve. Under `>` the threshold of a corner decides as
    the score above it does, so the best decision may be missed; published figures are like that.
    """
    fp, tp, thresholds = roc_counts(truth, scores)
    n_pos, n_neg = tp[-1], fp[-1]
    place = _corners(fp, tp)
    at = np.maximum(place - 1, 0)  # `> t` is `>=` the next higher score
    counts = [n.astype(np.float64) for n in (tp[at], fp[at], n_pos - tp[at], n_neg - fp[at])]
    of_mcc, of_f1 = (float(thresholds[place[np.argmax(f(*counts))]]) for f in (_mcc, _f1))
    return Thresholds(of_mcc, of_f1)


def decision_draws(
    truth: ArrayLike, decided: ArrayLike, resamples: Resamples, which: str
) -> Floats:
    """float64 [draws, L]: `which` (mcc, f1) of every label in every draw; NaN where a draw has one
    class only, as for the AUC.

    truth, decided: [n, L] of 1, 0 or NaN (unknown, not scored); such rows count for no draw.
    """
    y, d = np.asarray(truth, np.float64), np.asarray(decided, np.float64)
    if y.ndim != 2 or y.shape != d.shape or len(y) != len(resamples.member):
        raise ValueError(
            f"truth {y.shape} and decisions {d.shape} must be tables of "
            f"{len(resamples.member)} rows"
        )
    if not all((np.isin(table, (0, 1)) | np.isnan(table)).all() for table in (y, d)):
        raise ValueError("truth and decisions must be 1, 0 or unknown (NaN)")
    figure = FIGURES[which]
    parts = [((y == i) & (d == j)).astype(np.float64) for i, j in ((1, 1), (0, 1), (1, 0), (0, 0))]
    drawn = np.full((resamples.draws, y.shape[1]), np.nan)
    for draws, counts in resamples.blocks():
        weights = counts.astype(np.float64)  # exact: sums of integers far below 2^53
        tp, fp, fn, tn = (weights @ part for part in parts)
        both = (tp + fn > 0) & (fp + tn > 0)
        drawn[draws] = np.where(both, figure(tp, fp, fn, tn), np.nan)
    return drawn


def _corners(fp: NDArray[np.int64], tp: NDArray[np.int64]) -> NDArray[np.intp]:
    """Places that roc_curve keeps of [1 + distinct scores]: inf, the highest and lowest score, and
    where the step to the next score is another than the step from the last."""
    turns = (np.diff(fp[1:], 2) != 0) | (np.diff(tp[1:], 2) != 0)
    kept = np.ones(len(fp), bool)
    kept[2:-1] = turns
    return np.flatnonzero(kept)


def _counts(truth: ArrayLike, decided: ArrayLike) -> list[Floats]:
    """tp, fp, fn, tn, [1] each. truth, decided: [n] of 1 and 0."""
    y, d = binary(truth, decided)
    if not np.isin(d, (0, 1)).all():
        raise ValueError("decisions must be 1 or 0")
    yes = d == 1
    parts = (y & yes, ~y & yes, y & ~yes, ~y & ~yes)
    return [np.array([part.sum()], np.float64) for part in parts]


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """0 / 0 is 0, as scikit-learn has it."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _mcc(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    product = ((tp + fp) * (tn + fn)) * ((tp + fn) * (tn + fp))
    return _ratio(tp * tn - fp * fn, np.sqrt(product))


def _f1(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    return _ratio(2 * tp, 2 * tp + fp + fn)


FIGURES = {"mcc": _mcc, "f1": _f1}
