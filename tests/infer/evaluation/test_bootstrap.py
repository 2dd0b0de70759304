"""python -m pytest tests/infer/evaluation/test_bootstrap.py -- draws, their areas and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tier_infer.evaluation import bootstrap
from tier_infer.evaluation.bootstrap import (
    Resamples,
    auc_draws,
    interval,
    mean_draws,
    resample,
)
from tier_infer.metrics import roc_auc

Floats = NDArray[np.float64]


def counts_of(resamples: Resamples) -> NDArray[np.integer]:
    """[draws, n]"""
    return np.concatenate([counts for _, counts in resamples.blocks()])


def table(seed: int, n: int, levels: int) -> tuple[Floats, Floats]:
    """Four labels: common, rare, partly unknown truth, partly unscored."""
    rng = np.random.default_rng([seed, n, levels])
    truth = (rng.random((n, 4)) < [0.5, 0.1, 0.5, 0.5]).astype(float)
    scores = rng.integers(0, levels, (n, 4)) / 7 + 0.3 * truth.round()
    truth[rng.random(n) < 0.3, 2] = np.nan
    scores[rng.random(n) < 0.3, 3] = np.nan
    return truth, scores


@pytest.mark.parametrize("levels", [1, 2, 6, 10_000])
@pytest.mark.parametrize("n", [1, 2, 9, 60])
def test_areas_equal_those_of_the_repeated_rows(n: int, levels: int) -> None:
    truth, scores = table(1, n, levels)
    patients = [f"p{k % 11}" if k % 4 else "" for k in range(n)]
    resamples = resample(patients, 40)
    found = auc_draws(truth, scores, resamples)
    for draw, counts in enumerate(counts_of(resamples)):
        rows = np.repeat(np.arange(n), counts)
        for label in range(4):
            y, s = truth[rows, label], scores[rows, label]
            known = ~np.isnan(y) & ~np.isnan(s)
            expected = roc_auc(y[known], s[known])
            assert found[draw, label] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_weighted_areas_equal_scikit_learn() -> None:
    oracle = pytest.importorskip("sklearn.metrics").roc_auc_score
    truth, scores = table(2, 80, 9)
    resamples = resample([""] * 80, 25)
    found = auc_draws(truth[:, :1], scores[:, :1], resamples)[:, 0]
    expected = [
        oracle(truth[:, 0], scores[:, 0], sample_weight=counts) for counts in counts_of(resamples)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_rows_of_a_patient_count_alike_and_every_draw_has_as_many_patients() -> None:
    patients = ["b", "a", "", "b", "", "a", "b"]
    counts = counts_of(resample(patients, 200))
    assert (counts[:, 0] == counts[:, 3]).all()
    assert (counts[:, 0] == counts[:, 6]).all()
    assert (counts[:, 1] == counts[:, 5]).all()
    assert (counts[:, [0, 1, 2, 4]].sum(axis=1) == 4).all()
    assert (counts[:, 2] != counts[:, 4]).any()  # unknown patients are not one patient


def test_draws_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, scores = table(3, 30, 8)
    resamples = resample([""] * 30, 50)
    whole = auc_draws(truth, scores, resamples)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * 30)
    sizes = [len(counts) for _, counts in resamples.blocks()]
    assert sizes == [7] * 7 + [1]
    np.testing.assert_array_equal(auc_draws(truth, scores, resamples), whole)


def test_a_large_cohort_never_sits_in_memory_at_once() -> None:
    """40,000 rows x 2,000 draws would be 160 MB in two bytes each."""
    block = next(resample([""] * 40_000, 2000).blocks())[1]
    assert block.nbytes <= 4 * 2**20


def test_draws_do_not_depend_on_the_order_of_named_rows() -> None:
    truth, scores = table(4, 40, 8)
    patients = np.array([f"p{k % 13}" for k in range(40)])
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(
        auc_draws(truth[order], scores[order], resample(list(patients[order]), 30)),
        auc_draws(truth, scores, resample(list(patients), 30)),
        atol=1e-12,
    )


def test_models_share_their_draws() -> None:
    """A pair: the same scores on the same draws differ by nothing in every draw."""
    truth, scores = table(5, 50, 1000)
    resamples = resample([""] * 50, 30)
    again = auc_draws(truth, np.exp(scores), resamples)
    np.testing.assert_array_equal(auc_draws(truth, scores, resamples), again)
    other = auc_draws(truth, scores, resample([""] * 50, 30, seed=1))
    assert not np.array_equal(again[:, 0], other[:, 0])


def test_a_label_of_one_class_has_no_interval_and_disturbs_no_other() -> None:
    truth, scores = table(6, 40, 9)
    resamples = resample([""] * 40, 60)
    alone = auc_draws(truth[:, :1], scores[:, :1], resamples)
    truth[:, 1] = 0
    truth[:, 2] = np.nan
    found = auc_draws(truth, scores, resamples)
    assert np.isnan(found[:, 1:3]).all()
    assert interval(found[:, 1]) is interval(found[:, 2]) is None
    np.testing.assert_array_equal(found[:, 0], alone[:, 0])


def test_equal_scores_are_worth_half() -> None:
    found = auc_draws([[1], [0], [1], [0]], np.zeros((4, 1)), resample([""] * 4, 50))
    assert set(found[~np.isnan(found)]) == {0.5}


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinite_scores_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        auc_draws([[1], [0]], [[0.0], [bad]], resample(["", ""], 3))


@pytest.mark.parametrize("bad", [-1, 2, 0.5])
def test_truth_of_another_kind_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="truth must be"):
        auc_draws([[1], [bad]], [[0.0], [1.0]], resample(["", ""], 3))


def test_tables_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows"):
        auc_draws([[1], [0]], [[0.0], [1.0]], resample(["", "", ""], 3))


def test_no_draws_and_no_rows() -> None:
    assert auc_draws([[1], [0]], [[1], [0]], resample(["", ""], 0)).shape == (0, 1)
    assert np.isnan(auc_draws(np.zeros((0, 2)), np.zeros((0, 2)), resample([], 5))).all()
    with pytest.raises(ValueError, match="-1 draws"):
        resample([""], -1)


def test_interval_is_the_percentiles_of_what_is_known() -> None:
    values = np.random.default_rng(0).random(1001)
    low, high = np.quantile(values, [0.025, 0.975])
    assert interval(values) == (low, high)
    assert interval(np.append(values, np.full(1001, np.nan))) == (low, high)  # half is kept
    assert interval(np.append(values, np.full(1002, np.nan))) is None
    assert interval([]) is None
    assert interval([np.nan]) is None


def test_a_mean_of_fewer_labels_is_no_mean() -> None:
    means = mean_draws([[0.5, 0.7], [0.5, np.nan], [1, 0]])
    np.testing.assert_allclose(means, [0.6, np.nan, 0.5])
    with pytest.raises(ValueError, match="labels"):
        mean_draws(np.zeros((5, 0)))
