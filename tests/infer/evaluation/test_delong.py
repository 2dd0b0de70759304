"""python -m pytest tests/infer/evaluation/test_delong.py -- DeLong against its definition."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from tier_infer.evaluation.delong import delong, holm
from tier_infer.metrics import roc_auc

Floats = NDArray[np.float64]


def literal(truth: Floats, *models: Floats) -> tuple[list[float], Floats]:
    """Areas and their covariance matrix, pair by pair: equations 3 to 6 of DeLong 1988."""
    m, n = int(truth.sum()), int((1 - truth).sum())
    psi = [
        np.array([[(x > y) + 0.5 * (x == y) for y in s[truth == 0]] for x in s[truth == 1]])
        for s in models
    ]
    theta = [p.mean() for p in psi]
    s10, s01 = np.zeros((2, 2)), np.zeros((2, 2))
    for r, s in product(range(2), range(2)):
        for i in range(m):
            s10[r, s] += (psi[r][i].mean() - theta[r]) * (psi[s][i].mean() - theta[s]) / (m - 1)
        for j in range(n):
            of_r, of_s = psi[r][:, j].mean(), psi[s][:, j].mean()
            s01[r, s] += (of_r - theta[r]) * (of_s - theta[s]) / (n - 1)
    return [float(t) for t in theta], s10 / m + s01 / n


@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_placement_values(seed: int, levels: int) -> None:
    rng = np.random.default_rng([seed, levels])
    truth = np.append([0.0, 0, 1, 1], rng.integers(0, 2, 36))
    a = np.floor(levels * (rng.random(40) + 0.4 * truth))
    b = np.floor(levels * (rng.random(40) + 0.1 * truth)) + 0.5 * a
    (area_a, area_b), covariance = literal(truth, a, b)
    z = (area_a - area_b) / math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = delong(truth, a, b)
    assert (area_a, area_b) == pytest.approx((roc_auc(truth, a), roc_auc(truth, b)), abs=1e-12)
    assert found[0] == pytest.approx(z, abs=1e-9)
    normal = pytest.importorskip("scipy.stats").norm
    assert found[1] == pytest.approx(2 * normal.sf(abs(z)), abs=1e-9)


def test_models_exchanged_change_the_sign_only() -> None:
    rng = np.random.default_rng(8)
    truth, a, b = rng.integers(0, 2, 50), rng.random(50), rng.random(50)
    there, back = delong(truth, a, b), delong(truth, b, a)
    assert there[0] is not None
    assert back == (-there[0], there[1])


def test_under_the_null_p_is_uniform() -> None:
    """Two models equally good: p below 5 % in 5 % of the samples."""
    p = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        truth = np.arange(100) < 40
        common = rng.standard_normal(100) + truth
        p.append(delong(truth, *(common + rng.standard_normal((2, 100))))[1])
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09  # one standard error is 1.1 %
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_order_is_no_difference(seed: int) -> None:
    """The three variances cancel only to rounding; z would be noise over noise."""
    rng = np.random.default_rng(seed)
    truth, scores = np.append([0, 0, 1, 1], rng.integers(0, 2, 93)), rng.random(97)
    assert delong(truth, scores, np.exp(3 * scores)) == (None, 1.0)


def test_constant_scores() -> None:
    assert delong([0, 1, 0, 1], np.zeros(4), np.ones(4)) == (None, 1.0)


def test_a_difference_without_variance_is_refused() -> None:
    """Perfect against constant: 1.0 and 0.5 in every placement; z would be infinite."""
    with pytest.raises(ValueError, match="no variance"):
        delong([0, 0, 1, 1], [0, 1, 2, 3], [5, 5, 5, 5])


@pytest.mark.parametrize("truth", [[0, 0, 0], [1, 1, 1], [], [1]])
def test_one_class_is_refused(truth: list[int]) -> None:
    with pytest.raises(ValueError, match="both classes"):
        delong(truth, np.arange(len(truth)), np.arange(len(truth)))


def test_a_single_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="two of each"):
        delong([1, 0, 0], [1, 2, 3], [3, 2, 1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        delong([1, 1, 0, 0], [1, 2, 3, 4], [1, 2, 3, bad])


def test_truth_that_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        delong([1, 1, 0, math.nan], [1, 2, 3, 4], [1, 2, 3, 4])


def test_holm_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04; the last may not fall below .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7, 1.0]) == [1, 1, 1]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]


def test_holm_rejects_what_its_step_down_rejects() -> None:
    """The procedure itself: go up the sorted p while p_k <= alpha / (n - k + 1)."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = list(rng.random(6) ** 4)
        rejected = np.zeros(6, bool)
        for k, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (6 - k):
                break
            rejected[index] = True
        assert (np.array(holm(p)) <= 0.05).tolist() == rejected.tolist()


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
def test_holm_refuses_what_is_no_p(bad: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, bad])
