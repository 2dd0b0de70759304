"""What makes scores of embeddings, on both sides of the gate: a table with eq. 4, or a query graph.

Called, a head scores every row by itself, which is what a heatmap shows; `images` gives the scores
of images, of their own embeddings or pooled over those of their patches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tier_infer.label_sets import LabelSet
from tier_infer.pooling import Pool, in_blocks, pooled
from tier_infer.sessions import open_session

Floats = NDArray[np.float32]
Pooling = Callable[[Floats], Floats]  # scores of patches [N, P, L] → [N, L]
Pools = Callable[[Any, Pool], Any]  # likewise


class Score(Protocol):
    def __call__(self, embeddings: Floats) -> Floats:
        """[M, D] → [M, L]"""
        ...

    def images(self, image: Floats, patches: Floats) -> Floats:
        """[N, D] and [N, g, g, D] → [N, L]"""
        ...


@dataclass(frozen=True)
class TableScore:
    """eq. 4 of the reference."""

    table: Floats  # [L, D], q⁺ − q⁻
    pooling: Pooling | None = None  # of a set of patch scores

    def __call__(self, embeddings: Floats) -> Floats:
        return embeddings @ self.table.T

    def images(self, image: Floats, patches: Floats) -> Floats:
        pooling = self.pooling
        if pooling is None:
            return self(image)
        return in_blocks(lambda part: pooling(part @ self.table.T), patches, len(self.table))


class GraphScore:
    """A query graph of either kind, on the CPU."""

    def __init__(self, graph: bytes) -> None:
        self._session = open_session(graph, "cpu")
        self._input = self._session.get_inputs()[0].name
        self._pooled = self._input == "patch_embeddings"

    def __call__(self, embeddings: Floats) -> Floats:
        return self._run(embeddings[:, None] if self._pooled else embeddings)

    def images(self, image: Floats, patches: Floats) -> Floats:
        if not self._pooled:
            return self(image)
        width = self._session.get_outputs()[0].shape[1]
        return in_blocks(self._run, patches, width if isinstance(width, int) else 1)

    def _run(self, rows: Floats) -> Floats:
        result: Floats = self._session.run(["scores"], {self._input: rows})[0]
        return result


def table_score(table: Any, labels: LabelSet, by: Pools = pooled) -> TableScore:
    """eq. 4 in the precision of table [L, D]; `by` pools patches where the set says so."""
    pool = labels.pool
    return TableScore(table, None if pool is None else lambda z: by(z, pool))
