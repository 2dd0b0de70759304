"""A cohort: the images of a labelled dataset, what is known of each, and what was left out."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError
from tier_infer.label_sets import column_id

NO_PATIENTS = "patients unknown: images are resampled, so intervals may be too narrow"


def bare(label: str) -> str:
    """The id behind `set:`, under which a dataset knows the label."""
    return label.rpartition(":")[2]


@dataclass(frozen=True)
class Case:
    """One image."""

    image_path: str  # as the table names it; unique in the cohort
    place: str  # where the file is, relative to the root
    patient: str  # "" unknown; never printed
    study: str  # "" unknown: the image is a study of its own; never printed
    view: str  # frontal, lateral or "" unknown
    line: int  # in the table; where there is none, a running number


@dataclass(frozen=True)
class Cohort:
    kind: str  # who read it: chexpert, padchest, covid, mimic, nih, manifest
    name: str  # what a report calls it
    root: Path
    split: str  # "" where all are used
    cases: tuple[Case, ...]  # N, in the order of the table
    labels: tuple[str, ...]  # L ids of the columns
    names: tuple[str, ...]  # the columns as the table spells them
    truth: NDArray[np.float32]  # [N, L] of 1, 0 or NaN: unknown or uncertain
    sha256: str  # equal digests, equal cohorts
    left_out: Mapping[str, int] = field(default_factory=dict)  # rule → rows it left out
    notes: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column → N values
    texts: tuple[str, ...] = ()  # N reports; empty where the dataset has none
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # label id → N places
    odd: Mapping[str, int] = field(default_factory=dict)  # id of a column of other cells → a line

    def __len__(self) -> int:
        return len(self.cases)

    def truth_of(self, label: str) -> NDArray[np.float32]:
        """[N]; UsageError for a label that the dataset does not know, or has with other cells."""
        if label in self.odd:
            raise UsageError(
                f"{self.name} line {self.odd[label]}: {label} must be 1, 0 or empty (empty means "
                "unknown); mend the column, or ask for others with --labels"
            )
        if label not in self.labels:
            raise UsageError(
                f"{self.name} has no column for {label}; it has {', '.join(self.labels)}"
            )
        return self.truth[:, self.labels.index(label)]

    def part(self, keep: NDArray[np.bool_]) -> Cohort:
        """The cases where `keep` [N] is true. Its digest is its own."""
        kept = np.flatnonzero(keep)
        cases = tuple(self.cases[i] for i in kept)
        truth = self.truth[kept]
        return replace(
            self,
            cases=cases,
            truth=truth,
            sha256=digest(cases, self.labels, truth),
            groups={name: tuple(v[i] for i in kept) for name, v in self.groups.items()},
            texts=tuple(self.texts[i] for i in kept) if self.texts else (),
            masks={label: tuple(v[i] for i in kept) for label, v in self.masks.items()},
        )


def cohort_of(
    kind: str,
    name: str,
    root: Path,
    split: str,
    cases: Sequence[Case],
    columns: Sequence[str],
    truth: NDArray[np.float32],
    left_out: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
    groups: Mapping[str, tuple[str, ...]] | None = None,
    texts: Sequence[str] = (),
    masks: Mapping[str, tuple[str, ...]] | None = None,
    odd: Mapping[str, int] | None = None,
) -> Cohort:
    """A cohort with its digest. UsageError where no row is left, for two columns of one name, and
    for two images of one name or place."""
    if not cases:
        rules = "; ".join(f"{n} {rule}" for rule, n in (left_out or {}).items())
        raise UsageError(f"{name} has no row{f' of split {split}' if split else ''}: {rules}")
    labels = tuple(column_id(c) for c in columns)
    twice = [c for c, i in zip(columns, labels, strict=True) if labels.count(i) > 1]
    if twice:
        raise UsageError(f"{name}: columns {', '.join(map(repr, twice))} are no distinct names")
    _refuse_twins(name, cases)
    if not any(case.patient for case in cases):
        notes = (*notes, NO_PATIENTS)
    return Cohort(
        kind, name, root, split, tuple(cases), labels, tuple(columns), truth,
        digest(cases, labels, truth), dict(left_out or {}), tuple(notes), dict(groups or {}),
        tuple(texts), dict(masks or {}), dict(odd or {}),
    )  # fmt: skip


def _refuse_twins(name: str, cases: Sequence[Case]) -> None:
    """A film that counts twice makes every interval too narrow."""
    paths: dict[str, Case] = {}
    places: dict[str, Case] = {}
    for case in cases:
        first = paths.setdefault(case.image_path, case)
        if first is case and ".." not in case.place:  # what is before `..` may be a link
            first = places.setdefault(posixpath.normpath(case.place), case)
        if first is not case:
            raise UsageError(f"{name} lines {first.line} and {case.line} name the same image")


def described(cohort: Cohort) -> dict[str, Any]:
    """What every result says of its data."""
    return {
        "kind": cohort.kind,
        "name": cohort.name,
        "split": cohort.split,
        "images": len(cohort),
        "sha256": cohort.sha256,
    }


def digest(cases: Sequence[Case], labels: Sequence[str], truth: NDArray[np.float32]) -> str:
    """Of what a figure depends on beside the pixels: names, patients, studies, views and truth."""
    found = hashlib.sha256(_framed(str(len(cases)), str(len(labels)), *labels))
    for case in cases:
        found.update(_framed(case.image_path, case.patient, case.study, case.view))
    known = np.where(np.isnan(truth), np.float32(-1), truth).astype("<f4")
    found.update(np.ascontiguousarray(known).tobytes())
    return found.hexdigest()


def files_digest(cohort: Cohort) -> str:
    """Of the image files without reading them: their places, sizes and times of change; one that
    is missing has the size -1. The root is no part of it, so a copy that keeps the times is
    the same."""
    found = hashlib.sha256()
    for case in cohort.cases:
        try:
            there = os.stat(cohort.root / case.place)
            row = (case.place, str(there.st_size), str(there.st_mtime_ns))
        except (OSError, ValueError):
            row = (case.place, "-1", "-1")
        found.update(_framed(*row))
    return found.hexdigest()


def _framed(*texts: str) -> bytes:
    """Each with its length before it, so that no two rows of texts give the same bytes."""
    coded = [text.encode("utf-8", "surrogateescape") for text in texts]
    return b"".join(b"%d:%s" % (len(text), text) for text in coded)
