"""A score made a probability, and how well probabilities agree with what is found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tier_infer.metrics import binary, both_classes

Floats = NDArray[np.float64]
Z95 = 1.959963984540054  # two-sided 95 % of a normal variable
STEPS = 100  # Newton's method needs about ten


@dataclass(frozen=True)
class Platt:
    """probability = 1 / (1 + exp(−(scale · score + bias)))"""

    scale: float  # below 0 where higher scores were found to mean less disease
    bias: float

    def apply(self, scores: ArrayLike) -> Floats:
        """float64 in [0, 1], as many. ValueError for scores that are not finite."""
        s = np.asarray(scores, np.float64)
        if not np.isfinite(s).all():
            raise ValueError("scores must be finite")
        return _sigmoid(self.scale * s + self.bias)


@dataclass(frozen=True)
class Bin:
    low: float  # of probability; a value on an edge belongs to the bin below it
    high: float
    n: int  # > 0
    mean_p: float
    rate: float  # of positives, with Wilson's 95 % interval
    rate_low: float
    rate_high: float


def fit_platt(truth: ArrayLike, scores: ArrayLike) -> Platt:
    """Logistic regression of truth on the score, without penalty. truth, scores: [n].

    Where one threshold separates the classes no finite maximum exists. Only there the targets are
    Platt's (1999, section 2.2): (n_pos + 1) / (n_pos + 2) and 1 / (n_neg + 2), not 1 and 0.
    ValueError with one class, and for scores that are all equal: they say nothing.
    """
    y, s = both_classes(truth, scores)
    if s.min() == s.max():
        raise ValueError("the scores are all equal; nothing can be fitted to them")
    center, spread = s.mean(), s.std()
    x = (s - center) / spread
    target = y.astype(np.float64)
    if x[y].min() >= x[~y].max() or x[~y].min() >= x[y].max():
        n_pos, n_neg = y.sum(), (~y).sum()
        target = np.where(y, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2))
    scale, bias = _newton(x, target)
    return Platt(float(scale / spread), float(bias - scale * center / spread))


def brier(truth: ArrayLike, p: ArrayLike) -> float:
    """Mean squared distance of p from truth, in [0, 1]. [n] each; ValueError for none."""
    y, probability = _probabilities(truth, p)
    return float(np.mean((probability - y) ** 2))


def ece(truth: ArrayLike, p: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: mean over cases of |mean p − rate| of the bin they fall in."""
    found = reliability(truth, p, bins)
    return sum(b.n * abs(b.mean_p - b.rate) for b in found) / sum(b.n for b in found)


def reliability(truth: ArrayLike, p: ArrayLike, bins: int = 15) -> list[Bin]:
    """Of `bins` equal parts of [0, 1] those that hold a case, upwards."""
    y, probability = _probabilities(truth, p)
    if bins < 1:
        raise ValueError(f"{bins} bins were asked for; 1 or more are possible")
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], probability)
    out = []
    for k in np.unique(place):
        chosen = place == k
        n, positives = int(chosen.sum()), int(y[chosen].sum())
        mean_p = float(probability[chosen].mean())
        low, high = float(edges[k]), float(edges[k + 1])
        out.append(Bin(low, high, n, mean_p, positives / n, *wilson(positives, n)))
    return out


def wilson(positives: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate, never beyond [0, 1]; n > 0. Wilson, JASA 22 (1927) 209-212."""
    if not 0 <= positives <= n or n < 1:
        raise ValueError(f"{positives} of {n} is no rate")
    return wilson_of(positives / n, n)


def wilson_of(rate: float, n: int) -> tuple[float, float]:
    """The same of a rate in [0, 1], whose variance is rate · (1 − rate) / n."""
    z2 = Z95**2
    center = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (max(0.0, center - half) if rate > 0 else 0.0), (
        min(1.0, center + half) if rate < 1 else 1.0
    )


def _probabilities(truth: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    y, probability = binary(truth, p)
    if not len(y):
        raise ValueError("there is no case")
    if ((probability < 0) | (probability > 1)).any():
        raise ValueError("probabilities must lie between 0 and 1; fit a calibration to scores")
    return y, probability


def _sigmoid(t: Floats) -> Floats:
    small = np.exp(-np.abs(t))  # never overflows
    return np.asarray(np.where(t >= 0, 1, small) / (1 + small))


def _newton(x: Floats, target: Floats) -> tuple[float, float]:
    """Scale and bias of the highest likelihood; x: [n] of mean 0 and spread 1."""
    rate = target.mean()
    scale, bias = 0.0, math.log(rate / (1 - rate))

    def loss(a: float, b: float) -> float:
        return float(np.sum(np.logaddexp(0, a * x + b) - target * (a * x + b)))

    for _ in range(STEPS):
        p = _sigmoid(scale * x + bias)
        error, weight = p - target, p * (1 - p)
        gradient = np.array([error @ x, error.sum()])
        cross = weight @ x
        hessian = np.array([[weight @ (x * x), cross], [cross, weight.sum()]])
        step = np.linalg.solve(hessian, gradient)
        gain = gradient @ step  # twice what a full step is expected to gain
        size = 1.0
        while gain > 1e-8 and loss(scale - size * step[0], bias - size * step[1]) > loss(
            scale, bias
        ):
            size /= 2  # far away a full step may overshoot; near by only rounding would say so
        scale, bias = scale - size * step[0], bias - size * step[1]
        if gain < 1e-15:  # the step taken has squared it
            return scale, bias
    raise ValueError(f"the fit did not settle in {STEPS} steps; are the scores all but equal?")
