"""One label set of a bundle: embeddings → scores, on the CPU."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import Bundle
from tier_infer.embeddings import Embeddings
from tier_infer.errors import IntegrityError
from tier_infer.pooling import MAX_DPOOL, Pool, TopK, described, in_blocks, pooled
from tier_infer.sessions import open_session, rows_of

PROBES = 64  # patches of the image that shows how a graph pools; more only for a larger k


class QueryTable:
    """One label set: embeddings → scores. A set of patch scores pools those of an image's P
    patches; a cell of a heatmap is an image of one patch to the same graph."""

    def __init__(self, bundle: Bundle, set_id: str) -> None:
        self.set_id, self.pool = set_id, bundle.manifest.pool(set_id)
        self._session = open_session(bundle.query_graph(set_id), "cpu")  # one small product
        meta: dict[str, Any] = self._session.get_modelmeta().custom_metadata_map
        try:
            self.labels: list[dict[str, Any]] = json.loads(meta["labels"])
            self.ids = [str(label["id"]) for label in self.labels]
            told: object = json.loads(meta.get("pool", "null"))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise IntegrityError(f"label set {set_id} carries no label list") from None
        if meta.get("text_sha256") != bundle.manifest.text_sha256:
            raise IntegrityError(
                f"label set {set_id} was made with another text encoder than this bundle's; make "
                "it again with `tier-export labels`"
            )
        listed = described(self.pool) if self.pool else None
        if told != listed:
            raise IntegrityError(
                f"label set {set_id} pools patch scores by {told} as its graph says, by {listed} "
                "as the manifest does; make it again with `tier-export labels`"
            )
        dim = bundle.manifest.embed_dim
        what = "embeddings" if self.pool is None else "patch_embeddings"
        found = {row.name: (row.type, _sizes(row.shape[1:])) for row in rows_of(self._session)}
        wanted = {what: [dim] if self.pool is None else [None, dim], "scores": [len(self.ids)]}
        if found != {name: ("tensor(float)", sizes) for name, sizes in wanted.items()}:
            raise IntegrityError(
                f"label set {set_id} is not float32 scores of {len(self.ids)} labels from "
                f"{what.replace('_', ' ')} of {dim}; make it again with `tier-export labels`"
            )
        self._input = what
        if self.pool is not None:
            self._check_pool(self.pool, dim)

    def image_scores(self, found: Embeddings) -> NDArray[np.float32]:
        """float32 [N, L]: Z of eq. 4 in [−2, 2], of the image's embedding or of its patches; NaN
        where one of those is not finite."""
        if self.pool is None:
            return self._scores(found.image)
        z = in_blocks(self._scores, found.patches, len(self.ids))
        flat = found.patches.reshape(len(found.patches), -1)
        whole = np.isfinite(flat).all(1, keepdims=True)
        return np.where(whole, z, np.float32(np.nan))  # which the k highest may hide

    def cell_scores(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [M, D] → [M, L]: Z of each row by itself, pooled or not."""
        return self._scores(embeddings if self.pool is None else embeddings[:, None])

    def _scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._session.run(["scores"], {self._input: rows})[0]
        if result.shape != (len(rows), len(self.ids)):  # what it declares may be untrue
            raise IntegrityError(
                f"label set {self.set_id} gives scores of shape {list(result.shape)} for "
                f"{len(rows)} images and {len(self.ids)} labels; make it again with "
                "`tier-export labels`"
            )
        return result

    def _check_pool(self, pool: Pool, dim: int) -> None:
        """The graph pools as the manifest says: no other file tells its temperature or k, and the
        hash of a graph that was exchanged with its manifest is right."""
        count = max(min(dim, PROBES), pool.k + 1 if isinstance(pool, TopK) else 0)
        at = np.arange(max(count, dim))
        patches = np.zeros((count, dim), np.float32)
        patches[at % count, at % dim] = 1 + at // dim  # every axis in some patch: scores spread
        patches /= max(float(np.abs(self.cell_scores(patches)).max()), 1e-6)
        exact = pooled(self.cell_scores(patches)[None].astype(np.float64), pool)  # [1, L]
        apart = np.abs(self._scores(patches[None]) - exact).max(initial=0.0)
        if not apart <= MAX_DPOOL:  # NaN is none either
            raise IntegrityError(
                f"label set {self.set_id} does not pool patch scores by {described(pool)}, as the "
                f"manifest says: it differs by {apart:.1e}; make it again with `tier-export labels`"
            )


def _sizes(shape: list[Any]) -> list[int | None]:
    """None where a size is free, whatever the graph calls it."""
    return [size if isinstance(size, int) else None for size in shape]
