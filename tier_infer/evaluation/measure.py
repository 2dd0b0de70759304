"""AUC of every label and their mean, with intervals over patients.

A label of one class has no AUC: it is excluded by name and the mean is over the others, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError
from tier_infer.evaluation.bootstrap import Resamples, auc_draws, interval, mean_draws, resample
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.units import Units
from tier_infer.metrics import roc_auc

ONE_CLASS = "one class only"
UNKNOWN = "no case of known truth"
# Resampling shows how these few would vary, not others: of one positive its interval is too narrow.
MIN_CASES = 5  # of each class, below which a label has an AUC but no interval
GROUPS = 50  # a column with more values names cases rather than groups


@dataclass(frozen=True)
class Area:
    label: str
    n: int  # units whose truth is known
    positives: int
    auc: float | None
    interval: tuple[float, float] | None  # 95 %, patients resampled
    excluded: str | None  # why there is no AUC


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
    rows = tuple(
        _area(label, units.truth[:, i], units.z[:, i], draws[:, i])
        for i, label in enumerate(labels)
    )
    return _areas(rows, draws)


def columns_of(areas: Areas, columns: Sequence[int]) -> Areas:
    """The same of some labels."""
    return _areas(tuple(areas.rows[i] for i in columns), areas.draws[:, list(columns)])


def _areas(rows: tuple[Area, ...], draws: NDArray[np.float64]) -> Areas:
    counted = [i for i, row in enumerate(rows) if row.auc is not None]
    found = [float(row.auc) for row in rows if row.auc is not None]
    if not found or len({row.label.rpartition(":")[0] for row in rows}) > 1:
        return Areas(rows, None, None, draws)
    told = all(has_interval(rows[i]) for i in counted)
    spread = interval(mean_draws(draws[:, counted])) if told else None
    return Areas(rows, float(np.mean(found)), spread, draws)


def has_interval(row: Area) -> bool:
    return min(row.positives, row.n - row.positives) >= MIN_CASES


def excluded_by(truth: NDArray[np.float32]) -> str | None:
    """Why a label whose known truth [n] this is has no figure; None where it has."""
    if not len(truth):
        return UNKNOWN
    return ONE_CLASS if truth.min() == truth.max() else None


def _area(
    label: str, truth: NDArray[np.float32], z: NDArray[np.float32], draws: NDArray[np.float64]
) -> Area:
    """truth, z [n], draws [draws]."""
    known = ~np.isnan(truth)
    n, positives = int(known.sum()), int(truth[known].sum())
    why = excluded_by(truth[known])
    if why:
        return Area(label, n, positives, None, None, why)
    area = Area(label, n, positives, roc_auc(truth[known], z[known]), None, None)
    return replace(area, interval=interval(draws)) if has_interval(area) else area


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
