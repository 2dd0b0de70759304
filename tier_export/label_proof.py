"""A new query graph held against its own table, before it goes into a bundle. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tier_export.heads import Floats, GraphScore, table_score
from tier_infer.bundle import Bundle, Manifest
from tier_infer.errors import IntegrityError, ParityError
from tier_infer.golden import Golden
from tier_infer.label_sets import LabelSet
from tier_infer.pooling import MAX_DPOOL
from tier_infer.query_table import QueryTable

MAX_DZ = 1e-6  # between the query graph and its table's product in float64


def proven(graph: bytes, table: Floats, labels: LabelSet, golden: Golden | None) -> Floats:
    """float32 [N, L]: scores of the golden embeddings; without any, of the axes themselves, which
    are the patches of one image, too. ParityError."""
    axes = np.eye(table.shape[1], dtype=np.float32)
    image, patches = axes, axes[None, :, None]
    if golden:
        image, patches = golden.image, golden.patches
    found, exact = GraphScore(graph), table_score(table.astype(np.float64), labels)
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


def check_read(manifest: Manifest, files: Mapping[str, bytes], sets: Iterable[str]) -> None:
    """ParityError for a set that `tier-infer` would refuse, before it is written."""
    bundle = Bundle(Path(), manifest, dict(files))
    for set_id in sets:
        try:
            QueryTable(bundle, set_id)
        except IntegrityError as error:
            words = str(error).partition(";")[0]
            raise ParityError(f"{words}, so nothing could score with it") from None
