"""What is counted: images, the first frontal image of each study, or studies.

    per_image      every scored image, laterals included (TIER: 668 images of CheXpert's test set)
    first_frontal  one image per study, the first frontal by path (CheXzero: 500)
    study_mean     the mean score of a study's frontal images, as `tier-infer` scores studies

A view that the table does not tell counts as frontal. Figures of different protocols are never
comparable, so no table holds two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort, bare
from tier_infer.evaluation.scores import ScoreTable

Rule = Callable[[NDArray[np.float32]], NDArray[np.float32]]
PROTOCOLS = ("per_image", "first_frontal", "study_mean")


@dataclass(frozen=True)
class Units:
    truth: NDArray[np.float32]  # [n, L] of 1, 0 or NaN
    z: NDArray[np.float32]  # [n, L]
    patients: tuple[str, ...]  # n, "" unknown
    members: tuple[tuple[int, ...], ...]  # n, rows of the cohort
    left_out: dict[str, int]  # rule → images, or studies where it says so

    def __len__(self) -> int:
        return len(self.members)

    def of_cases(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, M] of 1, 0 or NaN per image → [n, M] per unit; NaN where its images disagree."""
        return _per_unit(values, self.members, agreed)

    def part(self, keep: NDArray[np.bool_]) -> Units:
        """The units where `keep` [n] is true."""
        rows = np.flatnonzero(keep)
        patients = tuple(self.patients[i] for i in rows)
        members = tuple(self.members[i] for i in rows)
        return Units(self.truth[rows], self.z[rows], patients, members, {})


def units_of(cohort: Cohort, table: ScoreTable, protocol: str) -> Units:
    """Truth by the id behind `set:`; UsageError for a label that the cohort does not know."""
    if table.paths != tuple(case.image_path for case in cohort.cases):
        raise UsageError("these scores are of other images than the dataset's")
    columns = [cohort.truth_of(bare(label)) for label in table.labels]
    truth = np.stack(columns, axis=1)  # [N, L]
    left: dict[str, int] = {}
    groups = _groups(cohort, table.scored, protocol, left)
    y = _per_unit(truth, groups, agreed)
    z = _per_unit(table.z, groups, _mean)
    if protocol == "study_mean":
        some = _per_unit(np.isfinite(truth).astype(np.float32), groups, lambda x: x.max(axis=0))
        doubtful = int(((some == 1) & np.isnan(y)).sum())
        _count(left, "labels of studies whose images disagree", doubtful)
    patients = tuple(cohort.cases[rows[0]].patient for rows in groups)
    return Units(y, z, patients, tuple(groups), left)


def _per_unit(
    values: NDArray[np.float32], groups: Sequence[tuple[int, ...]], rule: Rule
) -> NDArray[np.float32]:
    """[N, M] per image → [n, M] per unit. `rule`: [m, M] → [M]; one image's row is its own."""
    found = values[np.array([rows[0] for rows in groups], np.intp)]
    for i, rows in enumerate(groups):
        if len(rows) > 1:
            found[i] = rule(values[list(rows)])
    return found


def _mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def agreed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[m, L] → [L]: what all known values say; NaN where none is known or they differ."""
    some = np.where(np.isnan(values), np.float32(-1), values)
    high = some.max(axis=0)
    low = np.where(some < 0, high, some).min(axis=0)
    return np.where((high < 0) | (high != low), np.float32(np.nan), high)


def _groups(
    cohort: Cohort, scored: NDArray[np.bool_], protocol: str, left: dict[str, int]
) -> list[tuple[int, ...]]:
    """Rows of each unit; `left` is told what was left out."""
    if protocol == "per_image":
        return [(int(i),) for i in np.flatnonzero(scored)]
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol {protocol!r} is unknown; allowed: {', '.join(PROTOCOLS)}")
    studies = _studies(cohort)
    frontal = [[i for i in rows if cohort.cases[i].view != "lateral"] for rows in studies]
    _count(left, "lateral images", sum(map(len, studies)) - sum(map(len, frontal)))
    _count(left, "studies without a frontal image", sum(not rows for rows in frontal))
    if protocol == "first_frontal":
        first = [min(r, key=lambda i: cohort.cases[i].image_path) for r in frontal if r]
        later = sum(map(len, frontal)) - len(first)
        _count(left, "further frontal images of a study", later)
        _count(
            left,
            "studies whose first frontal image is not scored",
            len(first) - int(scored[first].sum()),
        )  # another image in its place would be another protocol
        return [(i,) for i in first if scored[i]]
    found = [tuple(i for i in rows if scored[i]) for rows in frontal]
    _count(left, "studies without a scored frontal image",
           sum(bool(a) and not b for a, b in zip(frontal, found, strict=True)))  # fmt: skip
    return [rows for rows in found if rows]


def _studies(cohort: Cohort) -> list[list[int]]:
    """Rows of each study in order of appearance; an image of an unknown one is a study itself."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, case in enumerate(cohort.cases):
        key = (case.patient, case.study) if case.study else ("", f"\0{i}")
        found.setdefault(key, []).append(i)
    return list(found.values())


def _count(left: dict[str, int], rule: str, number: int) -> None:
    if number:
        left[rule] = number


def studies_in(cohort: Cohort) -> int:
    return len(_studies(cohort))


def patients_in(patients: Sequence[str]) -> int:
    """Known ones; a row of an unknown patient is a patient of its own."""
    known = {p for p in patients if p}
    return len(known) + sum(not p for p in patients)
