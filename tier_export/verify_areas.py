"""AUC by label of every encoder of a bundle beside its reference, on labelled images.

Each AUC is over the images whose truth is known; |ΔZ| and flips are over all images that were
measured, as in the certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tier_export.certificate import Found
from tier_export.heads import Floats
from tier_export.parity import Crops
from tier_infer.metrics import roc_auc

Areas = dict[str, dict[str, Any]]  # set → columns, labels, mean


def areas(
    labels: Mapping[str, Sequence[str]],
    scores: Mapping[str, Mapping[str, Floats]],
    figures: Mapping[str, Mapping[str, Found]],
    crops: Crops,
) -> Areas:
    """Of each set `labels`, in the order of its columns, that has truth.

    `scores`: column of the table → set → Z [N, L]; `figures`: the same without the reference → set
    → what `parity.compare` found. `labels` of the result: n and positives with known truth, auc by
    column (None: one class), max_dz and flips by column but the reference; `mean` over those with
    an AUC, whose count it says: auc, largest max_dz, sum of flips; None without any.
    """
    found: Areas = {}
    for set_id, ids in labels.items():
        rows = {
            label: _row(crops.truth[label], place, set_id, label, scores, figures)
            for place, label in enumerate(ids)
            if label in crops.truth and not np.isnan(crops.truth[label]).all()
        }
        found[set_id] = {"columns": list(scores), "labels": rows, "mean": _mean(rows)}
    return found


def _row(
    truth: Floats,
    place: int,
    set_id: str,
    label: str,
    scores: Mapping[str, Mapping[str, Floats]],
    figures: Mapping[str, Mapping[str, Found]],
) -> dict[str, Any]:
    known = ~np.isnan(truth)
    y = truth[known]
    each = {column: sets[set_id]["labels"][label] for column, sets in figures.items()}
    both = 0 < y.sum() < len(y)
    areas = {column: roc_auc(y, sets[set_id][known, place]) for column, sets in scores.items()}
    return {
        "n": len(y),
        "positives": int(y.sum()),
        "auc": areas if both else None,
        "max_dz": {column: row["max_dz"] for column, row in each.items()},
        "flips": {column: row["flips"] for column, row in each.items()},
    }


def _mean(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    kept = [row for row in rows.values() if row["auc"]]
    if not kept:
        return None
    auc, max_dz, flips = ([row[key] for row in kept] for key in ("auc", "max_dz", "flips"))
    return {
        "labels": len(kept),
        "auc": {c: float(np.mean([row[c] for row in auc])) for c in auc[0]},
        "max_dz": {c: max(row[c] for row in max_dz) for c in max_dz[0]},
        "flips": {c: sum(row[c] for row in flips) for c in flips[0]},
    }


def area_lines(found: Areas) -> Iterator[str]:
    """A table per set."""
    for set_id, table in found.items():
        if not table["labels"]:
            yield f"AUC by label, set {set_id}: no label with truth in the data"
            continue
        columns, rows = table["columns"], table["labels"]
        title = f"AUC, set {set_id}"
        width = max(24, len(title), *map(len, rows))
        heads = "".join(f"{column:>8}" for column in columns)
        apart = "".join(f"{f'|dZ| {column}':>10}" for column in columns[1:])
        yield f"{title:<{width}}     n   pos{heads}{apart}  flips {'/'.join(columns[1:])}".rstrip()
        for label, row in rows.items():
            yield _line(f"{label:<{width}} {row['n']:>5} {row['positives']:>5}", row, columns)
        if table["mean"]:
            count = table["mean"]["labels"]
            name = f"mean of {count} label{'s' * (count != 1)}"
            yield _line(f"{name:<{width}}            ", table["mean"], columns)


def _line(start: str, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    blank = 8 * len(columns)
    areas = f"{'one class':>{blank}}"
    if row["auc"]:
        areas = "".join(f"{row['auc'][column]:8.4f}" for column in columns)
    apart = "".join(f"{row['max_dz'][column]:10.1e}" for column in columns[1:])
    return f"{start}{areas}{apart}  {'/'.join(str(row['flips'][c]) for c in columns[1:])}".rstrip()
