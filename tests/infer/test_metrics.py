"""python -m pytest tests/infer/test_metrics.py -- AUC against scikit-learn, bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tier_infer.metrics import bootstrap_auc, roc_auc, roc_curve

TRUE_AUC = 0.76025  # of normal scores one standard deviation apart: Phi(1 / sqrt 2)


def sample(seed: int, n: int = 200) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.4).astype(np.int64)
    return truth, rng.standard_normal(n) + truth


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("levels", [2, 3, 10, 10_000])
def test_roc_auc_equals_scikit_learn(seed: int, levels: int) -> None:
    oracle = pytest.importorskip("sklearn.metrics").roc_auc_score
    rng = np.random.default_rng([seed, levels])
    n = int(rng.integers(2, 300))
    truth = rng.integers(0, 2, n)
    truth[:2] = 0, 1
    scores = rng.integers(0, levels, n) / levels - 0.5
    assert roc_auc(truth, scores) == pytest.approx(oracle(truth, scores), abs=1e-12)


def test_roc_auc_counts_pairs() -> None:
    truth, scores = sample(1, 60)
    pos, neg = scores[truth == 1].round(1), scores[truth == 0].round(1)
    wins = (pos[:, None] > neg).mean() + 0.5 * (pos[:, None] == neg).mean()
    assert roc_auc(truth, scores.round(1)) == pytest.approx(wins, abs=1e-12)


def test_roc_auc_ends() -> None:
    assert roc_auc([0, 0, 1, 1], [1, 2, 3, 4]) == 1.0
    assert roc_auc([1, 1, 0, 0], [1, 2, 3, 4]) == 0.0
    assert roc_auc([0, 1, 0, 1], [5, 5, 5, 5]) == 0.5
    assert roc_auc([False, True], [-2.0, 2.0]) == 1.0


@pytest.mark.parametrize("truth", [[], [0, 0, 0], [1, 1, 1]])
def test_one_class_gives_nan(truth: list[int]) -> None:
    assert math.isnan(roc_auc(truth, np.arange(len(truth))))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_raises(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        roc_auc([0, 1, 1], [0.0, bad, 1.0])


@pytest.mark.parametrize("bad", [math.nan, -1, 2, 0.5])
def test_a_truth_that_is_neither_0_nor_1_raises(bad: float) -> None:
    """CheXpert writes -1 for uncertain and nothing for unmentioned: neither is a positive."""
    with pytest.raises(ValueError, match="0"):
        roc_auc([0, 1, bad], [1.0, 2.0, 3.0])


def test_truth_and_scores_are_as_long() -> None:
    with pytest.raises(ValueError, match="as long"):
        roc_auc([0, 1, 1], [1.0, 2.0])


@pytest.mark.parametrize("levels", [1, 2, 5, 10_000])
def test_roc_curve_equals_scikit_learn(levels: int) -> None:
    oracle = pytest.importorskip("sklearn.metrics").roc_curve
    for seed in range(10):
        rng = np.random.default_rng([seed, levels])
        truth = np.append([0, 1], rng.integers(0, 2, 60))
        scores = (rng.integers(0, levels, 62) / levels).astype(np.float32)
        expected = oracle(truth, scores, drop_intermediate=False)
        for ours, theirs in zip(roc_curve(truth, scores), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("truth", [[], [1], [0, 0, 0]])
def test_no_roc_curve_of_one_class(truth: list[int]) -> None:
    with pytest.raises(ValueError, match="both classes"):
        roc_curve(truth, np.arange(len(truth)))


def test_bootstrap_covers_the_true_auc() -> None:
    intervals = [bootstrap_auc(*sample(seed), draws=200) for seed in range(60)]
    covered = np.mean([low <= TRUE_AUC <= high for low, high in intervals])
    assert 0.85 <= covered <= 1.0  # 95 % nominal; 60 samples, so one standard error is 3 %
    assert np.mean([high - low for low, high in intervals]) < 0.16


def test_bootstrap_holds_the_estimate_and_shrinks_with_n() -> None:
    widths = []
    for n in (100, 400, 1600):
        truth, scores = sample(3, n)
        low, high = bootstrap_auc(truth, scores, draws=300)
        assert low < roc_auc(truth, scores) < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[0] / widths[2] == pytest.approx(4, rel=0.3)  # 1 / sqrt n


def test_bootstrap_is_deterministic() -> None:
    truth, scores = sample(5)
    first = bootstrap_auc(truth, scores, draws=100)
    assert bootstrap_auc(truth, scores, draws=100) == first
    assert bootstrap_auc(truth, scores, draws=100, seed=1) != first
    np.random.seed(123)
    assert bootstrap_auc(truth, scores, draws=100) == first


def test_each_image_its_own_group_is_the_default() -> None:
    truth, scores = sample(6)
    alone = [f"patient {n:03d}" for n in range(len(truth))]
    assert bootstrap_auc(truth, scores, alone, 100) == bootstrap_auc(truth, scores, None, 100)


def test_bootstrap_resamples_patients_not_rows() -> None:
    """Nine copies of every row are no new evidence: only grouping by patient knows that."""
    truth, scores = sample(7, 80)
    copied = np.repeat(truth, 9), np.repeat(scores, 9)
    patients = np.repeat(np.arange(80), 9)
    single = np.subtract(*bootstrap_auc(truth, scores, draws=400)[::-1])
    grouped = np.subtract(*bootstrap_auc(*copied, patients, draws=400)[::-1])
    ungrouped = np.subtract(*bootstrap_auc(*copied, draws=400)[::-1])
    assert grouped == pytest.approx(single, rel=0.1)
    assert grouped > 2 * ungrouped  # sqrt 9 = 3 in the long run


def test_groups_may_be_names_in_any_order() -> None:
    truth, scores = sample(8, 60)
    groups = np.array([f"p{n % 20:02d}" for n in range(60)])
    order = np.argsort(groups, kind="stable")
    mixed = bootstrap_auc(truth, scores, groups, 200)
    assert mixed == pytest.approx(
        bootstrap_auc(truth[order], scores[order], groups[order], 200), abs=1e-12
    )


def test_no_interval_without_both_classes() -> None:
    assert all(math.isnan(end) for end in bootstrap_auc([1, 1, 1], [1, 2, 3], draws=50))
    few = bootstrap_auc([0, 1, 1], [1, 2, 3], groups=["a", "b", "b"], draws=200)
    assert all(math.isnan(end) for end in few)  # a lone negative patient is missing half the time


@pytest.mark.parametrize("draws", [0, -5])
def test_no_draws_no_interval(draws: int) -> None:
    """`tier-infer evaluate --draws 0` asks for none; it must not end in an IndexError."""
    assert all(math.isnan(end) for end in bootstrap_auc([0, 1], [1.0, 2.0], draws=draws))


def test_no_rows_no_interval() -> None:
    assert all(math.isnan(end) for end in bootstrap_auc([], [], draws=10))


@pytest.mark.parametrize("grouped", [True, False])
def test_interval_is_that_of_the_literal_bootstrap(grouped: bool) -> None:
    """Patients drawn one by one, their rows joined, AUCs of those rows: the definition."""
    truth, scores = sample(9, 50)
    patients = np.array([f"p{n % 17:02d}" for n in range(50)])
    members = (
        [np.flatnonzero(patients == p) for p in np.unique(patients)]
        if grouped
        else [np.array([n]) for n in range(50)]
    )
    rng = np.random.default_rng(4)
    areas = []
    for _ in range(150):
        chosen = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[g] for g in chosen])
        areas.append(roc_auc(truth[rows], scores[rows]))
    expected = tuple(np.nanpercentile(areas, [2.5, 97.5]))
    assert bootstrap_auc(truth, scores, patients if grouped else None, 150, seed=4) == expected
