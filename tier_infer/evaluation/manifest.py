"""A user's own table: one CSV, one row per image.

image_path   absolute or relative to the CSV's folder; DICOM, PNG or JPEG
patient_id   optional: what intervals resample; empty means unknown, a patient of its own
study_id     optional: what study_mean and first_frontal put together
split        optional, any words
view         optional: AP, PA or frontal, LL, RL or lateral, and such words; empty means unknown
text         optional: the image's own report
any other    a label where its cells are 1, 0 or empty (unknown, not negative), else to group by
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Case, Cohort, cohort_of
from tier_infer.evaluation.places import lacks_split, split_name, view_name
from tier_infer.label_sets import column_id
from tier_infer.tables import Lines, read_csv

KNOWN = ("image_path", "patient_id", "study_id", "split", "view", "text", "intensity")
SECRET = ("image_path", "patient_id", "study_id", "text")  # never the name of a group
VALUES = {"": np.nan, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}


def read_manifest(path: Path, split: str | None) -> Cohort:
    """Raises UsageError for a CSV that could be understood in two ways; messages name lines."""
    _, columns, lines = read_csv(path, ("image_path",))
    name = f"{path.parent.resolve().name}/{path.name}"
    labels = [c for c in columns if c not in KNOWN and _is_label(path, c, lines)]
    if split is not None:
        if "split" not in columns:
            raise UsageError(f"{path} has no split column; leave --split out")
        present = {split_name(cells["split"]) for _, cells in lines}
        lines = [(n, cells) for n, cells in lines if split_name(cells["split"]) == split]
        if not lines:
            raise lacks_split(str(path), split, present)
    truth = [[VALUES[cells[c].strip()] for c in labels] for _, cells in lines]
    cases = [_case(path, n, cells) for n, cells in lines]
    _refuse_twins(path, cases)
    grouped = [c for c in columns if c and c not in SECRET]
    groups = {c: tuple(cells[c].strip() for _, cells in lines) for c in grouped}
    if "folder" not in groups:
        groups["folder"] = tuple(Path(case.image_path).parent.name for case in cases)
    return cohort_of(
        "manifest", name, path.parent, split or "", cases, labels,
        np.array(truth, np.float32).reshape(len(cases), len(labels)), groups=groups,
        texts=[cells["text"].strip() for _, cells in lines] if "text" in columns else (),
    )  # fmt: skip


def _is_label(path: Path, column: str, lines: Lines) -> bool:
    """All filled cells are 1 or 0; where only most of them are, the odd one is an error."""
    if not column_id(column):  # no letter in it: a row counter
        return False
    odd = [n for n, cells in lines if cells[column].strip() not in VALUES]
    filled = sum(bool(cells[column].strip()) for _, cells in lines)
    if odd and 2 * len(odd) <= filled:
        raise UsageError(
            f"{path} line {odd[0]}: {column} must be 1, 0 or empty (empty means unknown), as in "
            "most rows; if it is no label, leave the column out"
        )
    return not odd


def _refuse_twins(path: Path, cases: list[Case]) -> None:
    """Nor `a.png` and `./a.png`: a film that counts twice makes every interval too narrow."""
    seen: dict[str, int] = {}
    for case in cases:
        first = seen.setdefault(case.place, case.line)
        if first != case.line:
            raise UsageError(f"{path} lines {first} and {case.line} name the same image")


def _case(path: Path, line: int, cells: dict[str, str]) -> Case:
    image = cells["image_path"].strip()
    view = view_name(cells.get("view", ""))
    if view is None:
        raise UsageError(
            f"{path} line {line}: view is no word for frontal (AP, PA, frontal, AP supine, …) or "
            "lateral (LL, RL, lateral, …); leave it empty where it is not known"
        )
    if not image or "\0" in image:
        raise UsageError(f"{path} line {line}: image_path is empty or no path")
    place = os.path.normpath(image)  # the user's own table may point anywhere
    who, study = cells.get("patient_id", "").strip(), cells.get("study_id", "").strip()
    return Case(image, place, who, study, view, line)
