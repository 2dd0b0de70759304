"""Two models on the same images: paired differences, and whether both say the same.

The other one is known by its scores.csv, whoever wrote it: another bundle, or PyTorch beside the
bundle that was exported from it. Truth, units and resamples are those of this evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.evaluation.bootstrap import Resamples, mean_draws, spread
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.delong import delong, holm
from tier_infer.evaluation.measure import Areas, areas_of, columns_of, resamples_of, won
from tier_infer.evaluation.operating import Operating
from tier_infer.evaluation.other import Other
from tier_infer.evaluation.ranking import middle_gap, rank_correlation
from tier_infer.evaluation.scores import ScoreTable
from tier_infer.evaluation.units import Units, patients_in, units_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Compared:
    section: dict[str, Any]  # of the report
    labels: tuple[str, ...]  # M, as this evaluation calls them
    here: Units  # scores [n, M] of this model
    there: Units  # and of the other one, of the same units


def compare(
    cohort: Cohort,
    table: ScoreTable,
    other: Other,
    protocol: str,
    areas: Areas,
    resamples: Resamples,
    operating: Operating | None,
) -> Compared:
    """`areas` and `resamples` are those of this evaluation; `operating` holds its frozen
    thresholds, at which flips are counted."""
    mine, theirs = [i for i, _ in other.pairs], [k for _, k in other.pairs]
    labels = tuple(table.labels[i] for i in mine)
    both = table.scored & other.table.scored
    left = _narrowed(table, both, mine, labels)
    right = _narrowed(other.table, both, theirs, labels)
    here, there = units_of(cohort, left, protocol), units_of(cohort, right, protocol)
    if (both == table.scored).all():
        a = columns_of(areas, mine)  # of the same units: its draws need no repetition
    else:
        resamples = resamples_of(here, resamples.draws, resamples.seed)
        a = areas_of(here, labels, resamples)
    b = areas_of(there, labels, resamples)
    rows = _tests(here, there, a, b)
    for k, (i, row) in enumerate(zip(mine, rows, strict=True)):
        row["label_there"] = other.table.labels[theirs[k]]
        x, y = left.z[both, k], right.z[both, k]
        row["max_dz"] = float(np.abs(x - y).max()) if other.comparable and len(x) else None
        row["rank_correlation"] = rank_correlation(x, y) if len(x) else None
        row["decisions"] = _flips(x, y, i, operating) if other.comparable else None
    section = {
        "file": other.file,
        "model": other.model,
        "same": other.same,
        "images": _images(table, other.table, both),
        "units": len(here),
        "patients": patients_in(here.patients),
        "left_out": here.left_out,
        "labels": rows,
        "labels_only_here": [x for i, x in enumerate(table.labels) if i not in mine],
        "labels_only_there": [x for k, x in enumerate(other.table.labels) if k not in theirs],
        "mean": _mean(a, b),
        "won": _won(a, b),
    }
    return Compared(section, labels, here, there)


def _narrowed(
    table: ScoreTable, both: NDArray[np.bool_], columns: list[int], labels: tuple[str, ...]
) -> ScoreTable:
    """Only these columns, called `labels`; only images that both sides scored count as scored."""
    status = tuple("scored" if x else "failed" for x in both)
    return replace(table, labels=labels, status=status, z=table.z[:, columns])


def _images(a: ScoreTable, b: ScoreTable, both: NDArray[np.bool_]) -> dict[str, int]:
    pairs = zip(both, a.pixels, b.pixels, strict=True)
    same = sum(bool(counted) and p == q for counted, p, q in pairs)
    return {
        "scored_by_both": int(both.sum()),
        "only_here": int((a.scored & ~b.scored).sum()),
        "only_there": int((b.scored & ~a.scored).sum()),
        "of_same_pixels": same,
    }


def _tests(here: Units, there: Units, a: Areas, b: Areas) -> list[dict[str, Any]]:
    """One row per label; p_holm is Holm's over all labels that could be tested."""
    rows: list[dict[str, Any]] = []
    for i, (x, y) in enumerate(zip(a.rows, b.rows, strict=True)):
        row: dict[str, Any] = {"label": x.label, "n": x.n, "positives": x.positives}
        row |= {"auc": x.auc, "auc_there": y.auc, "excluded": x.excluded}
        row |= {"difference": None, "interval": None, "z": None, "p": None, "p_holm": None}
        row["untested"] = x.excluded or x.too_few
        if x.auc is not None and y.auc is not None:
            row["difference"] = x.auc - y.auc
        if not row["untested"]:
            between = spread(a.draws[:, i] - b.draws[:, i])
            row["interval"] = between and list(between)
            known = ~np.isnan(here.truth[:, i])
            try:
                row["z"], row["p"] = delong(
                    here.truth[known, i], here.z[known, i], there.z[known, i]
                )
            except ValueError as error:  # no variance
                row["untested"] = str(error)
        rows.append(row)
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    return rows


def _mean(a: Areas, b: Areas) -> dict[str, Any]:
    counted = a.counted
    if a.mean is None or b.mean is None:
        return {"auc": None, "auc_there": None, "difference": None, "interval": None, "of": 0}
    told = all(a.rows[i].enough for i in counted)
    apart = mean_draws(a.draws[:, counted]) - mean_draws(b.draws[:, counted])
    between = spread(apart) if told else None
    return {
        "auc": a.mean,
        "auc_there": b.mean,
        "difference": a.mean - b.mean,
        "interval": between and list(between),
        "of": len(counted),
    }


def _won(a: Areas, b: Areas) -> dict[str, int]:
    """Labels by who has the higher AUC (Table 2, first row)."""
    (here, there), ties = won([[row.auc for row in side.rows] for side in (a, b)])
    return {"here": here, "there": there, "ties": ties}


def _flips(x: Floats, y: Floats, label: int, operating: Operating | None) -> dict[str, Any]:
    """Of images [N]: how many pass the threshold on one side only. It is the frozen one for MCC,
    else it lies in the widest gap in the middle of this model's scores."""
    chosen = operating.thresholds[label] if operating else None
    threshold = chosen.mcc if chosen else middle_gap(x)
    if threshold is None or not np.isfinite(threshold):
        return {"at": None, "threshold": None, "flips": None}
    flips = int(((x > threshold) != (y > threshold)).sum())
    return {"at": "frozen" if chosen else "middle", "threshold": threshold, "flips": flips}
