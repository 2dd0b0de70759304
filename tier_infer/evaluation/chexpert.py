"""CheXpert in every packaging that its labels are found in.

train.csv, valid.csv, test.csv        Path, Sex, Age, Frontal/Lateral, AP/PA and 14 labels
val_labels.csv, test_labels.csv       CheXlocalize's: Path and the labels; view from the file name
groundtruth.csv                       the label repository's: a row per study, joined to its images

Path starts with CheXpert-v1.0[-small]/, which may be a folder in the table's, that folder itself or
nothing; the validation images may lie in `valid` or `val`. 1 and 0 count, -1 and blank are unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tier_infer.big_tables import known_labels, read_table
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Case, Cohort, cohort_of
from tier_infer.evaluation.places import inside, lacks_split, pictures_in

PATH, STUDY, VIEW, GROUPS = "Path", "Study", "Frontal/Lateral", ("Sex", "AP/PA")
NO_LABELS = (PATH, STUDY, VIEW, "Age", *GROUPS)
FOLDERS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
TABLES = {
    "train": ("train.csv", "train_labels.csv"),
    "val": ("valid.csv", "val.csv", "valid_labels.csv", "val_labels.csv"),
    "test": ("test.csv", "test_labels.csv", "groundtruth.csv"),
}
TRIED = 100  # rows whose images are looked for, until one is found
NO_IMAGE = "study without an image on disk"


class Row(NamedTuple):
    line: int  # in the table
    path: str  # as the table has it: an image, or the folder of a study
    split: str  # train, val or test, by the folder
    patient: str
    study: str  # patient…/study…; "" where the path names none
    view: str  # frontal, lateral or ""
    known: dict[str, int]  # label column → 1 or 0
    uncertain: int  # cells of -1
    groups: tuple[str, ...]  # cells of GROUPS; "" where the table has no such column


def read_chexpert(place: Path, split: str | None) -> Cohort:
    """`place`: a table, or the folder of the release or the one above; split train, val or test.

    Raises UsageError for a split without a table, two tables of one split, a table of another kind
    and where none of its images is found.
    """
    if place.is_file():
        table, above = place, []
    else:
        above = [place, *_releases(place)]
        table = _table(place, above, split := split or "test")
    name = f"{table.parent.resolve().name}/{table.name}"
    unit = STUDY if STUDY in read_table(table, ())[0] else PATH
    labels, rows = read_rows(table, unit)
    present = {row.split for row in rows}
    rows = [row for row in rows if split in (None, row.split)]
    if not rows:
        raise lacks_split(name, str(split), present)
    for row in rows:
        inside(table, row.line, row.path)
    root, form = find_images(table, [row.path for row in rows], above)
    images = [(row, *pair) for row in rows for pair in _images(root, form, row.path, unit)]
    cases = [
        Case(path, where, row.patient, row.study, row.view or _view(path), row.line)
        for row, path, where in images
    ]
    truth = [[row.known.get(label, np.nan) for label in labels] for row, _, _ in images]
    groups = {g: tuple(row.groups[i] for row, _, _ in images) for i, g in enumerate(GROUPS)}
    empty = len({row.line for row in rows} - {case.line for case in cases})
    uncertain = sum(row.uncertain for row in rows)
    notes = [f"{uncertain} uncertain labels (-1) are unknown here"] if uncertain else []
    if unit == STUDY:
        notes.append(f"labels of {len(rows) - empty} studies are joined to each of their images")
    return cohort_of(
        "chexpert", name, root, split or "/".join(sorted(present)), cases, labels,
        np.array(truth, np.float32).reshape(len(cases), len(labels)),
        {NO_IMAGE: empty} if empty else {}, notes,
        {g: cells for g, cells in groups.items() if any(cells)}
        | {"view": tuple(case.view for case in cases)},
    )  # fmt: skip


def read_rows(table: Path, unit: str = PATH) -> tuple[list[str], list[Row]]:
    """The label columns and the rows; `unit` is the column that names an image or a study.

    Raises UsageError for another table, a label that is none, and for a patient in two splits.
    """
    columns, lines = read_table(table, (unit,))
    labels = [(i, c) for i, c in enumerate(columns) if c not in NO_LABELS]
    at = {c: i for i, c in enumerate(columns)}
    rows = []
    seen: dict[str, int] = {}
    splits: dict[str, tuple[str, int]] = {}
    for line, cells in lines:
        path, known = cells[at[unit]], known_labels(table, line, cells, labels)
        folder = path.split("/")
        # Folders above the release may have any name, so the one before the patient's decides.
        pairs = [p for p in pairwise(folder) if p[0] in FOLDERS and p[1].startswith("patient")]
        if not pairs:
            raise UsageError(
                f"{table} line {line}: {unit} is not like CheXpert-v1.0/valid/patient…/study1"
                + ("/….jpg" if unit == PATH else "")
            )
        split, patient = FOLDERS[pairs[-1][0]], pairs[-1][1]
        if seen.setdefault(path, line) != line:
            what = "image" if unit == PATH else "study"
            raise UsageError(f"{table} lines {seen[path]} and {line} name the same {what}")
        first, first_line = splits.setdefault(patient, (split, line))
        if first != split:
            raise UsageError(
                f"{table}: one patient stands in two splits, {first} in line {first_line} and "
                f"{split} in line {line}; scores on such a split would be too good"
            )
        study = next((p for p in folder[folder.index(patient) + 1 :] if p[:5] == "study"), "")
        words = cells[at[VIEW]] if VIEW in at else folder[-1] if unit == PATH else ""
        uncertain = sum(cells[i].startswith("-1") for i, _ in labels)
        groups = tuple(cells[at[g]] if g in at else "" for g in GROUPS)
        study = f"{patient}/{study}" if study else ""
        rows.append(Row(line, path, split, patient, study, _view(words), known, uncertain, groups))
    if not rows or not labels:
        raise UsageError(f"{table} has no {'rows' if labels else 'label columns'}")
    return [name for _, name in labels], rows


def find_images(table: Path, paths: Sequence[str], above: Sequence[Path] = ()) -> tuple[Path, int]:
    """The folder that the images lie below, and which of their `forms` leads there."""
    bases = [*dict.fromkeys((table.parent, table.parent / os.pardir, *above))]
    for path in paths[:TRIED]:
        for form, where in enumerate(forms(path)):
            for base in bases:
                if os.path.exists(base / where):
                    return base, form
    raise UsageError(
        f"none of the first {len(paths[:TRIED])} images of {table} is found; its Path column was "
        "tried from the table's folder and the one above, with and without its first folder, with "
        "`valid` as `val` and the reverse. Put the table where the release has it"
    )


def forms(path: str) -> tuple[str, ...]:
    """With and without the first folder, with `valid` as `val` and the reverse."""
    _, _, inner = path.partition("/")
    swapped = [
        p.replace("valid/", "val/") if "valid/" in p else p.replace("val/", "valid/")
        for p in (path, inner)
    ]
    return path, inner, *swapped


def _images(root: Path, form: int, path: str, unit: str) -> Iterator[tuple[str, str]]:
    """Names as the table has or would have them, and where they are below the root."""
    found = forms(path)
    # The table may have rows of another prefix: each looks for its own where the form misses it.
    ways = (found[form], *found)
    where = next((way for way in ways if os.path.exists(root / way)), found[form])
    if unit == PATH:
        yield path, where
    else:
        for name in pictures_in(root / where):
            yield f"{path}/{name}", f"{where}/{name}"


def _view(words: str) -> str:
    name = words.rpartition("/")[2].lower()
    return next((view for view in ("frontal", "lateral") if view in name), "")


def _releases(place: Path) -> list[Path]:
    return sorted(d for d in place.glob("[cC]he[xX]*") if d.is_dir())


def _table(place: Path, folders: list[Path], split: str) -> Path:
    found = [f / name for f in folders for name in TABLES.get(split, ()) if (f / name).is_file()]
    if len(found) > 1:
        raise UsageError(
            f"{place} holds {len(found)} tables of split {split}: {', '.join(map(str, found))}; "
            "name the one that is meant, chexpert:FILE.csv"
        )
    if not found:
        there = [s for s, names in TABLES.items() for f in folders for n in names
                 if (f / n).is_file()]  # fmt: skip
        known = ", ".join(name for names in TABLES.values() for name in names)
        if not there:
            raise UsageError(f"{place} holds no table of CheXpert: {known}")
        raise lacks_split(str(place), split, there)
    return found[0]
