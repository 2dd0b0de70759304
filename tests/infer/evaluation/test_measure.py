"""python -m pytest tests/infer/evaluation/test_measure.py -- intervals of AUCs, and of how few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from tests.infer.evaluation.fakes import LABELS, cohort, random_scores, random_truth, table_of
from tier_infer.evaluation.bootstrap import auc_draws, interval, resample
from tier_infer.evaluation.measure import Areas, areas_of, resamples_of, won
from tier_infer.evaluation.probabilities import wilson_of
from tier_infer.evaluation.units import units_of
from tier_infer.metrics import roc_auc

Floats = NDArray[np.float32]
N = 60


def areas(
    folder: Path, truth: Floats, z: Floats, patients: list[str] | None = None, draws: int = 200
) -> Areas:
    images = cohort(folder, truth.tolist(), patients, draw=False)
    units = units_of(images, table_of(images, z), "per_image")
    return areas_of(units, LABELS, resamples_of(units, draws))


def first(positives: int) -> Floats:
    """The first `positives` of edema; half of effusion."""
    return np.stack([np.arange(N) < positives, np.arange(N) % 2], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("positives", "kind"), [(1, "bound"), (9, "bound"), (10, "bootstrap"), (50, "bootstrap"),
                            (51, "bound")],
)  # fmt: skip
def test_below_ten_of_a_class_a_bound_is_given(tmp_path: Path, positives: int, kind: str) -> None:
    truth = first(positives)
    found = areas(tmp_path, truth, random_scores(truth, 2, 1.0))
    edema, effusion = found.rows
    assert (edema.interval_of, effusion.interval_of) == (kind, "bootstrap")
    assert (found.mean_interval is None) is (kind == "bound")
    assert edema.auc is not None
    assert edema.interval is not None
    assert edema.interval[0] <= edema.auc <= edema.interval[1]


@pytest.mark.parametrize("few", [2, 4, 8])
def test_the_bound_is_wilsons_of_the_smaller_class(tmp_path: Path, few: int) -> None:
    """An AUC that is k of n, the rate whose variance it can't exceed: SciPy knows the interval."""
    truth = first(few)
    z = np.where(truth == 1, 1, 0).astype(np.float32)
    z[: few // 2, 0] = -1  # below all negatives: AUC 1/2
    z[few:, 0] = 0
    row = areas(tmp_path, truth, z).rows[0]
    assert row.auc == 0.5
    expected = binomtest(few // 2, few).proportion_ci(method="wilson")
    assert row.interval == pytest.approx((expected.low, expected.high))


def test_the_bound_counts_patients_and_unknown_ones_singly(tmp_path: Path) -> None:
    truth = first(12)
    z = np.zeros((N, 2), np.float32)  # AUC 1/2
    named = [f"p{i // 3}" if i < 12 else f"q{i}" for i in range(N)]  # twelve images of four
    row = areas(tmp_path, truth, z, named).rows[0]
    expected = binomtest(2, 4).proportion_ci(method="wilson")
    assert (row.interval_of, row.patients) == ("bound", 4)
    assert row.interval == pytest.approx((expected.low, expected.high))
    assert row.too_few == "positives or negatives of fewer than 10 patients"
    alone = areas(tmp_path, truth, z, [""] * 12 + named[12:]).rows[0]
    assert alone.patients == 12


def test_the_bound_holds_the_true_area_of_few_positives() -> None:
    """Of five positives it covers 95 % and more, where resampling covers far less."""
    rng = np.random.default_rng(0)
    truth = np.arange(100) < 5
    true = 0.8555  # of two normal variables 1.5 apart: Phi(1.5 / sqrt(2))
    bound = resampled = 0
    for _ in range(300):
        z = rng.standard_normal(100) + 1.5 * truth
        low, high = wilson_of(roc_auc(truth, z), 5)
        bound += low <= true <= high
        drawn = auc_draws(truth[:, None], z[:, None], resample([""] * 100, 100))[:, 0]
        between = interval(drawn)
        resampled += between is not None and between[0] <= true <= between[1]
    assert bound / 300 >= 0.95
    assert resampled / 300 < 0.93


def test_a_perfect_model_is_not_said_to_be_certain(tmp_path: Path) -> None:
    """All draws give 1; nothing of that says that the next image is right, too."""
    truth = random_truth(N, 1)
    found = areas(tmp_path, truth, truth.copy())
    for i, row in enumerate(found.rows):
        n = int(min(truth[:, i].sum(), (1 - truth[:, i]).sum()))
        expected = binomtest(n, n).proportion_ci(method="wilson")
        assert (row.auc, row.interval_of) == (1, "bound")
        assert row.interval == pytest.approx((expected.low, 1))
    assert (found.mean, found.mean_interval) == (1, None)


def test_no_draws_no_intervals_nor_bounds(tmp_path: Path) -> None:
    found = areas(tmp_path, first(3), random_scores(first(3), 2), draws=0)
    assert {(row.interval, row.interval_of) for row in found.rows} == {(None, None)}


def test_evaluations_won() -> None:
    """To five decimals; a tie of the highest is nobody's, and a label without an AUC no contest."""
    a = [0.8, 0.7, 0.5, 0.600004, None, 0.3]
    b = [0.7, 0.8, 0.5, 0.6, 0.9, 0.31]
    c = [0.6, 0.6, 0.5, 0.1, 0.1, 0.30001]
    assert won([a, b, c]) == ([1, 2, 0], 2)
    assert won([a, b]) == ([1, 2], 2)
    assert won([[0.5]]) == ([1], 0)
    assert won([]) == ([], 0)
