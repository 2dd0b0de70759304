"""Heatmap cells of two sides: how far apart, and how alike they rank. Never all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tier_infer.evaluation.ranking import Floats, rank_correlation
from tier_infer.pooling import BLOCK

if TYPE_CHECKING:
    from tier_export.parity import Outputs

MIN_CELLS = 256  # that a ranking is measured on, however many labels there are


def cell_ranks(reference: Outputs, other: Outputs) -> list[float | None]:
    """ρ over the cells of all crops, per label [L]; of thousands of labels on a part of them."""
    flat = [x.patches.reshape(-1, x.patches.shape[-1]) for x in (reference, other)]
    total = len(flat[0])
    count = min(total, max(MIN_CELLS, BLOCK // reference.scores.shape[1]))
    at = np.linspace(0, total - 1, count).astype(np.int64)  # in steps that fall on all places
    a, b = (x.score(e[at]) for x, e in zip((reference, other), flat, strict=True))
    return [rank_correlation(*pair) for pair in zip(a.T, b.T, strict=True)]


def cell_differences(reference: Outputs, other: Outputs) -> tuple[Floats, float]:
    """Differences of heatmap cells: the largest per label [L], and the 99th percentile of all.

    In blocks of crops; the percentile is exact because the largest 1 % are kept.
    """
    total = reference.patches[..., 0].size * reference.scores.shape[1]
    at = 0.99 * (total - 1)  # as numpy: linear between neighbours
    count = total - int(at)
    worst = np.zeros(reference.scores.shape[1], np.float32)
    top = np.empty(0, np.float32)
    for block in _cell_blocks(reference, other):  # [M, L]
        worst = np.maximum(worst, block.max(0))
        top = np.concatenate([top, block.ravel()])
        if len(top) > count:
            top = np.partition(top, len(top) - count)[-count:]
    low, high = np.sort(top)[[0, min(1, count - 1)]].astype(np.float64)
    return worst, float(low + (high - low) * (at - int(at)))


def _cell_blocks(reference: Outputs, other: Outputs) -> Iterator[Floats]:
    n, grid, _, dim = reference.patches.shape
    step = max(1, BLOCK // (grid * grid * reference.scores.shape[1]))  # crops
    for start in range(0, n, step):
        a, b = (
            x.score(np.ascontiguousarray(x.patches[start : start + step].reshape(-1, dim)))
            for x in (reference, other)
        )
        yield np.abs(b - a)
