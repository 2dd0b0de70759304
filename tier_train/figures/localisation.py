"""Whether a map lies on the finding, where somebody drew it: pointing game, CNR and IoU.

Counted are images that the table calls positive and that have a mask within the crop. Everything
else is counted by the reason that it was left out. Below FEW images or patients
nothing is resampled. The measures are those of `tier_infer.evaluation.localisation`: cells against
the part of each that the mask covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.evaluation.bootstrap import Resamples, resample, spread
from tier_infer.evaluation.cohort import Case, Cohort, described
from tier_infer.evaluation.localisation import (
    Cells,
    area,
    cells_of_mask,
    chance,
    cnr,
    iou,
    otsu,
    pointing_game,
)
from tier_infer.evaluation.measure import FEW
from tier_infer.label_sets import LabelSet
from tier_train.evaluation.margin import margin_table
from tier_train.evaluation.members import sets_of
from tier_train.figures.masks import Mask, Masks
from tier_train.figures.pair import (
    NAMES,
    Pair,
    cautions_of,
    cells_of,
    head_of,
    read_crops,
)

MEASURES = ("hit", "cnr", "iou", "brighter_inside")
OTHER_SHAPE = 0.01  # relative difference of aspect at which a mask is not of this film
NO_MASK, OUTSIDE = "no mask", "mask outside of the crop"
REFUSED, SHAPE = "image refused", "mask of another shape than the image"
Heat = NDArray[np.float32]
Crop = NDArray[np.uint8]


@dataclass(frozen=True)
class Found:
    """One image and one of its findings."""

    line: int
    group: str  # number of the patient, by first appearance; "" unknown. Groups the resamples
    area: float  # of the visible crop
    chance: float  # of the pointing game, for a blind guess
    values: tuple[dict[str, float], dict[str, float]]  # per model: MEASURES; NaN: undefined


@dataclass
class Findings:
    labels: LabelSet
    found: dict[str, list[Found]] = field(default_factory=dict)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)


def labels_with_truth(cohort: Cohort, labels: LabelSet) -> LabelSet:
    kept = tuple(label for label in labels.labels if label.id in cohort.labels)
    if not kept:
        raise UsageError(
            f"{cohort.name} has none of the labels of {labels.id} as a column: "
            f"{', '.join(label.id for label in labels.labels)}"
        )
    return LabelSet(labels.id, kept)


def localise(
    pair: Pair,
    cohort: Cohort,
    labels: LabelSet,
    masks: Masks,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Measures of every positive image with a mask. UsageError where no label has one."""
    truth = np.stack([cohort.truth_of(label.id) for label in labels.labels], axis=1)
    rows = [int(i) for i in np.flatnonzero((truth == 1).any(axis=1))]
    tables = [margin_table(checkpoint, labels) for checkpoint in pair]
    findings = Findings(labels)
    for label in labels.labels:
        findings.found[label.id], findings.left_out[label.id] = [], Counter()
    groups = {"": ""}
    done = 0
    tell(done, len(rows))
    for block in read_crops(cohort, rows, pair.presets, keep_picture=True):
        maps = _maps(pair, tables, [crop for *_, crop in block if crop is not None])
        for row, result, crop in block:
            cells = None if crop is None else next(maps)  # [2, L, g, g]
            for column in np.flatnonzero(truth[row] == 1):
                label_id = labels.labels[column].id
                share = _share(masks(row, label_id), result.display, cells, pair)
                if isinstance(share, str):
                    findings.left_out[label_id][share] += 1
                elif cells is not None:
                    case = cohort.cases[row]
                    group = groups.setdefault(case.patient, str(len(groups)))
                    found = _found(case, group, share, cells[:, column])
                    findings.found[label_id].append(found)
        done += len(block)
        tell(done, len(rows))
    if not any(findings.found.values()):
        total: Counter[str] = sum(findings.left_out.values(), Counter())
        told = ", ".join(f"{count} {reason}" for reason, count in total.items())
        raise UsageError(
            f"no positive image of {cohort.name} has a mask within the crop: "
            f"{told or 'no image is positive'}"
        )
    return findings


def _maps(pair: Pair, tables: list[Tensor], crops: list[Crop]) -> Iterator[Heat]:
    """Of every crop both models' cells, [2, L, g, g]."""
    if crops:
        pixels = np.stack(crops)
        both = [cells_of(c, table, pixels)[1] for c, table in zip(pair, tables, strict=True)]
        yield from np.stack(both, axis=1)


def _share(mask: Mask | None, film: Crop | None, cells: Heat | None, pair: Pair) -> Cells | str:
    """What part of each cell the mask covers, or the reason why nothing can be measured."""
    if mask is None:
        return NO_MASK
    if film is None or cells is None:
        return REFUSED
    ratio = (mask.shape[0] * film.shape[1]) / (mask.shape[1] * film.shape[0])
    if abs(ratio - 1) > OTHER_SHAPE:
        return SHAPE
    share = cells_of_mask(mask, pair.presets.geometry, cells.shape[-1])
    return OUTSIDE if chance(share) is None else share


def _found(case: Case, group: str, share: Cells, both: Heat) -> Found:
    """both: [2, g, g]"""
    blind = chance(share)
    assert blind is not None
    first, second = (measures(cells.astype(np.float64), share) for cells in both)
    return Found(case.line, group, area(share), blind, (first, second))


def measures(cells: Cells, share: Cells) -> dict[str, float]:
    """hit and brighter_inside are 0 or 1; NaN for what these cells do not define.

    brighter_inside tells what CNR can't: whether the contrast has the right sign.
    """
    seen = ~np.isnan(share)
    heat, part = cells[seen], share[seen]
    split = otsu(heat)
    values = {
        "hit": pointing_game(cells, share),
        "cnr": cnr(cells, share),
        "iou": None if split is None else iou(cells, share, split),
        "brighter_inside": None,
    }
    if part.sum() > 0 and (1 - part).sum() > 0:
        inside, outside = np.average(heat, weights=part), np.average(heat, weights=1 - part)
        values["brighter_inside"] = bool(inside > outside)
    return {name: np.nan if value is None else float(value) for name, value in values.items()}


def report_of(
    pair: Pair, cohort: Cohort, findings: Findings, draws: int, seed: int
) -> dict[str, Any]:
    head = head_of("localisation", pair, described(cohort)) | sets_of(findings.labels)
    head["cautions"] = cautions_of(pair, cohort, "per_image")
    left_out = {label: dict(counts) for label, counts in findings.left_out.items()}
    return measured(head, findings.found, left_out, draws, seed)


def measured(
    head: dict[str, Any],
    found: Mapping[str, list[Found]],
    left_out: Mapping[str, dict[str, int]],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """All figures, of findings and what was left out by label."""
    rows = [_row(label, found[label], left_out[label], draws, seed) for label in left_out]
    return head | {"draws": draws, "seed": seed, "labels": rows}


def _row(
    label: str, found: list[Found], left_out: dict[str, int], draws: int, seed: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"label": label, "n": len(found), "left_out": left_out}
    if not found:
        return row | dict.fromkeys(("area", "chance", *MEASURES))
    row["area"] = float(np.mean([one.area for one in found]))
    row["chance"] = float(np.mean([one.chance for one in found]))
    for name in MEASURES:
        table = np.array([[one.values[m][name] for m in (0, 1)] for one in found])  # [n, 2]
        known = ~np.isnan(table).any(axis=1)
        patients = [one.group for one, keep in zip(found, known, strict=True) if keep]
        row[name] = _measured(table[known], resample(patients, draws, seed))
    return row


def _measured(table: NDArray[np.float64], resamples: Resamples) -> dict[str, Any] | None:
    """[n, 2], regularized and unregularized of the same images; None for no image."""
    if not len(table):
        return None
    if min(len(table), resamples.patients) < FEW:
        resamples = replace(resamples, draws=0)  # these few show how they vary, not how others do
    drawn = [_means(table[:, m], resamples) for m in (0, 1)]
    entry: dict[str, Any] = {"n": len(table)}
    for m, name in enumerate(NAMES):
        entry[name] = {
            "mean": float(table[:, m].mean()),
            "sd": float(table[:, m].std()),
            "interval": _ends(drawn[m]),
        }
    entry["difference"] = {
        "mean": float((table[:, 0] - table[:, 1]).mean()),
        "interval": _ends(drawn[0] - drawn[1]),
    }
    return entry


def _means(values: NDArray[np.float64], resamples: Resamples) -> NDArray[np.float64]:
    """[n] → the mean in each draw."""
    means = np.empty(resamples.draws)
    for draws, counts in resamples.blocks():
        means[draws] = counts @ values / counts.sum(axis=1)
    return means


def _ends(drawn: NDArray[np.float64]) -> list[float] | None:
    ends = spread(drawn)
    return None if ends is None else list(ends)
