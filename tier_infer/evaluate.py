"""AUC of a bundle on labelled images: CSV with `image_path` and label columns → one row per label.

Truth is 1, 0 or empty; an empty cell is masked, never counted as negative. Intervals resample
patients where the CSV has `patient_id`, else images.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tier_infer.bundle import Bundle
from tier_infer.engine import Engine
from tier_infer.errors import UsageError
from tier_infer.label_sets import column_id
from tier_infer.metrics import bootstrap_auc, roc_auc
from tier_infer.scoring import ImageResult, Selection, score_images, select_labels


@dataclass(frozen=True)
class AucRow:
    group: str  # "all", or a value of the column that was grouped by
    label: str
    auc: float
    low: float  # 95 % bootstrap interval
    high: float
    positives: int
    negatives: int


@dataclass(frozen=True)
class LabelledImages:
    rows: list[dict[str, str]]
    folder: Path
    columns: dict[str, str]  # label id → CSV column

    def truth(self, label: str) -> list[str]:
        return [row[self.columns[label]].strip() for row in self.rows]


def read_labels(path: Path, split: str | None) -> LabelledImages:
    """Raises UsageError naming the row when a truth cell is not 1, 0 or empty."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} can't be read as CSV: {error}") from error
    if not rows or "image_path" not in rows[0]:
        raise UsageError(f"{path} needs a header with image_path and label columns, and rows")
    if split is not None:
        if "split" not in rows[0]:
            raise UsageError(f"{path} has no split column; leave --split out")
        rows = [row for row in rows if row["split"] == split]
        if not rows:
            raise UsageError(f"{path} has no row with split {split!r}")
    return LabelledImages(rows, path.parent, {column_id(c): c for c in rows[0]})


def evaluate(
    images: LabelledImages,
    bundle: Bundle,
    engine: Engine,
    labels: list[str] | None,
    group_by: str | None = None,
    draws: int = 1000,
) -> tuple[list[AucRow], list[ImageResult]]:
    """AUC rows and every image result; a refused image is left out of the AUC and stays listed."""
    selection = select_labels(bundle, labels or _covered(images, bundle))
    paths = [str(images.folder / row["image_path"]) for row in images.rows]
    missing = [p for p in paths if not Path(p).is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} images of the CSV do not exist, the first is {missing[0]}"
        )
    results = [result for result, _ in score_images(paths, bundle, engine, selection)]
    groups = _groups(images, group_by)
    names = ["all"] if group_by is None else ["all", *sorted(set(groups))]
    table = [
        row
        for label in selection.names
        for name in names
        if (row := _auc_row(images, results, selection, label, name, groups, draws)) is not None
    ]
    return table, results


def _covered(images: LabelledImages, bundle: Bundle) -> list[str]:
    known = bundle.manifest.label_sets[bundle.manifest.default_set]["labels"]
    labels = [label for label in known if label in images.columns]
    if not labels:
        raise UsageError(f"the CSV has none of the bundle's labels as a column: {', '.join(known)}")
    return labels


def _groups(images: LabelledImages, group_by: str | None) -> list[str]:
    if group_by is None:
        return [""] * len(images.rows)
    if group_by == "folder":
        return [Path(row["image_path"]).parent.name for row in images.rows]
    if group_by not in images.rows[0]:
        raise UsageError(
            f"--group-by {group_by!r} is no column of the CSV; `folder` is always there"
        )
    return [row[group_by] for row in images.rows]


def _auc_row(
    images: LabelledImages,
    results: list[ImageResult],
    selection: Selection,
    label: str,
    group: str,
    groups: list[str],
    draws: int,
) -> AucRow | None:
    column = label.rpartition(":")[2]
    if column not in images.columns:
        raise UsageError(f"the CSV has no column for label {label}")
    truth = images.truth(column)
    bad = [n for n, t in enumerate(truth) if t not in ("", "0", "1", "0.0", "1.0")]
    if bad:
        raise UsageError(f"row {bad[0] + 2}: {column} must be 1, 0 or empty")
    used = [
        n
        for n, (t, result) in enumerate(zip(truth, results, strict=True))
        if t and result.status == "scored" and group in ("all", groups[n])
    ]
    if not used:
        return None
    y = np.array([float(truth[n]) for n in used])
    z = np.array([results[n].scores[label] for n in used])
    patients = None
    if "patient_id" in images.rows[0]:
        patients = np.array([images.rows[n]["patient_id"] for n in used])
    low, high = bootstrap_auc(y, z, patients, draws)
    return AucRow(group, label, roc_auc(y, z), low, high, int(y.sum()), int((1 - y).sum()))
