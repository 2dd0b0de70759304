"""A new query graph held against its own table, before it goes into a bundle. Needs no torch."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tier_export.heads import Floats, Score, numpy_score, onnx_query
from tier_infer.errors import ParityError
from tier_infer.golden import Golden
from tier_infer.label_sets import LabelSet
from tier_infer.pooling import pooled

MAX_DZ = 1e-6  # between the query graph and its table's product in float64
MAX_DPOOL = 1e-5  # of a set of patch scores: a temperature of 10 multiplies the last bit


def table_score(table: Any, labels: LabelSet) -> Score:
    """eq. 4 in NumPy, in the precision of table [L, D]; of patches pooled where the set says so."""
    pooling = None if labels.pool is None else functools.partial(pooled, pool=labels.pool)
    return numpy_score(table, pooling)


def proven(graph: bytes, table: Floats, labels: LabelSet, golden: Golden | None) -> Floats:
    """float32 [N, L]: scores of the golden embeddings; without any, of the axes themselves, which
    are the patches of one image, too. ParityError."""
    axes = np.eye(table.shape[1], dtype=np.float32)
    image, patches = axes, axes[None, :, None]
    if golden:
        image, patches = golden.image, golden.patches
    found, exact = onnx_query(graph), table_score(table.astype(np.float64), labels)
    wide: Any = image.astype(np.float64), patches.astype(np.float64)
    pairs = ((found(image), exact(wide[0])), (found.images(image, patches), exact.images(*wide)))
    worst = max(float(np.abs(a - b).max()) if a.shape == b.shape else np.inf for a, b in pairs)
    allowed = MAX_DPOOL if labels.pool else MAX_DZ
    if not worst <= allowed:  # NaN is a breach
        raise ParityError(
            f"label set {labels.id}: its graph differs from its table's product by {worst:.1e}, "
            f"allowed {allowed:g}; the bundle is as it was"
        )
    return table_score(table, labels).images(image, patches)
