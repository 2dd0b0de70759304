"""CheXpert as a dataset to validate on: images and labels, no text.

Tables with a Path column in any packaging (tier_infer/evaluation/chexpert.py); all their rows.
"""

from __future__ import annotations

import os
from pathlib import Path

from tier_infer.evaluation.chexpert import find_images, forms, read_rows
from tier_train.data.dataset import Dataset, Row, rows_digest


def read_chexpert(table: Path) -> Dataset:
    """Raises UsageError for a table of another kind and where none of its images is found."""
    labels, listed = read_rows(table)
    root, form = find_images(table, [row.path for row in listed])
    up = "" if root == table.parent else f"{os.pardir}/"  # from the table's folder to the images
    rows = [
        Row(up + forms(r.path)[form], r.split, "", r.known, r.line, r.patient, r.view)
        for r in listed
    ]
    views = ("frontal", "lateral") if any(r.view == "lateral" for r in rows) else ("frontal",)
    return Dataset(
        path=table,
        name=f"{table.parent.resolve().name}/{table.name}",
        rows=tuple(rows),
        label_columns=tuple(labels),
        intensity="chexpert-jpg",
        views=views,
        sha256=rows_digest(rows),
        kind="chexpert",
    )
