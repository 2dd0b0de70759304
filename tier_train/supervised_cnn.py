"""The supervised network and supervised.pt: the vision encoder of `run` under a classifier.

Dropout 0.1 on the global embedding, then one hidden layer as wide as it (128), BatchNorm, ReLU and
one output per label: the released code of TIER (Vision_Model.py). supervised.pt holds tensors,
strings and numbers only; it is no ckpt.pt, because it has no words to be asked with.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.files import write_atomic
from tier_infer.geometry import GEOMETRIES, Geometry, center_crop
from tier_infer.intensity import PRESETS
from tier_train.checkpoint import read_archive
from tier_train.data.dataset import Pictures
from tier_train.model import bicubic
from tier_train.recipe import Recipe, recipe_from
from tier_train.towers.image_encoder import ImageEncoder, normalise

FORMAT = "tier-cxr-supervised/1"
FIELDS = {"format", "state", "recipe", "labels", "intensity", "views", "training"}
DROPOUT = 0.1  # of the global embedding; released code


class SupervisedCnn(nn.Module):
    mean: Tensor
    std: Tensor
    resample: Tensor | None

    def __init__(self, recipe: Recipe, labels: int) -> None:
        super().__init__()
        self.outputs = labels
        self.image = ImageEncoder(recipe)
        d = recipe.embed_dim
        self.head = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(d, d),
            nn.BatchNorm1d(d),
            nn.ReLU(inplace=True),
            nn.Linear(d, labels),
        )
        geometry = GEOMETRIES[recipe.geometry]
        self.register_buffer("mean", torch.tensor(geometry.mean), persistent=False)
        self.register_buffer("std", torch.tensor(geometry.std), persistent=False)
        matrix = bicubic(geometry.crop, geometry.network) if geometry.network else None
        self.register_buffer("resample", matrix, persistent=False)

    def network_input(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 or float [N, H, W], 0..255 → float32 [N, C, h, w], normalised.

        Apart from `forward`, because mixed precision would round the pixels before: of 256 greys
        bfloat16 knows 192.
        """
        x = normalise(pixels, self.mean, self.std)
        if self.resample is not None:
            x = self.resample @ x @ self.resample.T
        return x.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """x: as `network_input` gives it → logits float [N, L]."""
        image_e, _ = self.image(x)
        logits: Tensor = self.head(image_e)
        return logits


@dataclass(frozen=True)
class Supervised:
    model: SupervisedCnn
    labels: tuple[str, ...]  # label ids, in the order of the outputs
    recipe: Recipe
    intensity: str
    views: tuple[str, ...]
    training: dict[str, Any]  # data names and digests, counts, the step that was kept, its AUC
    sha256: str = ""  # of the file; "" before it is saved


@torch.no_grad()
def predict(
    model: SupervisedCnn, pictures: Pictures, geometry: Geometry, batch: int = 64
) -> NDArray[np.float32]:
    """Logits [N, L] of the centre crops, in eval mode and float32, whatever training uses."""
    was_training = model.training
    model.eval()
    device = model.mean.device
    parts = [torch.empty(0, model.outputs)]
    for i in range(0, len(pictures), batch):
        group = range(i, min(i + batch, len(pictures)))
        crops = np.stack([center_crop(pictures[j], geometry.crop) for j in group])
        parts.append(model(model.network_input(torch.from_numpy(crops).to(device))).cpu())
    model.train(was_training)
    return torch.cat(parts).numpy()


def save_supervised(path: Path, trained: Supervised) -> None:
    table = {
        "format": FORMAT,
        "state": trained.model.state_dict(),
        "recipe": asdict(trained.recipe),
        "labels": list(trained.labels),
        "intensity": trained.intensity,
        "views": list(trained.views),
        "training": trained.training,
    }
    buffer = io.BytesIO()
    torch.save(table, buffer)
    write_atomic(path, buffer.getvalue())


def load_supervised(path: Path) -> Supervised:
    """Raises UsageError when there is no file, IntegrityError when it is not one of ours, whole."""
    if not path.is_file():
        raise UsageError(f"no supervised network at {path}; `tier-train supervised` writes one")
    table, digest = read_archive(path)
    if not isinstance(table, dict) or table.get("format") != FORMAT or set(table) != FIELDS:
        raise IntegrityError(f"{path} is not a supervised network of this version ({FORMAT})")
    labels, views, state = table["labels"], table["views"], table["state"]
    for name, right in (
        ("recipe", isinstance(table["recipe"], dict)),
        ("labels", _is_texts(labels) and len(set(labels)) == len(labels)),
        ("intensity", table["intensity"] in PRESETS),
        ("views", _is_texts(views)),
        ("training", isinstance(table["training"], dict)),
        ("state", isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values())),
    ):
        if not right:
            raise IntegrityError(f"{path}: its field `{name}` is not what this version writes")
    try:
        recipe = recipe_from(table["recipe"])
    except (UsageError, TypeError) as error:
        raise IntegrityError(f"{path}: its recipe is not one of this version: {error}") from None
    model = SupervisedCnn(recipe, len(labels))
    if _shapes(model.state_dict()) != _shapes(state):
        raise IntegrityError(f"{path}: its weights do not fit the recipe")
    if any(not torch.isfinite(value).all() for value in state.values()):
        raise IntegrityError(f"{path}: weights are not finite")
    model.load_state_dict(state)
    model.eval()
    return Supervised(
        model, tuple(labels), recipe, table["intensity"], tuple(views), table["training"], digest
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, str) for x in value)


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[object, ...]]:
    return {key: (v.dtype, v.shape, v.layout, v.device.type) for key, v in state.items()}
