"""The paper's tables from data and checkpoints: each row an ordinary evaluation in its own folder.

A row keeps its scores, so that an interrupted table goes on where it stopped, and its report, so
that a later run of other rows keeps it. What is missing is named by the option that would bring it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.evaluation.cautions import cautions
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.evaluation.report import write_report
from tier_infer.evaluation.run import Plan, evaluate
from tier_infer.evaluation.scores import ScoreTable, read_scores
from tier_infer.label_sets import load_label_set
from tier_train.evaluation.assembled import SCHEMA, assembled
from tier_train.evaluation.beside import TWINS, difference
from tier_train.evaluation.kept import check_folder, earlier_rows
from tier_train.evaluation.rows import NEEDS, OURS, TABLES, Row, Table, readable
from tier_train.evaluation.scorers import open_scorer

Tell = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Given:
    """What the user named; empty or None where he did not."""

    checkpoints: Mapping[str, Sequence[Path]]  # row → its files
    dataset: str | None
    validation: str | None  # split of the dataset
    radiologists: Path | None
    draws: int = 2000
    seed: int = 0
    device: str = "cpu"


def reproduce(name: str, given: Given, output: Path, tell: Tell, say: Say) -> dict[str, Any]:
    """The table as a dict that JSON can hold (`assembled`). UsageError where no row can run."""
    table = TABLES[name]
    ready = [row for row in table.rows if given.checkpoints.get(row.name)]
    _check_given(table, given, ready)
    for row_name in dict.fromkeys(row.name for row in ready):
        readable(row_name, given.checkpoints[row_name])
    check_folder(output, SCHEMA, f"{name}.json", (f"{name}.csv", f"{name}.md"))
    cohort = open_cohort(str(given.dataset))
    validation = open_cohort(str(given.dataset), given.validation) if given.validation else None
    labels = [label.id for label in load_label_set(table.queries).labels]
    read, drawn = given.radiologists is not None, (given.draws, given.seed)
    found = {
        folder: _kept(report, output / folder, cohort)
        for folder, report in earlier_rows(
            table, ready, output, cohort, validation, read, drawn
        ).items()
    }
    for row in ready:
        say(f"{row.folder}: {row.unit}")
        found[row.folder] = _evaluated(row, table, labels, cohort, validation, given, output, tell)
    reports = {row.folder: found[row.folder] for row in table.rows if row.folder in found}
    apart = None
    if all(twin in found for twin in TWINS):
        apart = difference(output, cohort, table.rows[0].unit, *drawn)
    return assembled(table, labels, reports, needs(table, given, reports), cohort.notes, apart)


def _kept(report: dict[str, Any], folder: Path, cohort: Cohort) -> dict[str, Any]:
    """A report of before; its notes are the dataset's and then the cautions."""
    warnings = [note for note in report["dataset"]["notes"] if note not in cohort.notes]
    return report | {"cautions": warnings, "scored": _scored(read_scores(folder)), "before": True}


def _scored(table: ScoreTable) -> str:
    """A digest of which images have a score: equal ones make equal units."""
    return hashlib.sha256(table.scored.tobytes()).hexdigest()


def _evaluated(
    row: Row,
    table: Table,
    labels: list[str],
    cohort: Cohort,
    validation: Cohort | None,
    given: Given,
    output: Path,
    tell: Tell,
) -> dict[str, Any]:
    """The row's report, also written into its folder."""
    scorer = open_scorer(given.checkpoints[row.name], cohort, row.asked(labels, given.device))
    warnings = cautions(scorer, cohort, row.unit)
    cohort = replace(cohort, notes=(*cohort.notes, *warnings))
    plan = Plan(row.unit, given.draws, given.seed)
    if row.protocol == OURS and table.decisions:  # other protocols have other rules of a threshold
        plan = replace(plan, validation=validation, radiologists=given.radiologists)
    done = evaluate(cohort, scorer, plan, output / row.folder, tell)
    write_report(done.report, output / row.folder)
    return done.report | {"cautions": warnings, "scored": _scored(done.table), "before": False}


def needs(table: Table, given: Given, found: Mapping[str, Any]) -> dict[str, str]:
    """Row or figure that can't run → the options that it needs."""
    lacking = {}
    for row in table.rows:
        if row.folder not in found:
            lacking[row.name] = NEEDS[row.name]
    if table.decisions and not given.validation:
        lacking["mcc"] = lacking["f1"] = "--validation SPLIT, to choose thresholds on"
    if table.decisions and not (given.radiologists and given.validation):
        missing = ["--validation SPLIT"] * (not given.validation)
        missing += ["--radiologists DIR, of CheXpert's label repository"] * (not given.radiologists)
        lacking["radiologists"] = " and ".join(missing)
    return lacking


def _check_given(table: Table, given: Given, ready: Sequence[Row]) -> None:
    known = {row.name for row in table.rows}
    unused = [name for name, paths in given.checkpoints.items() if paths and name not in known]
    if unused:
        raise UsageError(
            f"{table.name} has no row for --{unused[0]}; its rows are {', '.join(sorted(known))}"
        )
    if not table.decisions and (given.validation or given.radiologists):
        raise UsageError(
            f"{table.name} has no MCC and F1: leave --validation and --radiologists out"
        )
    if given.dataset is not None and given.dataset.partition(":")[0] != table.kind:
        raise UsageError(
            f"{table.name} is of another dataset than {given.dataset}: --dataset {table.kind}:ROOT"
        )
    if given.dataset is None or not ready:
        lacking = [] if given.dataset else [f"--dataset {table.kind}:ROOT"]
        if not ready:
            some = dict.fromkeys(NEEDS[row.name] for row in table.rows)
            lacking.append("at least one of " + "; ".join(some))
        raise UsageError(f"{table.name} not run: needs {', and '.join(lacking)}")
