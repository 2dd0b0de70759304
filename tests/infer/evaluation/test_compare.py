"""python -m pytest tests/infer/evaluation/test_compare.py -- two models on the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from tests.infer.evaluation.fakes import (
    LABELS,
    NAN,
    GreyScorer,
    cohort,
    random_scores,
    random_truth,
    table_of,
    write_scores,
)
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.compare import Compared, compare
from tier_infer.evaluation.measure import areas_of, resamples_of
from tier_infer.evaluation.operating import Operating, choose
from tier_infer.evaluation.other import Other, read_other
from tier_infer.evaluation.scores import ScoreTable, plan_of
from tier_infer.evaluation.units import units_of

Floats = NDArray[np.float32]
N = 60
TRUTH = random_truth(N, 1)
Z = random_scores(TRUTH, 2, 1.0)
Run = Callable[..., Compared]


@pytest.fixture
def images(tmp_path: Path) -> Cohort:
    return cohort(tmp_path, TRUTH.tolist(), draw=False)


@pytest.fixture
def against(images: Cohort, tmp_path: Path) -> Run:
    """Compares Z with the scores given."""

    def run(
        other: ScoreTable,
        mine: Floats = Z,
        draws: int = 300,
        operating: Operating | None = None,
        protocol: str = "per_image",
        scorer: GreyScorer | None = None,
    ) -> Compared:
        plan = plan_of(images, scorer or GreyScorer(other.z))
        path = write_scores(tmp_path / "other", other, plan)
        found = read_other(path, images, LABELS, plan_of(images, GreyScorer(mine)))
        return compared(images, table_of(images, mine), found, draws, operating, protocol)

    return run


def compared(
    images: Cohort,
    table: ScoreTable,
    other: Other,
    draws: int = 20,
    operating: Operating | None = None,
    protocol: str = "per_image",
) -> Compared:
    units = units_of(images, table, protocol)
    resamples = resamples_of(units, draws)
    areas = areas_of(units, table.labels, resamples)
    return compare(images, table, other, protocol, areas, resamples, operating)


def test_areas_and_differences_are_those_of_each_model(images: Cohort, against: Run) -> None:
    z = random_scores(TRUTH, 3, 0.5)
    found = against(table_of(images, z)).section
    for i, row in enumerate(found["labels"]):
        here, there = roc_auc_score(TRUTH[:, i], Z[:, i]), roc_auc_score(TRUTH[:, i], z[:, i])
        assert (row["auc"], row["auc_there"]) == pytest.approx((here, there))
        assert row["difference"] == pytest.approx(here - there)
        assert row["interval"][0] < here - there < row["interval"][1]
        assert row["max_dz"] == pytest.approx(np.abs(Z[:, i] - z[:, i]).max())
        assert row["rank_correlation"] == pytest.approx(spearmanr(Z[:, i], z[:, i])[0])
        assert row["untested"] is None
    mean = found["mean"]
    expected = np.mean([row["difference"] for row in found["labels"]])
    assert mean["difference"] == pytest.approx(expected)
    assert mean["interval"][0] < expected < mean["interval"][1]
    small, large = sorted(row["p"] for row in found["labels"])
    adjusted = sorted(row["p_holm"] for row in found["labels"])
    assert adjusted == pytest.approx([min(1, 2 * small), max(min(1, 2 * small), large)])


def test_a_model_against_itself_differs_in_nothing(images: Cohort, against: Run) -> None:
    found = against(table_of(images, Z)).section
    for row in found["labels"]:
        assert (row["difference"], row["interval"], row["p"]) == (0, None, 1)
        assert (row["max_dz"], row["rank_correlation"]) == (0, pytest.approx(1))
        assert row["decisions"]["flips"] == 0
    assert found["mean"]["interval"] is None  # draws that are all alike show nothing
    assert found["won"] == {"here": 0, "there": 0, "ties": 2}
    assert set(found["same"].values()) == {True}
    assert found["images"] == {
        "scored_by_both": N, "only_here": 0, "only_there": 0, "of_same_pixels": N,
    }  # fmt: skip


def test_the_interval_is_paired(images: Cohort, against: Run) -> None:
    """Nearly the same model: the interval of the difference is far narrower than that of an AUC."""
    z = Z + np.random.default_rng(9).normal(0, 0.05, Z.shape).astype(np.float32)
    row = against(table_of(images, z)).section["labels"][0]
    assert row["interval"][1] - row["interval"][0] < 0.1
    assert roc_auc_score(TRUTH[:, 0], Z[:, 0]) < 0.95  # whose own interval is wider than that


def test_wins_are_counted_as_the_paper_prints(images: Cohort, against: Run) -> None:
    """AUC to five decimals: one is perfect here, the other a tie."""
    better = np.stack([TRUTH[:, 0] * 9, Z[:, 1]], axis=1)
    found = against(table_of(images, Z), mine=better).section
    assert found["won"] == {"here": 1, "there": 0, "ties": 1}


def test_images_that_one_side_scored_are_left_out_and_counted(images: Cohort, against: Run) -> None:
    mine, z = Z.copy(), random_scores(TRUTH, 3, 0.5)
    mine[5], z[6], z[7] = NAN, NAN, NAN
    other = table_of(images, z)
    other = replace(other, pixels=("other", *other.pixels[1:]))
    found = against(other, mine=mine).section
    both = np.delete(np.arange(N), [5, 6, 7])
    assert found["units"] == N - 3
    assert found["images"] == {
        "scored_by_both": N - 3, "only_here": 2, "only_there": 1, "of_same_pixels": N - 4,
    }  # fmt: skip
    row = found["labels"][0]
    assert row["auc"] == pytest.approx(roc_auc_score(TRUTH[both, 0], Z[both, 0]))
    assert row["auc_there"] == pytest.approx(roc_auc_score(TRUTH[both, 0], z[both, 0]))


def test_rows_may_stand_in_another_order(images: Cohort, against: Run) -> None:
    table = table_of(images, Z)
    order = np.random.default_rng(0).permutation(N)
    turned = replace(
        table,
        paths=tuple(table.paths[i] for i in order),
        pixels=tuple(table.pixels[i] for i in order),
        z=table.z[order],
    )
    found = against(turned).section
    assert [row["max_dz"] for row in found["labels"]] == [0, 0]
    assert found["images"]["of_same_pixels"] == N


def test_flips_are_counted_at_the_frozen_threshold(images: Cohort, against: Run) -> None:
    operating = choose(units_of(images, table_of(images, Z), "per_image"))
    z = Z.copy()
    chosen = operating.thresholds[0]
    assert chosen is not None
    above = np.flatnonzero(Z[:, 0] > chosen.mcc)[:3]
    z[above, 0] = chosen.mcc - 1
    first, second = against(table_of(images, z), operating=operating).section["labels"]
    assert first["decisions"] == {"at": "frozen", "threshold": chosen.mcc, "flips": 3}
    assert second["decisions"]["flips"] == 0


def test_flips_are_counted_in_the_middle_where_nothing_is_frozen(
    images: Cohort, against: Run
) -> None:
    mine = np.stack([np.linspace(-1, 1, N), np.zeros(N)], axis=1).astype(np.float32)
    mine[N // 2 :, 0] += 1  # the widest gap is in the middle
    z = mine.copy()
    z[-1, 0] = -1
    first, second = against(table_of(images, z), mine=mine).section["labels"]
    assert first["decisions"]["at"] == "middle"
    assert first["decisions"]["flips"] == 1
    assert second["decisions"] == {"at": None, "threshold": None, "flips": None}  # no gap at all


def test_scores_of_another_kind_are_compared_in_their_order_only(
    images: Cohort, against: Run
) -> None:
    p = 1 / (1 + np.exp(-Z.astype(np.float64)))
    scorer = GreyScorer(Z, scoring="softmax", checkpoints=["d" * 64])
    found = against(table_of(images, p.astype(np.float32)), scorer=scorer).section
    told = [found["same"][key] for key in ("scoring", "checkpoints", "prompts")]
    assert told == [False, False, True]
    for row in found["labels"]:
        assert (row["max_dz"], row["decisions"]) == (None, None)
        assert (row["difference"], row["rank_correlation"]) == (0, pytest.approx(1))


def test_ten_images_of_few_patients_are_not_tested(tmp_path: Path) -> None:
    """Nor do they shrink the p of another label: Holm's family is of what was tested."""
    patients = [f"p{min(i, 59 - i) // 4}" if i < 20 else f"q{i}" for i in range(N)]
    truth = np.stack([np.arange(N) < 20, np.arange(N) % 2], axis=1).astype(np.float32)
    images = cohort(tmp_path, truth.tolist(), patients, draw=False)
    other = read_other(write_scores(tmp_path / "other", table_of(images, -Z)), images, LABELS, {})
    edema, effusion = compared(images, table_of(images, Z), other).section["labels"]
    assert edema["untested"] == "positives or negatives of fewer than 10 patients"
    assert (edema["p"], edema["p_holm"], edema["interval"]) == (None, None, None)
    assert edema["difference"] is not None
    assert effusion["p_holm"] == effusion["p"] is not None


def test_two_networks_have_no_common_scale(images: Cohort, against: Run) -> None:
    other = GreyScorer(Z, checkpoints=["d" * 64])
    for row in against(table_of(images, Z + 1), scorer=other).section["labels"]:
        assert (row["max_dz"], row["decisions"]) == (None, None)


def test_one_class_is_excluded_by_name(images: Cohort, tmp_path: Path) -> None:
    truth = TRUTH.copy()
    truth[:, 1] = 0
    truth[:, 0] = np.arange(N) < 9
    odd = cohort(tmp_path, truth.tolist(), draw=False)
    path = write_scores(tmp_path / "other", table_of(odd, random_scores(TRUTH, 3)))
    other = read_other(path, odd, LABELS, {})
    found = compared(odd, table_of(odd, Z), other).section
    edema, effusion = found["labels"]
    assert edema["difference"] is not None
    assert (edema["p"], edema["p_holm"]) == (None, None)
    assert edema["interval"] is None
    assert edema["untested"] == "fewer than 10 positives or negatives"
    assert effusion["excluded"] == "one class only"
    assert effusion["difference"] is None
    assert (found["mean"]["of"], found["mean"]["interval"]) == (1, None)
    assert set(found["same"].values()) == {None}  # no plan lies beside these scores
    assert found["model"] is None


def test_studies_are_compared_where_the_protocol_counts_them(tmp_path: Path) -> None:
    studies = [f"s{i // 2}" for i in range(N)]
    truth = np.repeat(random_truth(N // 2, 1), 2, axis=0)
    images = cohort(tmp_path, truth.tolist(), studies, studies, draw=False)
    other = read_other(write_scores(tmp_path / "other", table_of(images, -Z)), images, LABELS, {})
    found = compared(images, table_of(images, Z), other, protocol="study_mean").section
    mean = Z.reshape(N // 2, 2, 2).mean(axis=1)
    assert found["units"] == N // 2
    assert found["labels"][0]["auc"] == pytest.approx(roc_auc_score(truth[::2, 0], mean[:, 0]))
    assert found["labels"][0]["auc_there"] == pytest.approx(1 - found["labels"][0]["auc"])


def test_the_labels_that_both_have_are_compared_with_their_own_areas(
    images: Cohort, tmp_path: Path
) -> None:
    """Columns in another order, and one side knows more."""
    z = random_scores(TRUTH, 3)
    theirs = table_of(images, z[:, ::-1], ("x:effusion", "nodule"))
    other = read_other(write_scores(tmp_path / "other", theirs), images, LABELS, {})
    found = compared(images, table_of(images, Z), other).section
    (row,) = found["labels"]
    assert (row["label"], row["label_there"]) == ("effusion", "x:effusion")
    assert row["auc"] == pytest.approx(roc_auc_score(TRUTH[:, 1], Z[:, 1]))
    assert row["auc_there"] == pytest.approx(roc_auc_score(TRUTH[:, 1], z[:, 1]))
    assert found["mean"]["auc"] == row["auc"]
    assert (found["labels_only_here"], found["labels_only_there"]) == (["edema"], ["nodule"])
