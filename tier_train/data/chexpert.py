"""CheXpert as a dataset to validate on: images and labels, no text.

valid.csv, train.csv      columns Path, Sex, Age, Frontal/Lateral, AP/PA and 14 labels
val_labels.csv, …         CheXlocalize's: Path and the labels; the view stands in the file's name

Path starts with CheXpert-v1.0[-small]/, which may be a folder in the table's, that folder itself or
nothing; the validation images may lie in `valid` or `val`. 1 and 0 count, -1 and blank are unknown.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tier_infer.errors import UsageError
from tier_train.data.big_tables import known_labels, read_table, rows_digest
from tier_train.data.dataset import Dataset, Row
from tier_train.data.pictures import is_file

PATH, VIEW = "Path", "Frontal/Lateral"
NO_LABELS = (PATH, VIEW, "Sex", "Age", "AP/PA")
SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
TRIED = 100  # rows whose images are looked for, until one is found


def read_chexpert(table: Path) -> Dataset:
    """Raises UsageError for a table of another kind and where none of its images is found."""
    columns, lines = read_table(table, (PATH,))
    labels = [(i, c) for i, c in enumerate(columns) if c not in NO_LABELS]
    path_at, view_at = columns.index(PATH), columns.index(VIEW) if VIEW in columns else None
    rows = []
    seen: dict[str, int] = {}
    splits: dict[str, tuple[str, int]] = {}
    for line, cells in lines:
        path, known = cells[path_at], known_labels(table, line, cells, labels)
        folder = path.split("/")
        # Folders above the release may have any name, so the one before the patient's decides.
        pairs = [p for p in pairwise(folder) if p[0] in SPLITS and p[1].startswith("patient")]
        if not pairs:
            raise UsageError(
                f"{table} line {line}: Path is not like CheXpert-v1.0/valid/patient…/study1/….jpg"
            )
        split, patient = SPLITS[pairs[-1][0]], pairs[-1][1]
        if seen.setdefault(path, line) != line:
            raise UsageError(f"{table} lines {seen[path]} and {line} name the same image")
        first, first_line = splits.setdefault(patient, (split, line))
        if first != split:
            raise UsageError(
                f"{table}: one patient stands in two splits, {first} in line {first_line} and "
                f"{split} in line {line}; scores on such a split would be too good"
            )
        words = (folder[-1] if view_at is None else cells[view_at]).lower()
        view = next((v for v in ("frontal", "lateral") if v in words), "")
        rows.append(Row(path, split, "", known, line, patient, view))
    if not rows or not labels:
        raise UsageError(f"{table} has no {'rows' if labels else 'label columns'}")
    rows = _found(table, rows)
    views = ("frontal", "lateral") if any(r.view == "lateral" for r in rows) else ("frontal",)
    return Dataset(
        path=table,
        name=f"{table.parent.resolve().name}/{table.name}",
        rows=tuple(rows),
        label_columns=tuple(name for _, name in labels),
        intensity="chexpert-jpg",
        views=views,
        sha256=rows_digest(rows),
        kind="chexpert",
    )


def _found(table: Path, rows: list[Row]) -> list[Row]:
    """The rows with paths that lead from the table's folder to the images."""
    for row in rows[:TRIED]:
        for kind, path in enumerate(_places(row.image_path)):
            if is_file(table.parent / path):
                return [replace(row, image_path=_places(row.image_path)[kind]) for row in rows]
    raise UsageError(
        f"none of the first {len(rows[:TRIED])} images of {table} is found; its Path column was "
        "tried from the table's folder and the one above, with and without its first folder, with "
        "`valid` as `val` and the reverse. Put the table where the release has it"
    )


def _places(path: str) -> list[str]:
    _, _, inner = path.partition("/")
    swapped = [
        p.replace("valid/", "val/") if "valid/" in p else p.replace("val/", "valid/")
        for p in (path, inner)
    ]
    return [up + p for p in (path, inner, *swapped) for up in ("", "../")]
