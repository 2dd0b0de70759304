"""A bundle as a scorer of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import Bundle
from tier_infer.engine import Engine
from tier_infer.evaluation.prompts import prompts_sha256
from tier_infer.pooling import described
from tier_infer.scoring import presets_of, select_labels


class BundleScorer:
    def __init__(self, bundle: Bundle, engine: Engine, labels: Iterable[str]) -> None:
        """UsageError for a label that no set of the bundle has."""
        manifest = bundle.manifest
        self._engine = engine
        self._selection = select_labels(bundle, labels)
        self.labels = self._selection.names
        self.presets = presets_of(bundle)
        self.identity = {
            "side": "bundle",
            "name": manifest.name,
            "bundle_sha256": manifest.bundle_sha256,
            "checkpoints": [row["sha256"] for row in manifest.checkpoint],
            "recipes": [row.get("recipe", {}).get("name") for row in manifest.checkpoint],
            "lambdas": [_lambdas(row.get("recipe", {})) for row in manifest.checkpoint],
            "training": [
                {"data": name, "sha256": ""} for name in manifest.training_data.split(", ")
            ],
            "label_sets": {
                set_id: _identity(bundle, set_id, table.labels)
                for set_id, table in self._selection.tables.items()
            },
            "scoring": "margin",
            "exported": True,
            "engine": engine.identity["runtime"],
            "device": engine.device,
            "precision": engine.precision,
        }

    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W] → Z, float32 [N, L] in [−2, 2]."""
        return self._selection.image_scores(self._engine.encode(pixels))


def _lambdas(recipe: dict[str, Any]) -> list[float] | None:
    """λ of patches and of tokens; None where a manifest tells no recipe."""
    found = [recipe.get(f"lambda_{part}") for part in ("patch", "token")]
    return None if None in found else found  # type: ignore[return-value]


def _identity(bundle: Bundle, set_id: str, labels: list[dict[str, Any]]) -> dict[str, Any]:
    manifest = bundle.manifest
    pool = manifest.pool(set_id)
    row = {"prompts_sha256": prompts_sha256(labels)} | ({"pool": described(pool)} if pool else {})
    return row | {"graph_sha256": manifest.label_sets[set_id]["sha256"]}
