"""The tables of MIMIC-CXR-JPG, plain or gzip, row by row.

Messages name the table and its line; ids that stand there go no further than into file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tier_infer.errors import UsageError
from tier_train.data.big_tables import known_labels, read_table

IDS = ("dicom_id", "subject_id", "study_id")
FRONTAL = ("AP", "PA")
SPLIT_NAMES = {"train": "train", "validate": "val", "test": "test"}

Study = tuple[str, str]  # subject_id, study_id


class Image(NamedTuple):
    line: int  # in the metadata table
    dicom: str
    subject: str
    study: str
    view: str


def find_table(root: Path, name: str) -> Path:
    """The plain file before the packed one, the newer version before the older."""
    found = sorted(root.glob(f"mimic-cxr-2.*-{name}.csv"))
    found = found or sorted(root.glob(f"mimic-cxr-2.*-{name}.csv.gz"))
    if not found:
        raise UsageError(
            f"{root} holds no mimic-cxr-2.*-{name}.csv or .csv.gz; the root of MIMIC-CXR-JPG is "
            "the folder with these tables and with files/p10 … files/p19"
        )
    return found[-1]


def read_images(table: Path) -> Iterator[Image]:
    columns, rows = read_table(table, (*IDS, "ViewPosition"))
    dicom, subject, study, view = (columns.index(c) for c in (*IDS, "ViewPosition"))
    seen: dict[str, int] = {}
    for line, cells in rows:
        image = Image(line, cells[dicom], cells[subject], cells[study], "frontal")
        if not image.dicom.replace("-", "").isalnum():
            raise UsageError(f"{table} line {line}: dicom_id is no file name")
        _check_numbers(table, line, image.subject, image.study)
        if seen.setdefault(image.dicom, line) != line:
            raise UsageError(f"{table} lines {seen[image.dicom]} and {line} name the same image")
        yield image if cells[view] in FRONTAL else image._replace(view="lateral")


def read_labels(table: Path) -> tuple[tuple[str, ...], dict[Study, dict[str, int]]]:
    """The label columns, and (subject, study) → the known ones."""
    columns, rows = read_table(table, IDS[1:])
    subject, study = columns.index("subject_id"), columns.index("study_id")
    names = [(i, c) for i, c in enumerate(columns) if c not in IDS]
    labels: dict[Study, dict[str, int]] = {}
    for line, cells in rows:
        _check_numbers(table, line, cells[subject], cells[study])
        if (cells[subject], cells[study]) in labels:
            raise UsageError(f"{table} line {line}: the study stood in a line before")
        labels[cells[subject], cells[study]] = known_labels(table, line, cells, names)
    return tuple(name for _, name in names), labels


def _check_numbers(table: Path, line: int, subject: str, study: str) -> None:
    """They make file names, so nothing but digits may be in them."""
    if not (subject.isdecimal() and study.isdecimal()):
        raise UsageError(f"{table} line {line}: subject_id or study_id is no number")


def read_splits(table: Path) -> dict[str, str]:
    """dicom_id → train, val or test, as published; refuses a patient in two of them."""
    columns, rows = read_table(table, (*IDS, "split"))
    dicom, subject, split = (columns.index(c) for c in ("dicom_id", "subject_id", "split"))
    splits: dict[str, str] = {}
    seen: dict[str, tuple[str, int]] = {}
    for line, cells in rows:
        name = SPLIT_NAMES.get(cells[split], "")
        if not name:
            raise UsageError(f"{table} line {line}: split is not one of {', '.join(SPLIT_NAMES)}")
        first, first_line = seen.setdefault(cells[subject], (name, line))
        if first != name:
            raise UsageError(
                f"{table}: one patient stands in two splits, {first} in line {first_line} and "
                f"{name} in line {line}; scores on such a split would be too good. Fetch the "
                "publisher's table again, or train with --set split_by=patients"
            )
        splits[cells[dicom]] = name
    return splits
