"""A regularized checkpoint and its unregularized twin, which see the same crops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tier_infer.bundle import NOTICE
from tier_infer.errors import UsageError
from tier_infer.evaluation.cautions import cautions
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.scores import Scorer
from tier_infer.label_sets import LabelSet, load_label_set
from tier_infer.reader import Reader
from tier_infer.scoring import ImageResult, Presets, crops_of
from tier_train.checkpoint import Checkpoint, load_checkpoint
from tier_train.evaluation.members import check_device, identity_of, presets_of
from tier_train.figures.drawing import SCHEMA
from tier_train.zero_shot import encode_images

NAMES = ("regularized", "unregularized")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    regularized: Checkpoint
    unregularized: Checkpoint
    presets: Presets  # of both

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter((self.regularized, self.unregularized))


def open_pair(regularized: Path, unregularized: Path, device: str = "cpu") -> Pair:
    """Raises what `load_checkpoint` raises, and UsageError for two that can't be compared."""
    check_device(device)
    pair = make_pair(load_checkpoint(regularized), load_checkpoint(unregularized))
    for checkpoint in pair:
        checkpoint.model.to(device).eval()
    return pair


def make_pair(regularized: Checkpoint, unregularized: Checkpoint) -> Pair:
    first, second = regularized.recipe, unregularized.recipe
    for key in ("geometry", "arch", "patch_layer"):
        if getattr(first, key) != getattr(second, key):
            raise UsageError(
                f"the checkpoints differ in {key} ({getattr(first, key)} and {getattr(second, key)}"
                "); name two that differ in their penalties only"
            )
    presets = presets_of(regularized)
    if presets != presets_of(unregularized):
        raise UsageError(
            "the checkpoints differ in intensity or views; name two that saw the same images"
        )
    if not presets.patches_trained:
        raise UsageError(
            "these checkpoints' patches were never trained to meet words, so a map of them says "
            "nothing; name checkpoints of `tier-train run`"
        )
    if _weight(regularized) < _weight(unregularized):
        raise UsageError(
            f"the regularized checkpoint has the smaller penalties ({_lambdas(regularized)}; the "
            f"other {_lambdas(unregularized)}); exchange --regularized and --unregularized"
        )
    return Pair(regularized, unregularized, presets)


def _weight(checkpoint: Checkpoint) -> float:
    return checkpoint.recipe.lambda_patch + checkpoint.recipe.lambda_token


def _lambdas(checkpoint: Checkpoint) -> str:
    recipe = checkpoint.recipe
    return f"λ_patch {recipe.lambda_patch:g}, λ_token {recipe.lambda_token:g}"


def described_pair(pair: Pair) -> list[dict[str, Any]]:
    return [
        {
            "model": name,
            "checkpoint_sha256": checkpoint.sha256,
            "recipe": checkpoint.recipe.name,
            "lambda_patch": checkpoint.recipe.lambda_patch,
            "lambda_token": checkpoint.recipe.lambda_token,
            "trained_on": str(checkpoint.training.get("data", "unknown")),
        }
        for name, checkpoint in zip(NAMES, pair, strict=True)
    ]


def head_of(figure: str, pair: Pair, dataset: dict[str, Any]) -> dict[str, Any]:
    """What every JSON file of a figure begins with."""
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "figure": figure,
        "models": described_pair(pair),
        "geometry": pair.presets.geometry.name,
        "intensity": pair.presets.intensity,
        "dataset": dataset,
    }


def cautions_of(pair: Pair, cohort: Cohort, protocol: str) -> list[str]:
    """What a reader must know of the training behind these maps."""
    trained = identity_of(list(pair), "margin", "cpu")
    return cautions(
        cast("Scorer", SimpleNamespace(identity=trained, presets=pair.presets)), cohort, protocol
    )


def cautions_in_words(facts: dict[str, Any]) -> str:
    """Of a caption, with a space behind; "" for none."""
    return "".join(f"Caution: {text}. " for text in facts["cautions"])


def models_in_words(facts: dict[str, Any]) -> str:
    """Of a caption."""
    each = [
        f"{m['model']} {m['checkpoint_sha256'][:12]} (λ_patch={m['lambda_patch']:g}, "
        f"λ_token={m['lambda_token']:g})"
        for m in facts["models"]
    ]
    return f"Checkpoints: {'; '.join(each)}."


def labels_of(pair: Pair, queries: str | None) -> LabelSet:
    """The set asked for, else the regularized checkpoint's own; both are asked the same."""
    return load_label_set(queries or pair.regularized.recipe.prompts)


def cells_of(
    checkpoint: Checkpoint, table: Tensor, crops: NDArray[np.uint8]
) -> tuple[Floats, Floats]:
    """crops uint8 [N, S, S], table [L, D] → of images [N, L] and of cells [N, L, g, g]."""
    image_e, patch_e = encode_images(checkpoint.model, crops)
    z: Floats = (image_e @ table.T).numpy()
    cells: Floats = (patch_e @ table.T).permute(0, 3, 1, 2).contiguous().numpy()
    if not np.isfinite(cells).all():
        raise UsageError("a checkpoint's output is not finite; train it again")
    return z, cells


def read_crops(
    cohort: Cohort, rows: list[int], presets: Presets, keep_picture: bool = False
) -> Iterator[list[tuple[int, ImageResult, NDArray[np.uint8] | None]]]:
    """Blocks of row, result and crop (None where the image is refused), in the order of `rows`."""
    places = [str(cohort.root / cohort.cases[i].place) for i in rows]
    waiting = iter(rows)
    with Reader() as reader:
        for block in crops_of(places, presets, reader, keep_picture):
            yield [(next(waiting), result, crop) for result, crop in block]
