"""What the supervised network says of held-out images: scores on disk, and their AUC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tier_infer.files import write_atomic
from tier_infer.metrics import bootstrap_auc, roc_auc
from tier_infer.tables import csv_text, read_csv
from tier_train.data.dataset import Row

COLUMNS = ("line", "image_path", "split", "label", "truth", "score")


@dataclass(frozen=True)
class LabelAuc:
    label: str
    auc: float  # NaN where one class only is known
    low: float  # 95 % bootstrap interval over patients
    high: float
    positives: int
    negatives: int


def write_scores(
    path: Path,
    labels: Sequence[str],
    rows: Sequence[Row],
    truth: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """truth, scores: [N, L]. One line per image and label; truth is empty where unknown; the score
    is the logit, in as many digits as float32 has. `line` is that of the dataset's table; paths are
    those of `read_part`, which keeps a manifest's only."""
    lines = [
        (
            row.number,
            row.image_path,
            row.split,
            label,
            "" if np.isnan(truth[i, j]) else int(truth[i, j]),
            f"{scores[i, j]:.9g}",
        )
        for i, row in enumerate(rows)
        for j, label in enumerate(labels)
    ]
    write_atomic(path, csv_text([COLUMNS, *lines]).encode(errors="surrogateescape"))


def read_scores(
    path: Path,
) -> dict[str, tuple[list[int], NDArray[np.float32], NDArray[np.float32]]]:
    """label → lines of the table, truth and scores of the images whose truth is known."""
    _, _, table = read_csv(path, COLUMNS)
    known: dict[str, list[tuple[int, float, float]]] = {}
    for _, cells in table:
        if cells["truth"]:
            entry = int(cells["line"]), float(cells["truth"]), float(cells["score"])
            known.setdefault(cells["label"], []).append(entry)
    return {
        label: ([e[0] for e in entries], *np.array([e[1:] for e in entries], np.float32).T)
        for label, entries in known.items()
    }


def label_auc(
    label: str, rows: Sequence[Row], truth: NDArray[np.float32], scores: NDArray[np.float32]
) -> LabelAuc:
    """truth, scores: [N]. Patients are resampled where all are known, else images."""
    known = ~np.isnan(truth)
    y, s = truth[known], scores[known]
    patients = np.array([row.patient for row in rows])[known]
    low, high = bootstrap_auc(y, s, patients if all(patients) else None)
    return LabelAuc(label, roc_auc(y, s), low, high, int(y.sum()), int((1 - y).sum()))
