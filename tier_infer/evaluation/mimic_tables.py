"""The tables of MIMIC-CXR-JPG, plain or gzip, row by row.

Messages name the table and its line; ids that stand there go no further than into file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tier_infer.big_tables import known_labels, read_table, whole_table
from tier_infer.errors import UsageError

IDS = ("dicom_id", "subject_id", "study_id")
FRONTAL = ("AP", "PA")
SPLIT_NAMES = {"train": "train", "validate": "val", "test": "test"}

NUMBER = re.compile("[1-9][0-9]{0,18}")  # one spelling each, or a patient could be two

Study = tuple[str, str]  # subject_id, study_id


class Image(NamedTuple):
    line: int  # in the metadata table
    dicom: str
    subject: str
    study: str
    view: str


class Official(NamedTuple):
    line: int  # in the split table
    split: str  # train, val or test
    study: Study


def find_table(root: Path, name: str) -> Path:
    """The newer version before the older, the plain file before the packed one."""
    pattern = re.compile(rf"mimic-cxr-2\.(\d+)\.(\d+)-{name}\.csv(?:\.gz)?", re.ASCII)
    found: dict[tuple[int, ...], list[Path]] = {}
    for path in root.glob(f"mimic-cxr-2.*-{name}.csv*"):
        if match := pattern.fullmatch(path.name):
            found.setdefault(tuple(map(int, match.groups())), []).append(path)
    if not found:
        raise UsageError(
            f"{root} holds no mimic-cxr-2.*-{name}.csv or .csv.gz; the root of MIMIC-CXR-JPG is "
            "the folder with these tables and with files/p10 … files/p19"
        )
    return whole_table(found[max(found)])


def read_images(table: Path) -> Iterator[Image]:
    columns, rows = read_table(table, (*IDS, "ViewPosition"))
    dicom, subject, study, view = (columns.index(c) for c in (*IDS, "ViewPosition"))
    seen: dict[str, int] = {}
    patients: dict[str, str] = {}
    for line, cells in rows:
        image = Image(line, cells[dicom], cells[subject], cells[study], "frontal")
        if not (image.dicom.isascii() and image.dicom.replace("-", "").isalnum()):
            raise UsageError(f"{table} line {line}: dicom_id is no file name")
        _check_numbers(table, line, image.subject, image.study)
        if seen.setdefault(image.dicom, line) != line:
            raise UsageError(f"{table} lines {seen[image.dicom]} and {line} name the same image")
        if patients.setdefault(image.study, image.subject) != image.subject:
            raise UsageError(
                f"{table} line {line}: the study is another patient's in a line before"
            )
        frontal = cells[view].strip().upper() in FRONTAL
        yield image if frontal else image._replace(view="lateral")


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
    """They make file names and tell patients apart, so nothing but digits may be in them."""
    if not (NUMBER.fullmatch(subject) and NUMBER.fullmatch(study)):
        raise UsageError(f"{table} line {line}: subject_id or study_id is no number")


def read_splits(table: Path) -> dict[str, Official]:
    """dicom_id → where the publisher has it; refuses a patient in two splits."""
    columns, rows = read_table(table, (*IDS, "split"))
    dicom, subject, study, split = (columns.index(c) for c in (*IDS, "split"))
    splits: dict[str, Official] = {}
    seen: dict[str, Official] = {}
    for line, cells in rows:
        name = SPLIT_NAMES.get(cells[split], "")
        if not name:
            raise UsageError(f"{table} line {line}: split is not one of {', '.join(SPLIT_NAMES)}")
        _check_numbers(table, line, cells[subject], cells[study])
        row = Official(line, name, (cells[subject], cells[study]))
        first = seen.setdefault(cells[subject], row)
        if first.split != name:
            raise UsageError(
                f"{table}: one patient stands in two splits, {first.split} in line {first.line} "
                f"and {name} in line {line}; scores on such a split would be too good. Fetch the "
                "publisher's table again, or train with --set split_by=patients"
            )
        if splits.setdefault(cells[dicom], row) is not row:
            raise UsageError(
                f"{table} lines {splits[cells[dicom]].line} and {line} name the same image"
            )
    return splits


def official_splits(table: Path, images: Iterable[Image]) -> dict[str, str]:
    """dicom_id → train, val or test. Patients are apart in the split table, so they are in the
    metadata too once both tables name the same one for each image."""
    published = read_splits(table)
    splits: dict[str, str] = {}
    for image in images:
        row = published.get(image.dicom)
        if row is None:
            continue
        if row.study != (image.subject, image.study):
            raise UsageError(
                f"{table} line {row.line} names another patient or study than line {image.line} of "
                "the metadata table for the same image; fetch both tables again"
            )
        splits[image.dicom] = row.split
    return splits
