"""The K checkpoints that are exported as one encoder; K is 1 most of the time.

An ensemble's score is the mean of its members' Z. Concatenated embeddings, divided by √K on both
sides of the product, give exactly that, so nothing behind the export learns that K > 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_export.heads import Floats, Score, table_score
from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES, Geometry
from tier_infer.label_sets import LabelSet
from tier_infer.sentences import joined_sha256
from tier_train.checkpoint import Checkpoint
from tier_train.model import DualEncoder
from tier_train.recipe import grid_side
from tier_train.zero_shot import encode_images, pooled, query_table

BATCH = 16  # images per run of the reference; bounds memory, not results
GRAPH_LIMIT = 2**31 - 1  # bytes of one protobuf message, and a graph is one file here
NODES = 2**20  # bytes of one member's graph beside its weights; ResNet-50 and ViT-B/32 take less


@dataclass(frozen=True)
class Members:
    """`networks` are computed; `sources` are the checkpoint files that they were made from, the
    same ones unless weights were averaged."""

    networks: tuple[Checkpoint, ...]
    sources: tuple[Checkpoint, ...]

    @property
    def geometry(self) -> Geometry:
        return GEOMETRIES[self.networks[0].recipe.geometry]

    @property
    def cells(self) -> int:
        """Patches per side."""
        return grid_side(self.networks[0].recipe)

    @property
    def embed_dim(self) -> int:
        """D of the bundle: the members' own, added up."""
        return sum(network.recipe.embed_dim for network in self.networks)

    @property
    def prompts(self) -> str:
        """The label set that the recipes name; UsageError where they name different ones."""
        named = list(dict.fromkeys(source.recipe.prompts for source in self.sources))
        if len(named) > 1:
            raise UsageError(
                f"the checkpoints' recipes name different label sets: {', '.join(named)}; choose "
                "with --queries"
            )
        return named[0]

    @property
    def data(self) -> str:
        """Names of the training data, each once."""
        names = (str(source.training.get("data", "unknown")) for source in self.sources)
        return ", ".join(dict.fromkeys(names))

    @property
    def text_sha256(self) -> str:
        """Identity of the text towers, in order: query tables belong to them."""
        return joined_sha256([network.text_sha256 for network in self.networks])

    def encode(self, pixels: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """uint8 [N, H, W] → image_e [N, D], patch_e [N, g, g, D]: PyTorch in float32."""
        parts = [encode_images(network.model, pixels, BATCH) for network in self.networks]
        image_e, patch_e = joined([p[0] for p in parts]), joined([p[1] for p in parts])
        return image_e.numpy(), patch_e.numpy()

    def table(self, labels: LabelSet) -> Floats:
        """float32 [L, D]: q⁺ − q⁻ of every label (eq. 3, 4)."""
        with torch.no_grad():
            rows = [query_table(n.model, n.tokenizer, labels) for n in self.networks]
        return joined(rows).numpy()

    def described(self) -> list[dict[str, Any]]:
        """What the manifest says of each checkpoint."""
        return [
            _describe(source, len(self.networks) < len(self.sources)) for source in self.sources
        ]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """K tensors [..., Dₖ] of unit norm → [..., ΣDₖ] of unit norm."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1) * len(parts) ** -0.5


def exact_score(table: Floats, labels: LabelSet) -> Score:
    """eq. 4 in float32 with table [L, D], of the patches pooled in PyTorch where the set says so.

    Of an ensemble the means of the members' patch scores are pooled.
    """
    return table_score(table, labels, lambda z, pool: pooled(torch.from_numpy(z), pool).numpy())


def members_of(checkpoints: Sequence[Checkpoint], names: Sequence[str] = ()) -> Members:
    """An ensemble, or one network. `names` are what messages call the checkpoints, e.g. paths.

    Raises UsageError where they can't be one encoder: it has one input, one grid and one protocol,
    and fits into one file.
    """
    called = list(names) or [c.sha256[:12] for c in checkpoints]
    check_alike(checkpoints, called)
    _check_size([c.model for c in checkpoints])
    return Members(tuple(checkpoints), tuple(checkpoints))


def check_alike(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> None:
    """UsageError for one checkpoint under two names, and for two that see different images."""
    first = checkpoints[0]
    seen: dict[str, str] = {}
    for name, other in zip(names, checkpoints, strict=True):
        if other.sha256 in seen:
            raise UsageError(
                f"{seen[other.sha256]} and {name} are one checkpoint, which would count twice; "
                "name different ones"
            )
        seen[other.sha256] = name
        for what, a, b in (
            ("geometry", first.recipe.geometry, other.recipe.geometry),
            ("patches per side", grid_side(first.recipe), grid_side(other.recipe)),
            ("global_pool", first.recipe.global_pool, other.recipe.global_pool),
            ("intensity", first.intensity, other.intensity),
            ("views", " and ".join(first.views), " and ".join(other.views)),
        ):
            if a != b:
                raise UsageError(
                    f"{names[0]} and {name} can't be one encoder: {what} is {a} in one and {b} in "
                    "the other; export them one by one"
                )


def weight_bytes(model: DualEncoder) -> int:
    """Of the image tower in float32: what the encoder's file holds, BatchNorm folded."""
    return sum(4 * weight.numel() for weight in model.image.parameters())


def _check_size(models: Sequence[DualEncoder]) -> None:
    """UsageError before a graph is built that can't be written."""
    sizes = np.cumsum([weight_bytes(model) + NODES for model in models])
    if sizes[-1] > GRAPH_LIMIT:
        fit = int((sizes <= GRAPH_LIMIT).sum())
        raise UsageError(
            f"{len(models)} checkpoints make an encoder of {sizes[-1] / 1e9:.2f} GB; one ONNX file "
            f"holds at most {GRAPH_LIMIT / 1e9:.2f} GB, which is the first {fit}; name fewer, or "
            "average their weights with --average"
        )


def _describe(source: Checkpoint, averaged: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sha256": source.sha256,
        "recipe": asdict(source.recipe),
        "text_sha256": source.text_sha256,
        "alarm": source.alarm,
    }
    if averaged:
        row["combined"] = "average"
    for key in ("patches", "notes"):  # of imported weights; patches "not trained": no evidence
        if key in source.training:
            row[key] = source.training[key]
    return row
