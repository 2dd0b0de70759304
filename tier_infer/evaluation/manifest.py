"""A user's own table: one CSV, one row per image.

image_path   absolute or relative to the CSV's folder; DICOM, PNG or JPEG
patient_id   optional: what intervals resample; empty means unknown, a patient of its own
study_id     optional: what study_mean and first_frontal put together
split        optional, any words
view         optional: AP, PA or frontal, LL, RL or lateral, and such words; empty means unknown
text         optional: the image's own report
any other    a label where its cells are 1, 0 or empty (unknown, not negative), else to group by

Ids and dates under other names are never labels nor groups.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Case, Cohort, cohort_of
from tier_infer.evaluation.id_columns import is_secret, names_nobody, unit_of
from tier_infer.evaluation.places import (
    lacks_split,
    resolved,
    same_patient,
    split_name,
    view_name,
)
from tier_infer.label_sets import column_id
from tier_infer.tables import Lines, read_csv

KNOWN = ("image_path", "patient_id", "study_id", "split", "view", "text", "intensity")
UNITS = ("patient_id", "study_id")
SECRET = ("image_path", "text", *UNITS)  # never the name of a group
VALUES = {"": np.nan, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}


def read_manifest(path: Path, split: str | None) -> Cohort:
    """Raises UsageError for a CSV that could be understood in two ways; messages name lines."""
    _, columns, lines = read_csv(path, ("image_path",))
    name = f"{path.parent.resolve().name}/{path.name}"
    _refuse_other_ids(path, columns)
    others = [c for c in columns if c not in KNOWN and column_id(c) and not is_secret(c)]
    odd = {c: _odd_line(path, c, lines) for c in others}
    labels = [c for c in others if not odd[c]]
    ids = {column_id(c) for c in labels}
    cases = [_case(path, n, cells) for n, cells in lines]
    _refuse_twins(path, cases)  # before one of a pair goes with its split
    if split is not None:
        if "split" not in columns:
            raise UsageError(f"{path} has no split column; leave --split out")
        present = {split_name(cells["split"]) for _, cells in lines}
        kept = [i for i, (_, cells) in enumerate(lines) if split_name(cells["split"]) == split]
        if not kept:
            raise lacks_split(str(path), split, present)
        lines, cases = [lines[i] for i in kept], [cases[i] for i in kept]
    truth = [[VALUES[cells[c].strip()] for c in labels] for _, cells in lines]
    grouped = [c for c in columns if c and c not in SECRET and not is_secret(c)]
    groups = {c: tuple(cells[c].strip() for _, cells in lines) for c in grouped}
    if "folder" not in groups:
        groups["folder"] = tuple(Path(case.image_path).parent.name for case in cases)
    return cohort_of(
        "manifest", name, path.parent, split or "", cases, labels,
        np.array(truth, np.float32).reshape(len(cases), len(labels)), groups=groups,
        texts=[cells["text"].strip() for _, cells in lines] if "text" in columns else (),
        odd={i: odd[c] for c in others if odd[c] and (i := column_id(c)) not in ids},
    )  # fmt: skip


def _refuse_other_ids(path: Path, columns: list[str]) -> None:
    for column in columns:
        unit = unit_of(column)
        if unit and unit not in columns:
            what = "a patient" if unit == UNITS[0] else "a study"
            raise UsageError(
                f"{path}: column {column!r} seems to name {what}; call it {unit}, or leave it out"
            )


def _odd_line(path: Path, column: str, lines: Lines) -> int:
    """0 for a label: all filled cells are 1 or 0. Else the first other one's line, and an error
    where most cells are a label's."""
    odd = [n for n, cells in lines if cells[column].strip() not in VALUES]
    filled = sum(bool(cells[column].strip()) for _, cells in lines)
    if odd and 2 * len(odd) <= filled:
        raise UsageError(
            f"{path} line {odd[0]}: {column} must be 1, 0 or empty (empty means unknown), as in "
            "most rows; if it is no label, leave the column out"
        )
    return odd[0] if odd else 0


def _refuse_twins(path: Path, cases: list[Case]) -> None:
    """Nor `a.png` and `./a.png`: a film that counts twice makes every interval too narrow."""
    seen: dict[str, int] = {}
    places = resolved(path.parent, (case.place for case in cases))
    for case, place in zip(cases, places, strict=True):
        first = seen.setdefault(place, case.line)
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
    who, study = (cells.get(unit, "").strip() for unit in UNITS)
    for unit, cell in zip(UNITS, (who, study), strict=True):
        if names_nobody(cell):
            raise UsageError(
                f"{path} line {line}: {unit} is a word for a missing one (nan, N/A, NULL, none, …);"
                " leave the cell empty where it is not known"
            )
    # The place as written: what stands before `..` may be a link.
    return Case(image, image, same_patient(who), study, view, line)
