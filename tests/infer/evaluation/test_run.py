"""python -m pytest tests/infer/evaluation/test_run.py -- from cohort to report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.infer.evaluation.fakes import (
    LABELS,
    NAN,
    TRUTH,
    GreyScorer,
    N,
    V,
    Z,
    failing,
    halves,
)
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.report import write_report
from tier_infer.evaluation.run import Plan, covered, evaluate, lacking

SECRETS = ("PATIENT", "STUDY")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Cohort]:
    """Test and validation, in which image 3 is missing."""
    return halves(tmp_path_factory.mktemp("images"))


def test_areas_are_scikit_learns(pair: tuple[Cohort, Cohort], tmp_path: Path) -> None:
    report = evaluate(pair[0], GreyScorer(Z), Plan(draws=100), None).report
    expected = [roc_auc_score(TRUTH[:N, i], Z[:N, i]) for i in range(2)]
    assert [row["auc"] for row in report["auc"]["labels"]] == pytest.approx(expected)
    assert report["auc"]["mean"] == pytest.approx(np.mean(expected))
    low, high = report["auc"]["mean_interval"]
    assert low < np.mean(expected) < high
    assert report["dataset"]["patients"] == N / 2
    assert report["dataset"]["studies"] == N
    assert report["images"] == {"scored": N, "not_evaluated": 0, "failed": 0, "reasons": {}}
    assert not set(report) & {"validation", "decisions", "comparison", "groups", "radiologists"}


def test_one_run_has_everything_and_a_second_writes_the_same(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    """The first is interrupted while it scores validation images."""
    test, valid = pair
    evaluate(test, GreyScorer(-Z), Plan(draws=0), tmp_path / "other")
    plan = Plan(draws=50, group_by="sex", validation=valid, against=tmp_path / "other")
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(test, GreyScorer(Z, stop_at=N + 10), plan, folder)
    found, files = [], []
    for _ in range(2):
        report = evaluate(test, GreyScorer(Z), plan, folder).report
        write_report(report, folder)
        found.append(json.dumps(report, allow_nan=False))
        names = ("scores.csv", "report.json", "report.csv", "report.md", "validation/scores.csv")
        files.append([(folder / name).read_bytes() for name in names])
    assert files[0] == files[1]
    assert evaluate(test, GreyScorer(Z), plan, tmp_path / "again").report == report
    assert json.loads(files[0][1]) == report
    for text in (*found, *(data.decode() for data in files[0])):
        assert not any(secret in text for secret in SECRETS)
    assert report["validation"]["images"]["reasons"] == {"failed missing": 1}
    assert report["decisions"]["labels"][0]["chosen_on"]["n"] == V - 1
    assert report["comparison"]["labels"][0]["rank_correlation"] == pytest.approx(-1)
    women = np.arange(0, N, 2)
    group = report["groups"]["values"][0]
    assert (group["value"], group["units"]) == ("F", N / 2)
    expected = roc_auc_score(TRUTH[women, 1], Z[women, 1])
    assert group["labels"][1]["auc"] == pytest.approx(expected)


def test_a_study_of_two_values_belongs_to_no_group(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    cases = [replace(case, study=case.patient) for case in pair[0].cases]
    test = replace(pair[0], cases=tuple(cases))  # every study has a woman and a man
    plan = Plan("study_mean", 0, group_by="sex")
    groups = evaluate(test, GreyScorer(Z), plan, None).report["groups"]
    assert groups["units_of_several_values"] == N / 2
    assert [value["units"] for value in groups["values"]] == [0, 0]


def test_labels_of_one_class_are_excluded_and_said(pair: tuple[Cohort, Cohort]) -> None:
    truth = pair[0].truth.copy()
    truth[:, 0] = 1
    report = evaluate(replace(pair[0], truth=truth), GreyScorer(Z), Plan(draws=20), None).report
    edema, effusion = report["auc"]["labels"]
    assert (edema["auc"], edema["interval"], edema["excluded"]) == (None, None, "one class only")
    assert report["auc"]["mean"] == effusion["auc"]
    assert report["auc"]["mean_of"] == 1
    assert "No AUC of edema: one class only" in report["remarks"]


def test_nothing_scored_is_a_report_too(pair: tuple[Cohort, Cohort], tmp_path: Path) -> None:
    test, valid = failing(pair[0], range(N)), failing(pair[1], range(V))
    evaluate(test, GreyScorer(Z), Plan(draws=0), tmp_path / "other")
    plan = Plan(draws=20, group_by="sex", validation=valid, against=tmp_path / "other")
    report = evaluate(test, GreyScorer(Z), plan, None).report
    write_report(report, tmp_path)
    assert report["images"]["reasons"] == {"failed missing": N}
    assert report["auc"]["mean"] is None
    assert report["comparison"]["mean"]["of"] == 0
    assert report["decisions"]["mean"]["of"] == 0


def test_no_draws_no_intervals(pair: tuple[Cohort, Cohort], tmp_path: Path) -> None:
    evaluate(pair[0], GreyScorer(-Z), Plan(draws=0), tmp_path)
    report = evaluate(pair[0], GreyScorer(Z), Plan(draws=0, against=tmp_path), None).report
    assert report["auc"]["mean"] is not None
    assert report["auc"]["mean_interval"] is None
    assert report["comparison"]["mean"]["interval"] is None
    assert any("shows no difference" in remark for remark in report["remarks"])


def copied(pair: tuple[Cohort, Cohort], known: bool, here: bool = True) -> tuple[Cohort, Cohort]:
    """Two validation images are copies of test images under other names."""
    test, valid = pair
    places = []
    for k in range(2):
        path = valid.root / f"copy{k}.png"
        shutil.copyfile(test.root / test.cases[k].place, path)
        places.append(path.name)
    cases = [
        replace(case, image_path=place, place=place, patient=f"PATIENTx{k}" if known else "")
        for k, (case, place) in enumerate(zip(valid.cases, places, strict=False))
    ]
    first = [case if here else replace(case, patient="") for case in test.cases]
    return replace(test, cases=tuple(first)), replace(valid, cases=(*cases, *valid.cases[2:]))


@pytest.mark.parametrize(("known", "here"), [(False, True), (True, False)])
def test_copies_of_test_images_choose_no_thresholds(
    pair: tuple[Cohort, Cohort], known: bool, here: bool
) -> None:
    test, valid = copied(pair, known, here)
    with pytest.raises(UsageError, match=r"2 images of .* have the same pixels") as caught:
        evaluate(test, GreyScorer(Z), Plan(draws=0, validation=valid), None)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_copies_under_other_patients_are_remarked(pair: tuple[Cohort, Cohort]) -> None:
    test, valid = copied(pair, True)
    report = evaluate(test, GreyScorer(Z), Plan(draws=0, validation=valid), None).report
    assert report["validation"]["same_pixels"] == 2
    assert any("2 images of the validation split have the pixels" in r for r in report["remarks"])


def test_a_split_that_shares_patients_or_images_is_refused(pair: tuple[Cohort, Cohort]) -> None:
    test, valid = pair
    shared = replace(valid, cases=(replace(valid.cases[0], patient="PATIENT0"), *valid.cases[1:]))
    with pytest.raises(UsageError, match="share 1 patients and 0 images") as caught:
        evaluate(test, GreyScorer(Z), Plan(validation=shared), None)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    whole = replace(test, split="")
    with pytest.raises(UsageError, match="add --split test, since all of"):
        evaluate(whole, GreyScorer(Z), Plan(validation=shared), None)
    nobody = [replace(case, patient="") for case in test.cases]
    with pytest.raises(UsageError, match=f"share 0 patients and {N} images"):
        evaluate(test, GreyScorer(Z), Plan(validation=replace(test, cases=tuple(nobody))), None)


def test_images_shared_under_another_spelling_are_refused(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    test, valid = pair
    (tmp_path / "link").symlink_to(test.root)
    for place in ("./000.png", str(test.root / "000.png"), str(tmp_path / "link/000.png")):
        case = replace(valid.cases[0], image_path=place, place=place)
        shared = replace(valid, cases=(case, *valid.cases[1:]))
        with pytest.raises(UsageError, match="share 0 patients and 1 images"):
            evaluate(test, GreyScorer(Z), Plan(validation=shared), None)


def test_validation_pictures_that_changed_are_not_used_again(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    test, valid = pair
    evaluate(test, GreyScorer(Z), Plan(draws=0, validation=valid), tmp_path)
    scorer = GreyScorer(Z)
    with pytest.raises(UsageError, match="validation holds scores from before images"):
        evaluate(test, scorer, Plan(draws=0, validation=failing(valid, [4])), tmp_path)
    assert scorer.seen == 0


def test_a_comparison_is_of_the_same_dataset_after_a_copy(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    """Of the pixels its scores tell; times of files are nothing to compare models by."""
    shutil.copytree(pair[0].root, tmp_path / "images", copy_function=shutil.copyfile)
    copied = replace(pair[0], root=tmp_path / "images")
    evaluate(copied, GreyScorer(-Z), Plan(draws=0), tmp_path / "other")
    plan = Plan(draws=0, against=tmp_path / "other")
    comparison = evaluate(pair[0], GreyScorer(Z), plan, None).report["comparison"]
    assert comparison["same"]["dataset"] is True
    assert comparison["images"]["of_same_pixels"] == N


def test_what_can_not_be_computed_is_refused_before_scoring(
    pair: tuple[Cohort, Cohort], tmp_path: Path
) -> None:
    scorer = GreyScorer(Z)
    for plan, said in (
        (Plan(group_by="age"), "no column 'age' to group by; it has sex"),
        (Plan(radiologists=tmp_path), "add --validation"),
        (Plan(against=tmp_path), "can't be opened"),
    ):
        with pytest.raises(UsageError, match=said):
            evaluate(pair[0], scorer, plan, None)
    with pytest.raises(UsageError, match="no column for nodule"):
        evaluate(pair[0], GreyScorer(Z, ("lungs:edema", "lungs:nodule")), Plan(), None)
    other = replace(pair[1], labels=("edema", "mass"))
    with pytest.raises(UsageError, match="no column for effusion"):
        evaluate(pair[0], scorer, Plan(validation=other), None)
    many = replace(pair[0], groups={"ward": tuple(str(i) for i in range(51))})
    with pytest.raises(UsageError, match="'ward' has 51 values"):
        evaluate(many, scorer, Plan(group_by="ward"), None)
    assert scorer.seen == 0


def test_truth_unknown_is_left_out(pair: tuple[Cohort, Cohort]) -> None:
    truth = pair[0].truth.copy()
    truth[::3, 0] = NAN
    report = evaluate(replace(pair[0], truth=truth), GreyScorer(Z), Plan(draws=20), None).report
    known = ~np.isnan(truth[:, 0])
    row = report["auc"]["labels"][0]
    assert row["n"] == known.sum()
    assert row["auc"] == pytest.approx(roc_auc_score(truth[known, 0], Z[:N][known, 0]))


def test_labels_that_the_dataset_knows(pair: tuple[Cohort, Cohort]) -> None:
    assert covered(pair[0], ["effusion", "nodule", "edema"]) == ["effusion", "edema"]
    assert lacking(pair[0], ["effusion", "edema"]) == ()
    assert lacking(pair[0], ["effusion", "nodule", "edema", "mass"]) == (
        "no truth for 2 of the set's 4 labels: nodule, mass",
    )
    with pytest.raises(UsageError, match="none of the set's labels as a column: nodule"):
        covered(pair[0], ["nodule"])
    assert LABELS == ("edema", "effusion")
