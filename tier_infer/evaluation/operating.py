"""MCC and F1 of frozen thresholds, and of radiologists on the same units.

A label's thresholds are the best of the validation split and are then only applied. A label of one
class, there or here, is excluded by name. What is compared with radiologists is computed on units
that every one of them decided, for the model as for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.evaluation.bootstrap import Resamples, mean_draws, spread
from tier_infer.evaluation.decisions import Thresholds, best_thresholds, decision_draws, f1, mcc
from tier_infer.evaluation.measure import FEW, excluded_by, fewest_patients
from tier_infer.evaluation.units import Units

FIGURES = {"mcc": mcc, "f1": f1}
NOT_READ = "not decided by every radiologist"
Floats = NDArray[np.float32]
Drawn = NDArray[np.float64]


@dataclass(frozen=True)
class Operating:
    """Thresholds of L labels, with what they were chosen on."""

    thresholds: tuple[Thresholds | None, ...]
    n: tuple[int, ...]  # units of known truth
    positives: tuple[int, ...]
    excluded: tuple[str | None, ...]  # why there is no threshold


@dataclass(frozen=True)
class _Figure:
    """MCC or F1 of one who decides, of C labels."""

    values: NDArray[np.float64]  # [C]
    draws: Drawn  # [draws, C]
    enough: NDArray[np.bool_]  # [C], FEW patients of each class or more

    def row(self, i: int) -> dict[str, Any]:
        return _figure(float(self.values[i]), self.draws[:, i], bool(self.enough[i]))

    def mean(self) -> dict[str, Any]:
        if not len(self.values):
            return {"value": None, "interval": None}
        return _figure(float(self.values.mean()), mean_draws(self.draws), bool(self.enough.all()))

    def minus(self, other: _Figure) -> _Figure:
        return _Figure(self.values - other.values, self.draws - other.draws, self.enough)


def choose(units: Units) -> Operating:
    """On the validation split."""
    thresholds: list[Thresholds | None] = []
    excluded = []
    known = ~np.isnan(units.truth)
    for i in range(units.truth.shape[1]):
        y, z = units.truth[known[:, i], i], units.z[known[:, i], i]
        why = excluded_by(y)
        excluded.append(why and f"{why} in the validation split")
        thresholds.append(None if why else best_thresholds(y, z))
    positives = (units.truth == 1).sum(axis=0)
    return Operating(
        tuple(thresholds), tuple(known.sum(axis=0).tolist()), tuple(positives.tolist()),
        tuple(excluded),
    )  # fmt: skip


def decisions_section(
    units: Units, labels: Sequence[str], operating: Operating, resamples: Resamples
) -> dict[str, Any]:
    """Of the model alone, on all units."""
    excluded = _excluded(units.truth, operating)
    counted = [i for i, why in enumerate(excluded) if why is None]
    found = _model(units.truth, units.z, counted, operating, resamples)
    rows = []
    for i, label in enumerate(labels):
        row = _counts(label, units.truth[:, i], excluded[i])
        row["chosen_on"] = {"n": operating.n[i], "positives": operating.positives[i]}
        chosen = operating.thresholds[i]
        for which in FIGURES:
            threshold = None if chosen is None else _threshold(getattr(chosen, which))
            row[which] = {"threshold": threshold} | _at(found[which], counted, i)
        rows.append(row)
    mean = {which: figure.mean() for which, figure in found.items()}
    return {"rule": "score > threshold", "labels": rows, "mean": mean | {"of": len(counted)}}


def radiologists_section(
    units: Units,
    labels: Sequence[str],
    operating: Operating,
    readers: Mapping[str, Floats],
    resamples: Resamples,
) -> dict[str, Any]:
    """`readers`: decisions [n, L] of 1, 0 or NaN, on these units and labels, by reader."""
    unread = np.isnan(np.stack(list(readers.values()))).any(axis=0)  # [n, L]
    read: NDArray[np.bool_] = np.logical_not(unread)
    truth = np.where(read, units.truth, np.float32(np.nan))
    excluded = _excluded(truth, operating)
    excluded = [
        why if why is None or read[:, i].any() else NOT_READ for i, why in enumerate(excluded)
    ]
    counted = [i for i, why in enumerate(excluded) if why is None]
    model = _model(truth, units.z, counted, operating, resamples)
    each = {
        name: _measured(truth[:, counted], dict.fromkeys(FIGURES, decided[:, counted]), resamples)
        for name, decided in readers.items()
    }
    average = {which: _average([found[which] for found in each.values()]) for which in FIGURES}
    sides = {
        "model": model,
        "mean_radiologist": average,
        "difference": {which: model[which].minus(average[which]) for which in FIGURES},
    } | {f"reader {name}": found for name, found in each.items()}
    tables = {
        name: {
            "labels": {
                label: {which: _at(found[which], counted, i) for which in FIGURES}
                for i, label in enumerate(labels)
            },
            "mean": {which: found[which].mean() for which in FIGURES},
        }
        for name, found in sides.items()
    }
    return {
        "labels": [
            _counts(label, truth[:, i], excluded[i])
            | {"not_decided": int((~np.isnan(units.truth[:, i]) & ~read[:, i]).sum())}
            for i, label in enumerate(labels)
        ],
        "of": len(counted),
        "units": int(read.any(axis=1).sum()),
        "model": tables["model"],
        "readers": [{"name": name} | tables[f"reader {name}"] for name in readers],
        "mean_radiologist": tables["mean_radiologist"],
        "difference": tables["difference"],  # model − mean radiologist, on the same draws
    }


def _excluded(truth: Floats, operating: Operating) -> list[str | None]:
    here = [excluded_by(column[~np.isnan(column)]) for column in truth.T]
    return [there or why for there, why in zip(operating.excluded, here, strict=True)]


def _model(
    truth: Floats, z: Floats, counted: list[int], operating: Operating, resamples: Resamples
) -> dict[str, _Figure]:
    decided = {}
    for which in FIGURES:
        yes = np.zeros((len(z), len(counted)), np.float32)
        for place, i in enumerate(counted):
            chosen = operating.thresholds[i]
            assert chosen is not None  # or it would be excluded
            yes[:, place] = chosen.decided(z[:, i], which)
        decided[which] = yes
    return _measured(truth[:, counted], decided, resamples)


def _measured(
    truth: Floats, decided: Mapping[str, Floats], resamples: Resamples
) -> dict[str, _Figure]:
    """truth and, by figure, decided: [n, C]; NaN where nothing is known or nobody decided."""
    found = {}
    enough = np.array(fewest_patients(truth, resamples), np.int64) >= FEW
    for which, yes in decided.items():
        values = []
        for y, d in zip(truth.T, yes.T, strict=True):
            known = ~np.isnan(y)
            values.append(FIGURES[which](y[known], d[known]))
        draws = decision_draws(truth, yes, resamples, which)
        found[which] = _Figure(np.array(values, np.float64), draws, enough)
    return found


def _average(figures: Sequence[_Figure]) -> _Figure:
    """Over readers; a draw is the mean of their figures in it."""
    values = np.mean([figure.values for figure in figures], axis=0)
    draws = np.mean([figure.draws for figure in figures], axis=0)
    return _Figure(values, draws, figures[0].enough)


def _counts(label: str, truth: Floats, excluded: str | None) -> dict[str, Any]:
    n, positives = int((~np.isnan(truth)).sum()), int((truth == 1).sum())
    return {"label": label, "n": n, "positives": positives, "excluded": excluded}


def _threshold(value: float) -> float | None:
    """None for infinity: nothing was better than never saying yes."""
    return value if np.isfinite(value) else None


def _at(figure: _Figure, counted: list[int], i: int) -> dict[str, Any]:
    if i not in counted:
        return {"value": None, "interval": None}
    return figure.row(counted.index(i))


def _figure(value: float, draws: Drawn, enough: bool) -> dict[str, Any]:
    between = spread(draws) if enough else None
    return {"value": value, "interval": between and list(between)}
