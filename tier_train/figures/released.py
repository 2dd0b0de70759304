"""The released code's heatmaps: cosines of the cells to the label's positive query, stretched from
their 1st to their 99th percentile over all images of the set, less the same of "No Finding".

A map depends on the other images of the set, and on how often the label stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tier_infer.evaluation.cohort import Cohort
from tier_infer.label_sets import Label, LabelSet, load_label_set
from tier_train.evaluation.margin import margin_table
from tier_train.figures.heatmaps import Cells, Shown
from tier_train.figures.pair import Pair, cells_of, read_crops

PERCENTILES = (1, 99)


def released(
    pair: Pair,
    cohort: Cohort,
    label: Label,
    shown: list[Shown],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Shown], int]:
    """The same rows with the released code's maps, and how many images stretched them."""
    queries = LabelSet("released", tuple(_alone(x) for x in (label, _no_finding())))
    tables = [margin_table(checkpoint, queries) for checkpoint in pair]
    maps: list[list[Cells]] = [[], []]  # per model, [2, g, g] of every image
    at: dict[int, int] = {}
    done = 0
    tell(done, len(cohort))
    for block in read_crops(cohort, list(range(len(cohort))), pair.presets):
        seen = [(row, crop) for row, _, crop in block if crop is not None]
        for row, _ in seen:
            at[row] = len(at)
        crops = np.stack([crop for _, crop in seen]) if seen else None
        for model, (checkpoint, table) in enumerate(zip(pair, tables, strict=True)):
            maps[model] += list(cells_of(checkpoint, table, crops)[1]) if crops is not None else []
        done += len(block)
        tell(done, len(cohort))
    stretched = [stretch(np.stack(each)) for each in maps]
    drawn = [replace(c, cells=tuple(each[at[c.row]] for each in stretched)) for c in shown]
    return drawn, len(at)


def stretch(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 2, g, g], label and No Finding → [N, g, g] in [−1, 1]: each stretched from its 1st to its
    99th percentile over the set to [0, 1], then their difference. One that is flat becomes 0."""
    low, high = np.percentile(cosines, PERCENTILES, axis=(0, 2, 3), keepdims=True)
    width = np.where(high > low, high - low, np.inf)
    unit = np.clip((cosines - low) / width, 0, 1)
    return np.asarray(unit[:, 0] - unit[:, 1], np.float32)


def _alone(label: Label) -> Label:
    """Its positive query against nothing: the released code's maps are cosines, no margins."""
    return Label(label.id, label.name, label.positive, ())


def _no_finding() -> Label:
    """The five sentences of the paper's Table 3, which stand there as every label's negatives."""
    return Label("no_finding", "No Finding", load_label_set("chexpert").labels[0].negative, ())
