"""Radiologists' decisions on CheXpert's test studies, from the label repository.

FOLDER/bc4.csv, bc6.csv, bc8.csv      `Study` and the labels, 1 or 0; any CSV of that shape

A decision on a study counts for each of its images, as the labels do. Columns are found by name:
these files have Lung Lesion and Lung Opacity the other way round than groundtruth.csv.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tier_infer.big_tables import known_labels, read_table
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.label_sets import column_id

STUDY = "Study"
Decisions = dict[str, dict[str, int]]  # study → label id → 1 or 0


def read_radiologists(
    folder: Path, cohort: Cohort
) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    """Name of the file → decisions [N, L], 1, 0 or NaN: rows and columns of the cohort's truth; and
    notes of who decided on how many of its studies, and what stands on one side only.

    Raises UsageError for a folder without such a file, for one that decides on nothing of the
    cohort or is the truth itself, and by line for a table that is odd.
    """
    found, notes = {}, []
    studies = {case.study for case in cohort.cases if case.study}
    labels = set(cohort.labels)
    for path, decisions in _files(folder):
        rows = [[decisions.get(case.study, {}).get(label, np.nan) for label in cohort.labels]
                for case in cohort.cases]  # fmt: skip
        table = np.array(rows, np.float32)
        if np.isnan(table).all():
            raise UsageError(f"{path} decides on no study and label of {cohort.name}")
        known = ~np.isnan(cohort.truth) & ~np.isnan(table).all(axis=0)  # [N, L]
        if known.any() and (table[known] == cohort.truth[known]).all():
            raise UsageError(
                f"{path} is the truth of {cohort.name} itself, no radiologist's decisions; move it "
                "elsewhere"
            )
        found[path.stem] = table
        decided = {study for study, known in decisions.items() if labels & set(known)}
        notes.append(
            f"{path.stem}: {len(studies & decided)} of {len(studies)} studies of the cohort; "
            f"{len(set(decisions) - studies)} of the file are not in it"
        )
    return found, tuple(notes)


def _files(folder: Path) -> list[tuple[Path, Decisions]]:
    paths = sorted(p for p in folder.glob("*.csv") if not p.name.startswith("."))
    if not paths:
        raise UsageError(
            f"{folder} holds no CSV of a radiologist's decisions; CheXpert's label repository has "
            "them in radiologists/benchmark_radiologists"
        )
    return [(path, _decisions(path)) for path in paths]


def _decisions(path: Path) -> Decisions:
    columns, lines = read_table(path, (STUDY,))
    at = columns.index(STUDY)
    labels = [(i, column_id(c)) for i, c in enumerate(columns) if i != at]
    ids = [label for _, label in labels]
    twice = sorted({label for label in ids if ids.count(label) > 1})
    if twice:
        raise UsageError(f"{path} has two columns for {', '.join(twice)}; leave one of them out")
    decisions: Decisions = {}
    for line, cells in lines:
        study = "/".join(cells[at].split("/")[-2:])  # CheXpert-v1.0/test/patient64741/study1
        if study in decisions:
            raise UsageError(f"{path} line {line}: the study stood in a line before")
        decisions[study] = known_labels(path, line, cells, labels)
    return decisions
