"""python -m pytest tests/infer/evaluation/test_operating.py -- thresholds, readers, Platt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, f1_score, matthews_corrcoef, roc_curve

from tests.infer.evaluation.fakes import (
    LABELS,
    NAN,
    cohort,
    random_scores,
    random_truth,
    table_of,
)
from tier_infer.evaluation.calibrated import calibration_section
from tier_infer.evaluation.measure import resamples_of
from tier_infer.evaluation.operating import choose, decisions_section, radiologists_section
from tier_infer.evaluation.units import Units, units_of

Floats = NDArray[np.float32]
PUBLISHED = {"mcc": matthews_corrcoef, "f1": f1_score}


def units(folder: Path, truth: Floats, z: Floats, patients: list[str] | None = None) -> Units:
    images = cohort(folder, truth.tolist(), patients, draw=False)
    return units_of(images, table_of(images, z), "per_image")


@pytest.fixture
def test(tmp_path: Path) -> Units:
    truth = random_truth(80, 1)
    return units(tmp_path, truth, random_scores(truth, 2, 1.0))


@pytest.fixture
def validation(tmp_path: Path) -> Units:
    truth = random_truth(60, 3)
    return units(tmp_path, truth, random_scores(truth, 4, 1.0))


def frozen(validation: Units, label: int, which: str) -> float:
    """By scikit-learn, yes is `score > t` as in the authors' code."""
    y, z = validation.truth[:, label], validation.z[:, label]
    candidates = roc_curve(y, z)[2]
    return float(candidates[np.argmax([PUBLISHED[which](y, z > t) for t in candidates])])


@pytest.mark.parametrize("which", ["mcc", "f1"])
def test_figures_are_those_of_the_frozen_threshold(
    test: Units, validation: Units, which: str
) -> None:
    found = decisions_section(test, LABELS, choose(validation), resamples_of(test, 200))
    values = []
    for i, row in enumerate(found["labels"]):
        threshold = frozen(validation, i, which)
        expected = PUBLISHED[which](test.truth[:, i], test.z[:, i] > threshold)
        assert row[which]["threshold"] == pytest.approx(threshold)
        assert row[which]["value"] == pytest.approx(expected)
        low, high = row[which]["interval"]
        assert low < expected < high
        assert row["chosen_on"] == {"n": 60, "positives": int(validation.truth[:, i].sum())}
        values.append(expected)
    assert found["mean"][which]["value"] == pytest.approx(np.mean(values))
    assert found["mean"]["of"] == 2


def test_no_draws_no_intervals(test: Units, validation: Units) -> None:
    found = decisions_section(test, LABELS, choose(validation), resamples_of(test, 0))
    assert found["labels"][0]["mcc"]["interval"] is None
    assert found["mean"]["mcc"]["interval"] is None
    assert found["mean"]["mcc"]["value"] is not None


@pytest.mark.parametrize("side", ["validation", "test"])
def test_a_label_of_one_class_on_either_side_is_excluded(
    test: Units, validation: Units, side: str
) -> None:
    (validation if side == "validation" else test).truth[:, 1] = 0
    found = decisions_section(test, LABELS, choose(validation), resamples_of(test, 50))
    edema, effusion = found["labels"]
    where = " in the validation split" if side == "validation" else ""
    assert effusion["excluded"] == f"one class only{where}"
    assert effusion["mcc"]["value"] is None
    assert found["mean"]["mcc"] == {k: edema["mcc"][k] for k in ("value", "interval")}
    assert found["mean"]["of"] == 1


def test_few_cases_have_no_intervals(test: Units, validation: Units) -> None:
    """Nor has a mean that counts them, nor a threshold that is never reached."""
    test.truth[:, 1] = np.arange(80) < 9
    found = decisions_section(test, LABELS, choose(validation), resamples_of(test, 100))
    edema, effusion = found["labels"]
    assert edema["mcc"]["interval"] is not None
    assert effusion["mcc"]["value"] is not None
    assert (effusion["mcc"]["interval"], effusion["f1"]["interval"]) == (None, None)
    assert (found["mean"]["mcc"]["interval"], found["mean"]["of"]) == (None, 2)
    readers = readers_of(test.truth, {"bc4": 3, "bc6": 5})
    read = radiologists_section(test, LABELS, choose(validation), readers, resamples_of(test, 100))
    for side in (*read["readers"], read["model"], read["mean_radiologist"], read["difference"]):
        assert side["labels"]["edema"]["mcc"]["interval"] is not None
        assert side["labels"]["effusion"]["mcc"]["interval"] is None
        assert side["mean"]["f1"]["interval"] is None
    test.z[:, 0] = -9
    never = decisions_section(test, LABELS, choose(validation), resamples_of(test, 100))
    assert never["labels"][0]["mcc"] | {"threshold": 0} == {
        "value": 0, "interval": None, "threshold": 0,
    }  # fmt: skip
    found = calibration_section(test, validation, LABELS, "valid", "head", resamples_of(test, 0))
    for row, told in zip(found["labels"], (True, False), strict=True):
        for kind in ("fitted", "own"):
            assert all((b["rate_low"] is not None) is told for b in row[kind]["reliability"])
            assert all((b["rate_high"] is not None) is told for b in row[kind]["reliability"])


def test_without_any_label_left_there_is_no_mean(test: Units, validation: Units) -> None:
    validation.truth[:] = NAN
    found = decisions_section(test, LABELS, choose(validation), resamples_of(test, 50))
    assert found["mean"]["mcc"] == {"value": None, "interval": None}
    assert found["mean"]["of"] == 0


def test_patients_are_resampled_not_images(tmp_path: Path, validation: Units) -> None:
    """Every image twice, of one patient: the interval is that of the single images."""
    truth = random_truth(50, 5)
    z = random_scores(truth, 6, 1.0)
    names = [f"p{i:02d}" for i in range(50)]
    single = units(tmp_path, truth, z, names)
    twice = units(tmp_path, np.repeat(truth, 2, axis=0), np.repeat(z, 2, axis=0), sorted(names * 2))
    operating = choose(validation)
    a, b = (
        decisions_section(each, LABELS, operating, resamples_of(each, 300))
        for each in (single, twice)
    )
    assert a["mean"] == b["mean"]


def readers_of(truth: Floats, wrong: dict[str, int]) -> dict[str, Floats]:
    """Each is wrong on every k-th image."""
    found = {}
    for name, every in wrong.items():
        decided = truth.copy()
        decided[::every] = 1 - decided[::every]
        found[name] = decided
    return found


@pytest.mark.parametrize("which", ["mcc", "f1"])
def test_radiologists_are_scored_the_same_way(test: Units, validation: Units, which: str) -> None:
    readers = readers_of(test.truth, {"bc4": 3, "bc6": 5, "bc8": 7})
    operating = choose(validation)
    found = radiologists_section(test, LABELS, operating, readers, resamples_of(test, 200))
    values = [
        [PUBLISHED[which](test.truth[:, i], decided[:, i]) for i in range(2)]
        for decided in readers.values()
    ]
    for row, expected in zip(found["readers"], values, strict=True):
        got = [row["labels"][label][which]["value"] for label in LABELS]
        assert got == pytest.approx(expected)
        assert row["mean"][which]["value"] == pytest.approx(np.mean(expected))
    assert found["mean_radiologist"]["mean"][which]["value"] == pytest.approx(np.mean(values))
    model = decisions_section(test, LABELS, operating, resamples_of(test, 200))
    assert found["model"]["mean"] == {k: model["mean"][k] for k in ("mcc", "f1")}
    assert found["difference"]["mean"][which]["value"] == pytest.approx(
        model["mean"][which]["value"] - np.mean(values)
    )
    low, high = found["difference"]["mean"][which]["interval"]
    assert low < found["difference"]["mean"][which]["value"] < high


def test_a_reader_who_decides_as_the_model_does_does_not_differ(
    test: Units, validation: Units
) -> None:
    """The difference is paired: all its draws are 0, unlike those of the two."""
    operating = choose(validation)
    chosen = operating.thresholds[0]
    assert chosen is not None
    twin = {"twin": (test.z > [t.mcc for t in operating.thresholds if t]).astype(np.float32)}
    found = radiologists_section(test, LABELS, operating, twin, resamples_of(test, 200))
    assert found["difference"]["mean"]["mcc"] == {"value": 0.0, "interval": None}
    low, high = found["model"]["mean"]["mcc"]["interval"]
    assert low < high


def test_only_units_that_all_of_them_decided_count(test: Units, validation: Units) -> None:
    readers = readers_of(test.truth, {"bc4": 3, "bc6": 5})
    readers["bc4"][:10] = NAN
    readers["bc6"][:, 1] = NAN
    operating = choose(validation)
    found = radiologists_section(test, LABELS, operating, readers, resamples_of(test, 50))
    edema, effusion = found["labels"]
    assert (edema["n"], edema["not_decided"], edema["excluded"]) == (70, 10, None)
    assert (effusion["n"], effusion["not_decided"]) == (0, 80)
    assert effusion["excluded"] == "not decided by every radiologist"
    expected = matthews_corrcoef(test.truth[10:, 0], readers["bc6"][10:, 0])
    assert found["readers"][1]["labels"]["edema"]["mcc"]["value"] == pytest.approx(expected)
    cut = frozen(validation, 0, "mcc")
    expected = matthews_corrcoef(test.truth[10:, 0], test.z[10:, 0] > cut)
    assert found["model"]["labels"]["edema"]["mcc"]["value"] == pytest.approx(expected)
    assert found["of"] == 1


def test_probabilities_are_fitted_there_and_judged_here(test: Units, validation: Units) -> None:
    found = calibration_section(test, validation, LABELS, "valid", "margin", resamples_of(test, 0))
    assert found["method"] == "Platt on split valid"
    for i, row in enumerate(found["labels"]):
        fit = LogisticRegression(C=np.inf, tol=1e-10).fit(
            validation.z[:, [i]], validation.truth[:, i]
        )
        assert row["platt"]["scale"] == pytest.approx(fit.coef_[0, 0], rel=1e-3)
        assert row["platt"]["bias"] == pytest.approx(fit.intercept_[0], rel=1e-3)
        p = fit.predict_proba(test.z[:, [i]])[:, 1]
        assert row["fitted"]["brier"] == pytest.approx(
            brier_score_loss(test.truth[:, i], p), abs=1e-4
        )
        assert sum(b["n"] for b in row["fitted"]["reliability"]) == 80
        assert "own" not in row  # the sigmoid of a margin is nobody's probability


def test_a_heads_own_probability_is_judged_beside_the_fit(test: Units, validation: Units) -> None:
    validation.truth[:, 1] = 1
    found = calibration_section(test, validation, LABELS, "valid", "head", resamples_of(test, 0))
    for i, row in enumerate(found["labels"]):
        p = 1 / (1 + np.exp(-test.z[:, i].astype(np.float64)))
        assert row["own"]["brier"] == pytest.approx(brier_score_loss(test.truth[:, i], p))
    assert found["labels"][1]["platt"] is None
    assert found["labels"][1]["excluded"] == "one class only in the validation split"


def test_equal_scores_can_not_be_calibrated(test: Units, validation: Units) -> None:
    validation.z[:, 0] = 0.25
    found = calibration_section(test, validation, LABELS, "valid", "margin", resamples_of(test, 0))
    assert found["labels"][0]["excluded"] == "all validation scores are equal"
    assert found["labels"][0]["fitted"] is None
