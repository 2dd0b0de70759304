"""Whether two models' areas differ on the same images: DeLong, DeLong and Clarke-Pearson,
Biometrics 44 (1988) 837-845, by mid-ranks (Sun and Xu, IEEE Signal Processing Letters 21 (2014)
1389-1393), and Holm's correction for several labels.

The variance takes images as independent. Where patients have several, it is too small and p too
low: quote the patient-clustered bootstrap beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tier_infer.metrics import both_classes


@dataclass(frozen=True)
class DeLong:
    auc_a: float
    auc_b: float
    se_a: float  # standard errors of the areas
    se_b: float
    covariance: float  # of the two areas
    z: float | None  # of auc_a − auc_b; None where both models order the images alike
    p: float  # two-sided; 1 where z is None


def delong(truth: ArrayLike, a: ArrayLike, b: ArrayLike) -> DeLong:
    """truth: [n] of 1 and 0; a, b: [n] finite scores of two models on the same images.

    ValueError without two images of each class, whose spread is what is measured; and where the
    areas differ but no image's placement varies (a perfect model against a constant one): there
    the estimated variance is 0 and no z exists.
    """
    y, first = both_classes(truth, a)
    _, second = both_classes(truth, b)
    n_pos, n_neg = int(y.sum()), int((~y).sum())
    if min(n_pos, n_neg) < 2:
        raise ValueError(f"{n_pos} positives and {n_neg} negatives; DeLong needs two of each")
    pos_a, neg_a = _wins(y, first)
    pos_b, neg_b = _wins(y, second)
    pairs = 2 * n_pos * n_neg

    def covariance(
        p: NDArray[np.int64], q: NDArray[np.int64], n: NDArray[np.int64], m: NDArray[np.int64]
    ) -> float:
        of_positives = _cov(p, q) / (2 * n_neg) ** 2 / n_pos
        return of_positives + _cov(n, m) / (2 * n_pos) ** 2 / n_neg

    auc_a, auc_b = int(pos_a.sum()) / pairs, int(pos_b.sum()) / pairs
    # The variance of the difference from the differences: three variances would leave a remainder
    # of rounding where it is 0, and a z of millions.
    of_difference = covariance(*[pos_a - pos_b] * 2, *[neg_a - neg_b] * 2)
    z = None
    if of_difference > 0:
        z = (auc_a - auc_b) / math.sqrt(of_difference)
    elif auc_a != auc_b:
        raise ValueError("the areas differ, but their difference has no variance; no test exists")
    return DeLong(
        auc_a,
        auc_b,
        math.sqrt(covariance(pos_a, pos_a, neg_a, neg_a)),
        math.sqrt(covariance(pos_b, pos_b, neg_b, neg_b)),
        covariance(pos_a, pos_b, neg_a, neg_b),
        z,
        1.0 if z is None else math.erfc(abs(z) / math.sqrt(2)),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p, in the order given (Holm, Scandinavian Journal of Statistics 6 (1979) 65-70): the
    k-th smallest of n times n − k + 1, never below a smaller one's, at most 1."""
    if not all(0 <= value <= 1 for value in p):
        raise ValueError("p must lie between 0 and 1")
    adjusted, highest = [0.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = highest
    return adjusted


def _wins(y: NDArray[np.bool_], s: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
    """Twice how many of the other class score lower than each positive [n_pos] and than each
    negative [n_neg], a tie counting half: integers, so that equal orders give equal numbers."""
    pos, neg = np.sort(s[y]), np.sort(s[~y])

    def below(of: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.int64]:
        left, right = (np.searchsorted(among, of, side=side) for side in ("left", "right"))
        return np.asarray(left + right, np.int64)

    return below(s[y], neg), below(s[~y], pos)


def _cov(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return float(((a - a.mean()) * (b - b.mean())).sum() / (len(a) - 1))
