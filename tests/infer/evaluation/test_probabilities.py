"""python -m pytest tests/infer/evaluation/test_probabilities.py -- Platt, Brier, ECE, bins."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tier_infer.evaluation.probabilities import (
    Platt,
    brier,
    ece,
    fit_platt,
    reliability,
    wilson,
)

Floats = NDArray[np.float64]


def sample(seed: int, n: int = 300) -> tuple[Floats, Floats]:
    """Scores as Z: narrow, off centre."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.3).astype(float)
    return truth, 0.05 * (rng.standard_normal(n) + truth) - 0.1


@pytest.mark.parametrize("seed", range(5))
def test_fit_equals_scikit_learn(seed: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    truth, scores = sample(seed)
    scores *= 20  # its gradient tolerance is absolute: with narrow scores it stops early
    model = linear.LogisticRegression(C=math.inf, solver="newton-cholesky", tol=1e-12)
    model.fit(scores[:, None], truth)
    found = fit_platt(truth, scores)
    assert found.scale == pytest.approx(model.coef_[0, 0], abs=1e-6)
    assert found.bias == pytest.approx(model.intercept_[0], abs=1e-6)
    expected = model.predict_proba(scores[:, None])[:, 1]
    np.testing.assert_allclose(found.apply(scores), expected, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1, 1e6, -3])
def test_fit_does_not_depend_on_the_unit_of_scores(factor: float) -> None:
    truth, scores = sample(1)
    plain, other = fit_platt(truth, scores), fit_platt(truth, factor * scores + 2)
    np.testing.assert_allclose(other.apply(factor * scores + 2), plain.apply(scores), atol=1e-9)


def test_likelihood_is_at_its_maximum() -> None:
    """Both derivatives vanish: mean p is the prevalence, and errors do not go with the score."""
    truth, scores = sample(2)
    error = fit_platt(truth, scores).apply(scores) - truth
    assert abs(error.sum()) < 1e-9
    assert abs((error * scores).sum()) < 1e-9


def test_a_true_logistic_model_is_found() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(-0.5, 0.5, 40_000)
    truth = rng.random(40_000) < 1 / (1 + np.exp(-(12 * scores - 1)))
    found = fit_platt(truth, scores)
    assert found.scale == pytest.approx(12, rel=0.03)
    assert found.bias == pytest.approx(-1, abs=0.05)
    p = found.apply(scores)
    assert ece(truth, p) < 0.015
    assert ece(truth, 1 / (1 + np.exp(-scores))) > 0.15  # sigmoid(Z) is no probability


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scores", [[1, 2, 3, 4], [1, 2, 2, 3], [1, 1, 1, 2]])
def test_separated_classes_give_finite_values(scores: list[float], sign: int) -> None:
    """Platt's targets, 3/4 and 1/4 of two and two: there both derivatives vanish."""
    s = sign * np.array(scores, float)
    found = fit_platt([0, 0, 1, 1], s)
    error = found.apply(s) - [0.25, 0.25, 0.75, 0.75]
    assert sign * found.scale > 0
    assert abs(error.sum()) < 1e-9
    assert abs((error * s).sum()) < 1e-9


def test_one_case_of_each_class() -> None:
    """Targets 2/3 and 1/3: the line through them, exactly."""
    found = fit_platt([0, 1], [0, 1])
    assert found.apply([0, 1]).tolist() == pytest.approx([1 / 3, 2 / 3], abs=1e-9)


@pytest.mark.parametrize("n", [20, 1000, 40_000])
def test_nearly_separated_classes_settle(n: int) -> None:
    """One pair out of order by a trifle: a maximum exists, far out."""
    truth = np.arange(n) >= n // 2
    scores = np.where(truth, 1.0, -1.0)
    scores[n // 2 - 1], scores[n // 2] = 1e-9, 0
    found = fit_platt(truth, scores)
    assert found.scale > 10
    assert abs((found.apply(scores) - truth).sum()) < 1e-6


@pytest.mark.parametrize("n", [20, 100, 400])
def test_a_rare_label_far_out_settles(n: int) -> None:
    """One positive beyond all negatives but one: a full step of Newton's overshoots for good."""
    truth = np.append(np.zeros(n), [1, 0])
    scores = np.append(np.linspace(0, 1, n), [3, 3.5])
    error = fit_platt(truth, scores).apply(scores) - truth
    assert abs(error.sum()) < 1e-9
    assert abs((error * scores).sum()) < 1e-9


@pytest.mark.parametrize("truth", [[], [1], [0, 0], [1, 1, 1]])
def test_one_class_is_refused(truth: list[int]) -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit_platt(truth, np.arange(len(truth)))


def test_equal_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="all equal"):
        fit_platt([0, 1, 1], [0.1, 0.1, 0.1])


def test_application_never_overflows() -> None:
    assert Platt(1000, 0).apply([-1000, 0, 1000]).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="finite"):
        Platt(1, 0).apply([math.nan])


def test_brier_equals_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, scores = sample(3)
    p = fit_platt(truth, scores).apply(scores)
    assert brier(truth, p) == pytest.approx(metrics.brier_score_loss(truth, p), abs=1e-12)
    assert brier([1], [0.25]) == 0.75**2
    assert brier([0, 0], [0, 0]) == 0


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_bins_equal_scikit_learn(bins: int) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(bins)
    p = np.append(np.linspace(0, 1, bins + 1), rng.random(200))  # every edge is hit
    truth = rng.random(len(p)) < p**2
    rates, means = calibration.calibration_curve(truth, p, n_bins=bins)
    found = reliability(truth, p, bins)
    np.testing.assert_allclose([b.rate for b in found], rates, atol=1e-12)
    np.testing.assert_allclose([b.mean_p for b in found], means, atol=1e-12)
    assert sum(b.n for b in found) == len(p)
    assert all(b.low <= b.mean_p <= b.high and b.rate_low <= b.rate <= b.rate_high for b in found)


def test_ece_by_hand() -> None:
    """Bins of a fifth: 0.1 and 0.2 share the first, 1 of 2; 0.5 and 0.9 are alone."""
    truth, p = [0, 1, 1, 0], [0.1, 0.2, 0.5, 0.9]
    assert ece(truth, p, bins=5) == pytest.approx((2 * 0.35 + 0.5 + 0.9) / 4)
    assert [(b.n, b.low, b.high) for b in reliability(truth, p, bins=5)] == [
        (2, 0.0, pytest.approx(0.2)),
        (1, pytest.approx(0.4), pytest.approx(0.6)),
        (1, pytest.approx(0.8), 1.0),
    ]
    assert ece([1, 1], [1, 1]) == 0


@pytest.mark.parametrize(("positives", "n"), [(0, 1), (1, 1), (0, 30), (3, 7), (30, 30), (99, 200)])
def test_wilson_equals_scipy(positives: int, n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(positives, n).proportion_ci(method="wilson")
    assert wilson(positives, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= wilson(positives, n)[0] < wilson(positives, n)[1] <= 1


@pytest.mark.parametrize("figure", [brier, ece, reliability])
@pytest.mark.parametrize(
    ("truth", "p", "words"),
    [
        ([], [], "no case"),
        ([1], [1.1], "between 0 and 1"),
        ([1], [-0.1], "between 0 and 1"),
        ([1], [math.nan], "finite"),
        ([math.nan], [0.5], "unknown"),
        ([1, 0], [0.5], "as long"),
    ],
)
def test_what_is_no_probability_is_refused(
    figure: Callable[..., object], truth: list[float], p: list[float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        figure(truth, p)


def test_no_bins_and_no_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="0 bins"):
        reliability([1], [0.5], bins=0)
    with pytest.raises(ValueError, match="no rate"):
        wilson(0, 0)
