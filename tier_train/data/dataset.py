"""What training sees of any source: rows with text and labels, and pictures beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tier_infer.label_sets import LabelSet, column_id, load_label_set, set_from_names
from tier_train.data.captions import caption


@dataclass(frozen=True)
class Row:
    image_path: str  # as the table has it
    split: str  # train, val or test
    text: str  # the impression; "" where there is none
    labels: dict[str, int]  # column name → 1 or 0; unknown and uncertain are absent
    number: int  # line in the table, for messages
    patient: str = ""  # as the table has it; never printed
    view: str = ""  # frontal, lateral or "" for unknown

    def caption(self, seed: int, epoch: int) -> str:
        """The impression, else a caption of the labels, drawn anew for every epoch."""
        return self.text or caption(self.labels, np.random.default_rng([seed, self.number, epoch]))


@dataclass(frozen=True)
class Dataset:
    path: Path  # the table or the root, as the user named it
    name: str
    rows: tuple[Row, ...]
    label_columns: tuple[str, ...]
    intensity: str  # preset of tier_infer.intensity; "" when the source names none
    views: tuple[str, ...]
    sha256: str  # of what the rows were read from: equal digests, equal pairs
    kind: str = "manifest"  # manifest, mimic, cache or chexpert: who can read its pictures
    notes: tuple[str, ...] = ()  # what was left out and why, counted

    @property
    def folder(self) -> Path:
        """What `image_path` is relative to."""
        return self.path if self.path.is_dir() else self.path.parent

    def split(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.split == name]


class Pictures(Protocol):
    """8-bit radiographs whose short side is the geometry's `resize`; nothing is cropped yet."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        """uint8 [h, w]"""
        ...


def rows_digest(rows: Sequence[Row]) -> str:
    """sha256 of everything that makes the pairs; ids go in and don't come out."""
    digest = hashlib.sha256()
    for row in rows:
        parts = (row.number, row.split, row.view, row.image_path, row.text, row.labels)
        digest.update("\x1f".join(map(str, parts)).encode() + b"\x1e")
    return digest.hexdigest()


def truth_table(rows: list[Row], labels: dict[str, str]) -> dict[str, NDArray[np.float32]]:
    """label id → float32 [N] of 1, 0 or NaN (unknown); `labels` maps ids to label columns."""
    return {
        label_id: np.array([row.labels.get(column, np.nan) for row in rows], np.float32)
        for label_id, column in labels.items()
    }


def validation_labels(
    dataset: Dataset, prompts: str = "chexpert"
) -> tuple[LabelSet, dict[str, str]]:
    """The queries that a validation asks, and label id → column.

    Where the dataset has every label of the set `prompts` (the paper's five tasks), these and no
    others: one rare finding would weigh as much as atelectasis. Else all of its columns, with the
    prompts of the set or 'X is present.'
    """
    columns = {column_id(c): c for c in dataset.label_columns if column_id(c) != "no_finding"}
    asked = load_label_set(prompts).labels
    packaged = [label for label in asked if label.id in columns]
    if len(packaged) == len(asked):
        return LabelSet(prompts, asked), {label.id: columns[label.id] for label in asked}
    rest = [c for i, c in columns.items() if i not in {label.id for label in packaged}]
    others = list(set_from_names("manifest", rest).labels) if rest else []
    return LabelSet("manifest", (*packaged, *others)), columns
