"""python -m pytest tests/infer/evaluation/test_remarks.py -- what a reader is kept from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.infer.evaluation.fakes import GreyScorer, N, Z, failing, halves
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.run import Plan, evaluate


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Cohort]:
    """Test and validation, in which image 3 is missing."""
    return halves(tmp_path_factory.mktemp("images"))


def test_a_difference_that_may_be_chance_is_called_so(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    noise = Z + np.random.default_rng(5).normal(0, 0.5, Z.shape).astype(np.float32)
    evaluate(pair[0], GreyScorer(noise), Plan(draws=0), tmp_path / "close")
    evaluate(pair[0], GreyScorer(-Z), Plan(draws=0), tmp_path / "far")
    for name, said in (
        ("close", "No difference of the mean is shown: "),
        ("far", "A difference of the mean is shown: "),
    ):
        plan = Plan(draws=200, against=tmp_path / name)
        report = evaluate(pair[0], GreyScorer(Z), plan, None).report
        assert any(remark.startswith(said) for remark in report["remarks"])
        assert any("patients have several" in remark for remark in report["remarks"])


def compare_with(
    cohort: Cohort, folder: Path, z: NDArray[np.float32], draws: int = 200, **identity: object
) -> tuple[str, dict[str, Any]]:
    """Remarks and comparison of Z with another model's scores."""
    evaluate(cohort, GreyScorer(z, **identity), Plan(draws=0), folder)
    report = evaluate(cohort, GreyScorer(Z), Plan(draws=draws, against=folder), None).report
    return "\n".join(report["remarks"]), report["comparison"]


def alone(cohort: Cohort) -> Cohort:
    """Each image of a patient of its own."""
    cases = [replace(case, patient=f"PATIENT{i}") for i, case in enumerate(cohort.cases)]
    return replace(cohort, cases=tuple(cases))


def test_a_difference_is_of_checkpoints_not_of_methods(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    remarks, found = compare_with(pair[0], tmp_path / "one", -Z, checkpoints=["d" * 64])
    assert (
        "is shown between these checkpoints (one training each; a claim about a method" in remarks
    )
    assert "no common scale" in remarks
    assert "decisions flip" not in remarks
    differ = [row["label"] for row in found["labels"] if row["p_holm"] < 0.05]
    assert differ
    assert f"(DeLong, Holm's p below 0.05): {', '.join(differ)}" in remarks
    remarks, _ = compare_with(pair[0], tmp_path / "two", -Z, checkpoints=["d" * 64, "e" * 64])
    assert "between these checkpoints (a claim about a method needs several seeds)" in remarks


def test_labels_that_do_not_differ_are_not_named(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    noise = Z + np.random.default_rng(5).normal(0, 0.5, Z.shape).astype(np.float32)
    remarks, found = compare_with(pair[0], tmp_path / "noise", noise)
    assert min(row["p_holm"] for row in found["labels"]) > 0.05
    assert "Holm's p below" not in remarks


def test_patients_are_counted_among_the_units(pair: tuple[Cohort, Cohort], tmp_path: Path) -> None:
    """20 patients, of whom one alone has two images that both sides scored: units outnumber
    patients by one, not the dataset's patients."""
    remarks, found = compare_with(alone(pair[0]), tmp_path / "alone", -Z)
    assert "patients have several" not in remarks
    few = failing(pair[0], range(2, N, 2))  # the second image of every patient but one is gone
    remarks, found = compare_with(few, tmp_path / "few", -Z, draws=0)
    assert (found["units"], found["patients"]) == (N / 2 + 1, N / 2)
    assert "patients have several" in remarks


def test_a_dataset_that_changed_is_no_difference_of_models(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    evaluate(replace(pair[0], sha256="0" * 64), GreyScorer(-Z), Plan(draws=0), tmp_path / "before")
    plan = Plan(draws=0, against=tmp_path / "before")
    remarks = "\n".join(evaluate(pair[0], GreyScorer(Z), plan, None).report["remarks"])
    assert "The dataset has changed since" in remarks
    assert "The two models differ" not in remarks


def test_frozen_thresholds_are_taken_as_given(pair: tuple[Cohort, Cohort]) -> None:
    report = evaluate(pair[0], GreyScorer(Z), Plan(draws=50, validation=pair[1]), None).report
    assert any("take the thresholds as given" in remark for remark in report["remarks"])
    few = [r for r in report["remarks"] if "are uncertain" in r]
    chosen = [row["chosen_on"] for row in report["decisions"]["labels"]]
    assert bool(few) is any(min(c["positives"], c["n"] - c["positives"]) < 10 for c in chosen)


@pytest.mark.parametrize(("positives", "few"), [(9, True), (10, False), (30, False), (31, True)])
def test_labels_of_few_cases_are_named(
    pair: tuple[Cohort, Cohort], positives: int, few: bool
) -> None:
    truth = pair[0].truth.copy()
    truth[:, 0] = np.arange(N) < positives
    truth[:, 1] = np.arange(N) < 20
    report = evaluate(
        replace(alone(pair[0]), truth=truth), GreyScorer(Z), Plan(draws=20), None
    ).report
    said = [remark for remark in report["remarks"] if "say little: edema" in remark]
    assert bool(said) is few
