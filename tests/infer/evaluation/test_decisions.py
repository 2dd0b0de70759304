"""python -m pytest tests/infer/evaluation/test_decisions.py -- thresholds, MCC and F1."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from tier_infer.evaluation.bootstrap import interval, resample
from tier_infer.evaluation.decisions import (
    Thresholds,
    best_thresholds,
    decision_draws,
    f1,
    mcc,
)

metrics = pytest.importorskip("sklearn.metrics")
Ints = NDArray[np.int64]
Scores = NDArray[np.float32]


def validation(seed: int, levels: int, n: int = 60) -> tuple[Ints, Scores]:
    rng = np.random.default_rng([seed, levels])
    truth = np.append([0, 1], rng.random(n - 2) < rng.choice([0.1, 0.5, 0.9])).astype(np.int64)
    shift = rng.choice([-1, 0, 1])
    return truth, (np.floor(levels * (rng.random(n) + 0.3 * shift * truth)) / levels).astype("f4")


def literal(truth: Ints, scores: Scores, candidates: Iterable[float]) -> Thresholds:
    """The published loop: the first candidate that beats all before it, for each figure."""
    best = {"mcc": (-2.0, 0.0), "f1": (-2.0, 0.0)}
    for t in candidates:
        decided = scores > t
        values = {
            "mcc": metrics.matthews_corrcoef(truth, decided),
            "f1": metrics.f1_score(truth, decided, zero_division=0),
        }
        for name, value in values.items():
            if value > best[name][0]:
                best[name] = (value, float(t))
    return Thresholds(best["mcc"][1], best["f1"][1])


@pytest.mark.parametrize("levels", [1, 2, 3, 8, 100_000])
@pytest.mark.parametrize("seed", range(6))
def test_thresholds_are_those_of_the_published_loops(seed: int, levels: int) -> None:
    truth, scores = validation(seed, levels)
    assert best_thresholds(truth, scores) == literal(
        truth, scores, metrics.roc_curve(truth, scores)[2]
    )


def test_the_published_strict_rule_may_miss_the_best() -> None:
    """Scores 1 to 6, upper three positive. roc_curve keeps 6, 4 and 1, and none says yes to just
    those three: `> 4` to two, `> 1` to five. `> 3` would separate the classes."""
    truth, scores = [0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6]
    assert best_thresholds(truth, scores) == Thresholds(4, 4)


def test_of_equals_the_first_wins() -> None:
    """Positives at 4 and 2, negatives at 3 and 1: calling 4, or 4 to 2, gives 2 / sqrt(12) both.
    Downwards the higher threshold comes first."""
    truth, scores = [0, 1, 0, 1], [1, 2, 3, 4]
    assert best_thresholds(truth, scores) == Thresholds(3, 1)


def test_each_figure_has_its_own_threshold() -> None:
    chosen = [best_thresholds(*validation(seed, 1000)) for seed in range(10)]
    assert any(t.mcc != t.f1 for t in chosen)


def test_thresholds_of_forty_thousand_images() -> None:
    """Every score is a candidate; with one pass over the images each, this takes hours."""
    truth, scores = validation(0, 10**9, 40_000)
    found = best_thresholds(truth, scores)
    assert np.isfinite(found.mcc)


def test_a_score_at_the_threshold_says_no() -> None:
    scores = [0.1, 0.5, 0.7]
    assert Thresholds(0.5, 0.7).decided(scores, "mcc").tolist() == [False, False, True]
    assert Thresholds(0.5, 0.7).decided(scores, "f1").tolist() == [False, False, False]
    assert not Thresholds(math.inf, 0).decided(scores, "mcc").any()
    with pytest.raises(ValueError, match="finite"):
        Thresholds(0, 0).decided([math.nan], "mcc")


def test_constant_scores_never_say_yes() -> None:
    """Neither candidate, inf nor the score itself, is exceeded; the first stands."""
    assert best_thresholds([0, 1, 1], [2, 2, 2]) == Thresholds(math.inf, math.inf)


@pytest.mark.parametrize("truth", [[], [1], [0, 0], [1, 1, 1]])
def test_one_class_is_refused(truth: list[int]) -> None:
    with pytest.raises(ValueError, match="both classes"):
        best_thresholds(truth, np.arange(len(truth)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        best_thresholds([0, 1], [0, bad])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_mcc_and_f1_equal_scikit_learn(share: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 40))
        truth, decided = rng.random(n) < rng.random(), rng.random(n) < share
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one class only
            assert mcc(truth, decided) == pytest.approx(
                metrics.matthews_corrcoef(truth, decided), abs=1e-12
            )
            expected = metrics.f1_score(truth, decided, zero_division=0)
        assert f1(truth, decided) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decided", [[1, math.nan], [1, 0.5], [1, -1]])
def test_decisions_of_another_kind_are_refused(decided: list[float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        mcc([1, 0], decided)


@pytest.mark.parametrize("which", ["mcc", "f1"])
def test_draws_equal_scikit_learn_with_weights(which: str) -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((25, 3)) < [0.5, 0.08, 0.5]).astype(float)
    decided = (rng.random((25, 3)) < 0.4).astype(float)
    truth[:6, 2], decided[4:9, 2] = np.nan, np.nan
    resamples = resample([f"p{k % 9}" if k % 3 else "" for k in range(25)], 40)
    found = decision_draws(truth, decided, resamples, which)
    weights = np.concatenate([counts for _, counts in resamples.blocks()])
    lacking = 0
    for draw, label in np.ndindex(found.shape):
        known = ~np.isnan(truth[:, label]) & ~np.isnan(decided[:, label])
        y, d, w = truth[known, label], decided[known, label], weights[draw, known]
        if len(np.unique(y[w > 0])) < 2:
            lacking += 1
            assert np.isnan(found[draw, label])
            continue
        options = {"sample_weight": w}
        expected = {
            "mcc": lambda y=y, d=d, o=options: metrics.matthews_corrcoef(y, d, **o),
            "f1": lambda y=y, d=d, o=options: metrics.f1_score(y, d, zero_division=0, **o),
        }[which]()
        assert found[draw, label] == pytest.approx(expected, abs=1e-12)
    assert 0 < lacking < 60  # of 120


def test_intervals_of_decisions_hold_the_figure() -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random((300, 1)) < 0.4).astype(float)
    decided = np.where(rng.random((300, 1)) < 0.8, truth, 1 - truth)
    between = interval(decision_draws(truth, decided, resample([""] * 300, 500), "mcc")[:, 0])
    assert between is not None
    assert between[0] < mcc(truth[:, 0], decided[:, 0]) < between[1]
    assert 0.1 < between[1] - between[0] < 0.25


def test_draws_of_one_class_none_and_of_odd_tables() -> None:
    one = decision_draws([[1], [1]], [[1], [0]], resample(["", ""], 10), "mcc")
    assert interval(one[:, 0]) is None
    assert decision_draws([[1], [0]], [[1], [0]], resample(["", ""], 0), "f1").shape == (0, 1)
    with pytest.raises(ValueError, match="2 rows"):
        decision_draws([[1]], [[1]], resample(["", ""], 1), "f1")
    with pytest.raises(ValueError, match="must be"):
        decision_draws([[1]], [[0.5]], resample([""], 1), "f1")
