"""AUC of every label and their mean, with intervals over patients.

A label of one class has no AUC: it is excluded by name and the mean is over the others, never NaN.
Resampling a few patients shows how these vary, not how others would. So below FEW of a class
nothing is resampled or tested, and an AUC has the interval of a bound: its variance is at most
A (1 − A) / min(m, n) (Birnbaum 1956), that of a rate A among so many, and Wilson's is a rate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError
from tier_infer.evaluation.bootstrap import Resamples, auc_draws, mean_draws, resample, spread
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.probabilities import wilson_of
from tier_infer.evaluation.units import Units
from tier_infer.metrics import roc_auc

ONE_CLASS = "one class only"
UNKNOWN = "no case of known truth"
FEW = 10  # patients of each class, below which nothing is resampled or tested
TOO_FEW = f"fewer than {FEW} positives or negatives"
TOO_FEW_PATIENTS = f"positives or negatives of fewer than {FEW} patients"
BOOTSTRAP, BOUND = "bootstrap", "bound"
DIGITS = 5  # of an AUC in the paper's table of wins; equal there is a tie
GROUPS = 50  # a column with more values names cases rather than groups


@dataclass(frozen=True)
class Area:
    label: str
    n: int  # units whose truth is known
    positives: int
    auc: float | None
    patients: int  # of the smaller class
    interval: tuple[float, float] | None  # 95 %
    interval_of: str | None  # BOOTSTRAP, over patients, or BOUND
    excluded: str | None  # why there is no AUC

    @property
    def enough(self) -> bool:
        return self.patients >= FEW

    @property
    def too_few(self) -> str | None:
        """Why nothing is resampled or tested; None where there is enough."""
        if self.enough:
            return None
        return TOO_FEW if min(self.positives, self.n - self.positives) < FEW else TOO_FEW_PATIENTS


@dataclass(frozen=True)
class Areas:
    rows: tuple[Area, ...]
    mean: float | None  # over labels that are not excluded; None for labels of several sets
    mean_interval: tuple[float, float] | None
    draws: NDArray[np.float64]  # [draws, L], NaN where a draw has one class only

    @property
    def counted(self) -> list[int]:
        """Columns that stand in the mean."""
        return [i for i, row in enumerate(self.rows) if row.auc is not None]


def areas_of(units: Units, labels: Sequence[str], resamples: Resamples) -> Areas:
    """Of units [n] and their labels [L]; the same `resamples` for two models make them paired."""
    draws = auc_draws(units.truth, units.z, resamples)
    fewest = fewest_patients(units.truth, resamples)
    rows = tuple(
        _area(label, units.truth[:, i], units.z[:, i], draws[:, i], fewest[i])
        for i, label in enumerate(labels)
    )
    return _areas(rows, draws)


def columns_of(areas: Areas, columns: Sequence[int]) -> Areas:
    """The same of some labels."""
    return _areas(tuple(areas.rows[i] for i in columns), areas.draws[:, list(columns)])


def _areas(rows: tuple[Area, ...], draws: NDArray[np.float64]) -> Areas:
    counted = [i for i, row in enumerate(rows) if row.auc is not None]
    found = [float(row.auc) for row in rows if row.auc is not None]
    if not found or several_sets([row.label for row in rows]):
        return Areas(rows, None, None, draws)
    told = all(rows[i].enough for i in counted)
    between = spread(mean_draws(draws[:, counted])) if told else None
    return Areas(rows, float(np.mean(found)), between, draws)


def several_sets(labels: Sequence[str]) -> bool:
    return len({label.rpartition(":")[0] for label in labels}) > 1


def fewest_patients(truth: NDArray[np.float32], resamples: Resamples) -> list[int]:
    """Of labels [n, L]: patients of the class that has fewer; unknown ones count one each."""
    return [
        min(len(np.unique(resamples.member[column == y])) for y in (0, 1)) for column in truth.T
    ]


def excluded_by(truth: NDArray[np.float32]) -> str | None:
    """Why a label whose known truth [n] this is has no figure; None where it has."""
    if not len(truth):
        return UNKNOWN
    return ONE_CLASS if truth.min() == truth.max() else None


def _area(
    label: str,
    truth: NDArray[np.float32],
    z: NDArray[np.float32],
    draws: NDArray[np.float64],
    patients: int,
) -> Area:
    """truth, z [n], draws [draws]."""
    known = ~np.isnan(truth)
    n, positives = int(known.sum()), int(truth[known].sum())
    why = excluded_by(truth[known])
    if why:
        return Area(label, n, positives, None, patients, None, None, why)
    auc = roc_auc(truth[known], z[known])
    between = spread(draws) if patients >= FEW else None
    kind = None if not len(draws) else BOOTSTRAP if between else BOUND
    if kind == BOUND:
        between = wilson_of(auc, patients)
    return Area(label, n, positives, auc, patients, between, kind, None)


def resamples_of(units: Units, draws: int, seed: int = 0) -> Resamples:
    """Of the patients of these units: equal units, draws and seed give equal resamples."""
    return resample(units.patients, draws, seed)


def auc_section(areas: Areas) -> dict[str, Any]:
    rows = [
        {
            "label": row.label,
            "n": row.n,
            "positives": row.positives,
            "auc": row.auc,
            "interval": row.interval and list(row.interval),
            "interval_of": row.interval_of,
            "too_few": row.too_few if row.excluded is None else None,
            "excluded": row.excluded,
        }
        for row in areas.rows
    ]
    return {
        "labels": rows,
        "mean": areas.mean,
        "mean_interval": areas.mean_interval and list(areas.mean_interval),
        "mean_of": len(areas.counted),
    }


def won(areas: Sequence[Sequence[float | None]]) -> tuple[list[int], int]:
    """Of AUCs by model and label: labels won by each model, and ties of the highest, which nobody
    wins. Labels that a model has no AUC of are left out."""
    labels = [[round(x, DIGITS) for x in row if x is not None] for row in zip(*areas, strict=True)]
    wins, ties = [0] * len(areas), 0
    for row in labels:
        if len(row) == len(areas):
            first = row.index(max(row))
            tied = row.count(row[first]) > 1
            ties += tied
            wins[first] += not tied
    return wins, ties


def check_column(cohort: Cohort, column: str) -> None:
    """UsageError for a column that the dataset does not have, or whose values are no groups."""
    if column not in cohort.groups:
        raise UsageError(
            f"{cohort.name} has no column {column!r} to group by; it has "
            f"{', '.join(cohort.groups) or 'none'}"
        )
    values = len(set(cohort.groups[column]))
    if values > GROUPS:
        raise UsageError(
            f"column {column!r} has {values} values; a column of at most {GROUPS} can be grouped by"
        )


def groups_section(
    cohort: Cohort, units: Units, labels: Sequence[str], column: str, draws: int, seed: int
) -> dict[str, Any]:
    """AUC among the units of each value; a unit whose images differ in it belongs to none."""
    of_images = cohort.groups[column]
    seen = [{of_images[i] for i in members} for members in units.members]
    found = []
    for value in sorted(set(of_images)):
        part = units.part(np.array([values == {value} for values in seen], bool))
        areas = areas_of(part, labels, resamples_of(part, draws, seed))
        found.append({"value": value, "units": len(part)} | auc_section(areas))
    several = sum(len(values) > 1 for values in seen)
    return {"column": column, "values": found, "units_of_several_values": several}
