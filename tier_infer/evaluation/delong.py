"""Whether two models' areas differ on the same images: DeLong, DeLong and Clarke-Pearson,
Biometrics 44 (1988) 837-845, by mid-ranks (Sun and Xu, IEEE Signal Processing Letters 21 (2014)
1389-1393), and Holm's correction for several labels.

The variance takes images as independent. Where patients have several, it is too small and p too
low: quote the patient-clustered bootstrap beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tier_infer.metrics import both_classes


def delong(truth: ArrayLike, a: ArrayLike, b: ArrayLike) -> tuple[float | None, float]:
    """z of AUC(a) − AUC(b), None where both order the images alike, and its two-sided p, then 1.

    truth: [n] of 1 and 0; a, b: [n] finite scores of two models on the same images.
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
    # The variance of the difference from the differences: three variances would leave a remainder
    # of rounding where it is 0, and a z of millions.
    positives, negatives = pos_a - pos_b, neg_a - neg_b
    variance = _variance(positives) / (2 * n_neg) ** 2 / n_pos
    variance += _variance(negatives) / (2 * n_pos) ** 2 / n_neg
    difference = int(positives.sum()) / (2 * n_pos * n_neg)
    if variance > 0:
        z = difference / math.sqrt(variance)
        return z, math.erfc(abs(z) / math.sqrt(2))
    if difference:
        raise ValueError("the areas differ, but their difference has no variance; no test exists")
    return None, 1.0


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


def _variance(a: NDArray[np.int64]) -> float:
    return float(((a - a.mean()) ** 2).sum() / (len(a) - 1))
