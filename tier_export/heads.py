"""What makes scores of embeddings, on both sides of the gate: a table with eq. 4, or a query graph.

Called, a head scores every row by itself, which is what a heatmap shows; `images` gives the scores
of images, of their own embeddings or pooled over those of their patches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tier_export.cells import BLOCK
from tier_infer.engine import open_session

Floats = NDArray[np.float32]
Pooling = Callable[[Floats], Floats]  # scores of patches [N, P, L] → [N, L]


class Score(Protocol):
    def __call__(self, embeddings: Floats) -> Floats:
        """[M, D] → [M, L]"""
        ...

    def images(self, image: Floats, patches: Floats) -> Floats:
        """[N, D] and [N, g, g, D] → [N, L]"""
        ...


@dataclass(frozen=True)
class TableScore:
    table: Floats  # [L, D], q⁺ − q⁻
    pooling: Pooling | None

    def __call__(self, embeddings: Floats) -> Floats:
        return embeddings @ self.table.T

    def images(self, image: Floats, patches: Floats) -> Floats:
        pooling = self.pooling
        if pooling is None:
            return self(image)
        return _in_blocks(lambda part: pooling(part @ self.table.T), patches, len(self.table))


class GraphScore:
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
        return _in_blocks(self._run, patches, width if isinstance(width, int) else 1)

    def _run(self, rows: Floats) -> Floats:
        result: Floats = self._session.run(["scores"], {self._input: rows})[0]
        return result


def numpy_score(table: Floats, pooling: Pooling | None = None) -> Score:
    """eq. 4 of the reference; `pooling` for a set of patch scores."""
    return TableScore(table, pooling)


def onnx_query(graph: bytes) -> Score:
    """A query graph of either kind, on the CPU."""
    return GraphScore(graph)


def _in_blocks(score: Pooling, patches: Floats, labels: int) -> Floats:
    """[N, g, g, D] → [N, L]; `score` is given [n, P, D], so few that memory is bounded."""
    count, _, _, dim = patches.shape
    rows = patches.reshape(count, -1, dim)
    step = max(1, BLOCK // (rows.shape[1] * labels))
    return np.concatenate([score(rows[i : i + step]) for i in range(0, count, step)])
