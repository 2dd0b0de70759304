"""Checkpoints on a device, each with its rule from image embeddings to scores, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_infer.embeddings import BATCH
from tier_infer.errors import DeviceError, UsageError
from tier_infer.evaluation.prompts import prompts_sha256
from tier_infer.geometry import GEOMETRIES
from tier_infer.label_sets import LabelSet, normal_id
from tier_infer.pooling import described
from tier_infer.scoring import Presets
from tier_train.checkpoint import Checkpoint
from tier_train.supervised_cnn import Supervised
from tier_train.towers.text_encoder import Tokenizer
from tier_train.zero_shot import encode_images, pooled

# image_e [N, D], patch_e [N, P, D] → scores [N, L], or of patches [N, P, L] for a set that pools
Rule = Callable[[Tensor, Tensor], Tensor]
SHOWN = 60  # characters of a sentence in a message


def check_device(device: str) -> None:
    """DeviceError for a device that is not there: nothing moves to another one by itself."""
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device {device} is unknown; allowed: cpu, cuda")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError("device cuda: torch sees no CUDA device; --device cpu scores without")
        torch.backends.cudnn.allow_tf32 = False  # else its float32 keeps ten bits of a product
        torch.backends.cuda.matmul.allow_tf32 = False


def presets_of(trained: Checkpoint | Supervised) -> Presets:
    patches = trained.training.get("patches") != "not trained"
    return Presets(GEOMETRIES[trained.recipe.geometry], trained.intensity, trained.views, patches)


def same_presets(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> Presets:
    """UsageError for members that see different images."""
    first = presets_of(checkpoints[0])
    for name, other in zip(names[1:], checkpoints[1:], strict=True):
        if presets_of(other) != first:
            raise UsageError(
                f"{names[0]} and {name} can't be one ensemble: they differ in geometry, intensity "
                "or views; evaluate them one by one"
            )
    return first


def chosen(labels: LabelSet, asked: Sequence[str]) -> LabelSet:
    """Those of the set that `asked` names, in its order; UsageError for one that it hasn't."""
    table = {label.id: label for label in labels.labels}
    ids = [normal_id(name.removeprefix(f"{labels.id}:")) for name in asked]
    unknown = [name for name, i in zip(asked, ids, strict=True) if i not in table]
    if unknown:
        raise UsageError(
            f"label {unknown[0]!r} is not in label set {labels.id}; it has {', '.join(table)}"
        )
    return replace(labels, labels=tuple(table[i] for i in dict.fromkeys(ids)))


def check_prompts(tokenizer: Tokenizer, prompts: Sequence[str]) -> None:
    """UsageError for a sentence that the text tower would see only in part."""
    for prompt in prompts:
        shown = repr(prompt if len(prompt) <= SHOWN else prompt[: SHOWN - 1] + "…")
        if not tokenizer.can_read(prompt):
            raise UsageError(f"the text tower can't read all of {shown}; write plain words")
        if (count := len(tokenizer.uncut(prompt))) > tokenizer.max_tokens:
            raise UsageError(f"{shown} has {count} tokens, allowed {tokenizer.max_tokens}")


def identity_of(
    trained: Sequence[Checkpoint] | Sequence[Supervised], scoring: str, device: str
) -> dict[str, Any]:
    """`scoring`: the rule from embeddings to a score; only the margin is what a bundle computes."""
    data = [str(one.training.get("data", "unknown")) for one in trained]
    digests = [str(one.training.get("manifest_sha256", "")) for one in trained]
    return {
        "side": "pytorch",
        "name": ", ".join(dict.fromkeys(data)),
        "checkpoints": [one.sha256 for one in trained],
        "recipes": [one.recipe.name for one in trained],
        "training": [{"data": d, "sha256": s} for d, s in zip(data, digests, strict=True)],
        "scoring": scoring,
        "exported": scoring == "margin",
        "engine": f"torch {torch.__version__}",
        "device": device,
        "precision": "fp32",
    }


def sets_of(labels: LabelSet) -> dict[str, Any]:
    """What a result tells of the prompts behind it."""
    digest = prompts_sha256(asdict(label) for label in labels.labels)
    pool = {"pool": described(labels.pool)} if labels.pool else {}
    return {"label_sets": {labels.id: {"prompts_sha256": digest} | pool}}


class EnsembleScorer:
    """The mean over K checkpoints of what a rule makes of each one's image embedding."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        names: Sequence[str],
        labels: LabelSet,
        asked: Sequence[str],
        device: str,
        scoring: str,
        rule_of: Callable[[Checkpoint, LabelSet], Rule],
    ) -> None:
        """`names` are the files', `asked` ids of the set's labels; L of them."""
        check_device(device)
        used = chosen(labels, asked)
        self.labels = tuple(label.id for label in used.labels)
        self.presets = same_presets(checkpoints, names)
        self.identity = identity_of(checkpoints, scoring, device) | sets_of(labels)
        self._pool = labels.pool
        self._members = []
        for checkpoint in checkpoints:
            checkpoint.model.to(device).eval()
            with torch.no_grad():
                self._members.append((checkpoint.model, rule_of(checkpoint, used)))

    @torch.no_grad()
    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W] → float32 [N, L]."""
        each = []
        for model, rule in self._members:
            image_e, patch_e = encode_images(model, pixels, BATCH)
            each.append(rule(image_e, patch_e.flatten(1, 2)))
        z = torch.stack(each).mean(0)  # before patches are pooled, as one graph of K does
        result: NDArray[np.float32] = (pooled(z, self._pool) if self._pool else z).numpy()
        return result
