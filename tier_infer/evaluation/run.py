"""One evaluation from cohort to report: score what is missing, then measure all of it.

The report is a dict that JSON can hold: everything that is printed, written or plotted comes from
it, and a second run over the same folder finds the same scores and computes the same report.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import NOTICE
from tier_infer.errors import UsageError
from tier_infer.evaluation.calibrated import calibration_section
from tier_infer.evaluation.cohort import Cohort, bare, described
from tier_infer.evaluation.compare import Compared, compare
from tier_infer.evaluation.measure import (
    Areas,
    areas_of,
    auc_section,
    check_column,
    groups_section,
    resamples_of,
)
from tier_infer.evaluation.operating import (
    Operating,
    choose,
    decisions_section,
    radiologists_section,
)
from tier_infer.evaluation.other import Other, read_other
from tier_infer.evaluation.places import resolved
from tier_infer.evaluation.radiologists import read_radiologists
from tier_infer.evaluation.remarks import remarks_of
from tier_infer.evaluation.scores import Scorer, ScoreTable, plan_of, score_cohort
from tier_infer.evaluation.units import Units, patients_in, studies_in, units_of

SCHEMA = "tier-evaluate/1"
VALIDATION = "validation"  # folder of its scores
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What to compute of the scores; see `tier-infer evaluate -h`."""

    protocol: str = "per_image"
    draws: int = 2000
    seed: int = 0
    group_by: str | None = None
    validation: Cohort | None = None  # thresholds and calibration are fitted here, and frozen
    against: Path | None = None  # scores.csv of another model, or its folder
    radiologists: Path | None = None  # folder of their decisions


@dataclass(frozen=True)
class Evaluated:
    """`report` for files and screens; the rest for plots."""

    report: dict[str, Any]
    cohort: Cohort
    table: ScoreTable
    units: Units
    areas: Areas
    compared: Compared | None = None


@dataclass(frozen=True)
class _Given:
    """What the plan names, opened before an hour of scoring rather than after."""

    other: Other | None
    readers: Mapping[str, NDArray[np.float32]]  # [N, labels of the cohort]
    notes: tuple[str, ...]  # of what the readers read


def evaluate(
    cohort: Cohort,
    scorer: Scorer,
    plan: Plan,
    folder: Path | None,
    tell: Tell = lambda done, total: None,
) -> Evaluated:
    """`folder` keeps the scores, so that an interrupted run goes on; None: nothing is kept."""
    given = _check(cohort, scorer, plan)
    fitted_on: ScoreTable | None = None
    with _folder(folder) as place:
        table = score_cohort(cohort, scorer, place, tell)
        if plan.validation is not None:
            fitted_on = score_cohort(plan.validation, scorer, place / VALIDATION, tell)
            copies = _copies(cohort, table, plan.validation, fitted_on)
    units = units_of(cohort, table, plan.protocol)
    resamples = resamples_of(units, plan.draws, plan.seed)
    areas = areas_of(units, scorer.labels, resamples)
    report = _head(cohort, scorer, plan, table, units)
    report["auc"] = {"draws": plan.draws, "seed": plan.seed} | auc_section(areas)
    operating: Operating | None = None
    if plan.validation is not None and fitted_on is not None:
        validation = units_of(plan.validation, fitted_on, plan.protocol)
        operating = choose(validation)
        report["validation"] = _dataset(plan.validation) | {"images": _images(fitted_on)}
        report["validation"] |= {"units": len(validation), "same_pixels": copies}
        report["decisions"] = decisions_section(units, scorer.labels, operating, resamples)
        scoring = str(scorer.identity.get("scoring"))
        report["calibration"] = calibration_section(
            units, validation, scorer.labels, plan.validation.split, scoring, resamples
        )
        if given.readers:
            columns = [cohort.labels.index(bare(label)) for label in scorer.labels]
            readers = {name: units.of_cases(r[:, columns]) for name, r in given.readers.items()}
            report["radiologists"] = radiologists_section(
                units, scorer.labels, operating, readers, resamples
            ) | {"notes": list(given.notes)}
    compared: Compared | None = None
    if given.other is not None:
        compared = compare(cohort, table, given.other, plan.protocol, areas, resamples, operating)
        report["comparison"] = compared.section
    if plan.group_by is not None:
        report["groups"] = groups_section(
            cohort, units, scorer.labels, plan.group_by, plan.draws, plan.seed
        )
    report["remarks"] = remarks_of(report)
    return Evaluated(report, cohort, table, units, areas, compared)


def covered(cohort: Cohort, labels: Mapping[str, Any] | list[str]) -> list[str]:
    """Those of a set's labels that the dataset knows. UsageError where there is none, and for a
    column of that name whose cells are no truth."""
    for label in cohort.odd:
        if label in labels:
            cohort.truth_of(label)
    found = [label for label in labels if label in cohort.labels]
    if not found:
        raise UsageError(
            f"{cohort.name} has none of the set's labels as a column: {', '.join(labels)}"
        )
    return found


def lacking(cohort: Cohort, labels: Mapping[str, Any] | list[str]) -> tuple[str, ...]:
    """A note that names those of a set's labels that the dataset lacks; none where it has all."""
    without = [label for label in labels if label not in cohort.labels]
    if not without:
        return ()
    return (f"no truth for {len(without)} of the set's {len(labels)} labels: {', '.join(without)}",)


def _check(cohort: Cohort, scorer: Scorer, plan: Plan) -> _Given:
    """UsageError for what can't be evaluated."""
    truth = [cohort.truth_of(bare(label)) for label in scorer.labels]
    if all(np.isnan(y).all() for y in truth):
        raise UsageError(
            f"{cohort.name}: {', '.join(scorer.labels)} are empty in every row that is used"
        )
    if plan.group_by is not None:
        check_column(cohort, plan.group_by)
    if plan.validation is not None:
        for label in scorer.labels:
            plan.validation.truth_of(bare(label))
        _check_apart(cohort, plan.validation)
    elif plan.radiologists is not None:
        raise UsageError(
            "radiologists are compared at thresholds chosen elsewhere; add --validation SPLIT"
        )
    other = None
    if plan.against is not None:
        other = read_other(plan.against, cohort, scorer.labels, plan_of(cohort, scorer))
    readers: Mapping[str, NDArray[np.float32]] = {}
    notes: tuple[str, ...] = ()
    if plan.radiologists is not None:
        readers, notes = read_radiologists(plan.radiologists, cohort)
    return _Given(other, readers, notes)


def _check_apart(cohort: Cohort, validation: Cohort) -> None:
    """Thresholds chosen on the patients that they are judged on would be no test."""
    here = {case.patient for case in cohort.cases if case.patient}
    patients = len(here & {case.patient for case in validation.cases if case.patient})
    paths = {case.image_path for case in cohort.cases}
    places = set(_places(cohort))
    images = sum(
        case.image_path in paths or place in places
        for case, place in zip(validation.cases, _places(validation), strict=True)
    )
    if patients or images:
        whole = f"add --split test, since all of {cohort.name} is evaluated now"
        raise UsageError(
            f"{cohort.name} and {validation.name} share {patients} patients and {images} images; "
            + ("choose thresholds on another split" if cohort.split else whole)
        )


def _copies(cohort: Cohort, table: ScoreTable, validation: Cohort, fitted_on: ScoreTable) -> int:
    """Images of the validation split whose pixels are evaluated, too, under another patient.

    UsageError for copies whose patients are not both known: nothing says that they are apart.
    """
    seen: dict[str, bool] = {}  # digest → whether all its patients are known
    for case, pixels in zip(cohort.cases, table.pixels, strict=True):
        seen[pixels] = seen.get(pixels, True) and bool(case.patient)
    seen.pop("", None)  # of what was not scored
    found = [
        bool(case.patient) and seen[pixels]
        for case, pixels in zip(validation.cases, fitted_on.pixels, strict=True)
        if pixels in seen
    ]
    if not all(found):
        raise UsageError(
            f"{found.count(False)} images of {validation.name} split {validation.split} have the "
            f"same pixels as images of {cohort.name} that are evaluated, and no patient_id tells "
            "them apart: thresholds would be chosen on test images; remove the copies"
        )
    return len(found)


def _places(cohort: Cohort) -> Iterator[str]:
    return resolved(cohort.root, (case.place for case in cohort.cases))


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tier-evaluate-") as temporary:
        yield Path(temporary)


def _head(
    cohort: Cohort, scorer: Scorer, plan: Plan, table: ScoreTable, units: Units
) -> dict[str, Any]:
    """What was evaluated, on what, and what was left out (the tuple of an honest claim)."""
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "model": scorer.identity,
        "geometry": scorer.presets.geometry.name,
        "intensity": scorer.presets.intensity,
        "dataset": _dataset(cohort),
        "images": _images(table),
        "protocol": {"name": plan.protocol, "units": len(units), "left_out": units.left_out},
    }


def _dataset(cohort: Cohort) -> dict[str, Any]:
    return described(cohort) | {
        "studies": studies_in(cohort),
        "patients": patients_in([case.patient for case in cohort.cases]),
        "left_out": dict(cohort.left_out),
        "notes": list(cohort.notes),
    }


def _images(table: ScoreTable) -> dict[str, Any]:
    status = Counter(table.status)
    refused = Counter(
        f"{s} {r}" for s, r in zip(table.status, table.reason, strict=True) if s != "scored"
    )
    return {
        "scored": status["scored"],
        "not_evaluated": status["not_evaluated"],
        "failed": status["failed"],
        "reasons": dict(sorted(refused.items())),
    }
