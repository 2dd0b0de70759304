"""AUC of a bundle on labelled images: CSV with `image_path` and label columns → one row per label.

Truth is 1, 0 or empty; an empty cell is masked, never counted as negative. Intervals resample
patients where the CSV has `patient_id`, else images.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import Bundle
from tier_infer.engine import Engine
from tier_infer.errors import UsageError
from tier_infer.label_sets import column_id
from tier_infer.metrics import bootstrap_auc, roc_auc
from tier_infer.scoring import ImageResult, score_images, select_labels
from tier_infer.tables import Lines, read_csv

ALL = "(all)"


@dataclass(frozen=True)
class AucRow:
    group: str  # ALL, or a value of the column that was grouped by
    label: str
    auc: float
    low: float  # 95 % bootstrap interval
    high: float
    positives: int
    negatives: int


@dataclass(frozen=True)
class LabelledImages:
    lines: Lines
    folder: Path
    columns: dict[str, str]  # label id → CSV column

    def column(self, name: str) -> list[str]:
        return [cells[name].strip() for _, cells in self.lines]


def read_labels(path: Path, split: str | None) -> LabelledImages:
    """Raises UsageError for a CSV that could be understood in two ways."""
    _, columns, lines = read_csv(path, ("image_path",))
    ids = [column_id(c) for c in columns]
    twice = [c for c, i in zip(columns, ids, strict=True) if ids.count(i) > 1]
    if twice:
        raise UsageError(f"{path}: columns {', '.join(map(repr, twice))} are no distinct names")
    if split is not None:
        if "split" not in columns:
            raise UsageError(f"{path} has no split column; leave --split out")
        lines = [(n, cells) for n, cells in lines if cells["split"].strip() == split]
        if not lines:
            raise UsageError(f"{path} has no row with split {split!r}")
    return LabelledImages(lines, path.parent, dict(zip(ids, columns, strict=True)))


def evaluate(
    images: LabelledImages,
    bundle: Bundle,
    engine: Engine,
    labels: list[str] | None,
    group_by: str | None = None,
    draws: int = 1000,
) -> tuple[list[AucRow], list[ImageResult]]:
    """AUC rows and every image result; a refused image is left out of the AUC and stays listed."""
    selection = select_labels(bundle, _covered(images, bundle) if labels is None else labels)
    truth = {name: _truth(images, name) for name in selection.names}
    groups = _groups(images, group_by)
    patients = _patients(images)
    paths = [str(images.folder / name) for name in images.column("image_path")]
    missing = [p for p in paths if not os.path.isfile(p)]
    if missing:
        raise UsageError(
            f"{len(missing)} images of the CSV do not exist, the first is {missing[0]}"
        )
    results = list(score_images(paths, bundle, engine, selection))
    scored = np.array([result.status == "scored" for result in results])
    table = []
    for name in selection.names:
        z = np.array([result.scores.get(name, np.nan) for result in results])
        known = scored & ~np.isnan(truth[name])
        for group in (None, *(sorted(set(groups)) if group_by else ())):
            used = known if group is None else known & (np.array(groups) == group)
            if used.any():
                y, s = truth[name][used], z[used]
                low, high = bootstrap_auc(y, s, patients[used], draws)
                counts = int(y.sum()), int((1 - y).sum())
                table.append(
                    AucRow(ALL if group is None else group, name, roc_auc(y, s), low, high, *counts)
                )
    return table, results


def _covered(images: LabelledImages, bundle: Bundle) -> list[str]:
    known = bundle.manifest.label_sets[bundle.manifest.default_set]["labels"]
    labels = [label for label in known if label in images.columns]
    if not labels:
        raise UsageError(f"the CSV has none of the bundle's labels as a column: {', '.join(known)}")
    return labels


def _truth(images: LabelledImages, name: str) -> NDArray[np.float64]:
    """1, 0 or NaN (empty) per row."""
    label = name.rpartition(":")[2]
    if label not in images.columns:
        raise UsageError(f"the CSV has no column for label {name}")
    cells = images.column(images.columns[label])
    values = {"": np.nan, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
    odd = [line for (line, _), cell in zip(images.lines, cells, strict=True) if cell not in values]
    if odd:
        raise UsageError(
            f"line {odd[0]}: {images.columns[label]} must be 1, 0 or empty (empty means unknown)"
        )
    truth = np.array([values[cell] for cell in cells])
    if np.isnan(truth).all():
        raise UsageError(f"column {images.columns[label]} is empty in every row that is used")
    return truth


def _patients(images: LabelledImages) -> NDArray[np.str_]:
    """What the bootstrap resamples; a row without patient_id is a patient of its own."""
    if "patient_id" not in images.columns.values():
        return np.array([str(n) for n in range(len(images.lines))])
    ids = images.column("patient_id")
    return np.array([f"id {i}" if i else f"row {n}" for n, i in enumerate(ids)])


def _groups(images: LabelledImages, group_by: str | None) -> list[str]:
    if group_by is None:
        return [""] * len(images.lines)
    if group_by == "folder":
        return [Path(name).parent.name for name in images.column("image_path")]
    if group_by not in images.columns.values():
        raise UsageError(f"--group-by {group_by!r} is no column of the CSV; `folder` always works")
    return images.column(group_by)
