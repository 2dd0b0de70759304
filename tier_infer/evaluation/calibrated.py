"""Probabilities, fitted on the validation split and judged on the other one.

A raw Z is no probability (paper, 2.5), so nothing is said of it without a fit. Only a trained head
gives logits, whose sigmoid claims to be one and is judged as it is, beside the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.evaluation.bootstrap import Resamples
from tier_infer.evaluation.measure import FEW, excluded_by, fewest_patients
from tier_infer.evaluation.probabilities import Platt, brier, ece, fit_platt, reliability
from tier_infer.evaluation.units import Units

BINS = 15
LOGITS = frozenset({"head"})  # scorings whose scores are log odds
ALL_EQUAL = "all validation scores are equal"
Floats = NDArray[np.float32]


def calibration_section(
    units: Units,
    validation: Units,
    labels: Sequence[str],
    split: str,
    scoring: str,
    resamples: Resamples,
) -> dict[str, Any]:
    """Per label: Platt's scale and bias, then Brier score, ECE and reliability of its values.
    `resamples` are those of `units` and name the patients."""
    rows = []
    fewest = fewest_patients(units.truth, resamples)
    for i, label in enumerate(labels):
        y, z = _known(units, i)
        fitted = _fit(*_known(validation, i))
        why = fitted if isinstance(fitted, str) else excluded_by(y)
        row = {"label": label, "n": len(y), "positives": int(y.sum()), "excluded": why}
        platt = None if isinstance(fitted, str) else fitted
        row["platt"] = platt and {"scale": platt.scale, "bias": platt.bias}
        enough = fewest[i] >= FEW
        row["fitted"] = None if platt is None or why else _judged(y, platt.apply(z), enough)
        if scoring in LOGITS:
            row["own"] = None if excluded_by(y) else _judged(y, Platt(1.0, 0.0).apply(z), enough)
        rows.append(row)
    return {"method": f"Platt on split {split}", "bins": BINS, "labels": rows}


def _known(units: Units, i: int) -> tuple[Floats, Floats]:
    known = ~np.isnan(units.truth[:, i])
    return units.truth[known, i], units.z[known, i]


def _fit(y: Floats, z: Floats) -> Platt | str:
    """The fit, or why there is none."""
    why = excluded_by(y)
    if why:
        return f"{why} in the validation split"
    return fit_platt(y, z) if np.ptp(z) > 0 else ALL_EQUAL


def _judged(y: Floats, p: NDArray[np.float64], enough: bool) -> dict[str, Any]:
    """The bins of a label of few cases have no intervals."""
    none = {} if enough else {"rate_low": None, "rate_high": None}
    return {
        "brier": brier(y, p),
        "ece": ece(y, p, BINS),
        "reliability": [asdict(row) | none for row in reliability(y, p, BINS)],
    }
