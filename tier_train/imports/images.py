"""Image models of BioViL, BioViL-T and torchvision under our keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tier_infer.errors import IntegrityError
from tier_infer.files import sha256_of
from tier_train.imports.keymaps import BIOVIL, BIOVIL_T, TORCHVISION, convert
from tier_train.imports.weights import load_table, plain_state
from tier_train.recipe import Recipe
from tier_train.towers.image_encoder import ImageEncoder

Shapes = Mapping[str, torch.Size]
# BioViL-T reduces the trunk's 2048 channels to 256 and lays 256 of a prior image beside them.
BACKBONE, MISSING = "fold.backbone_to_vit.weight", "fold.missing_previous_emb"
FOLD = {BACKBONE: torch.Size((256, 2048, 1, 1)), MISSING: torch.Size((1, 256, 1, 1))}


def image_shapes(recipe: Recipe) -> dict[str, torch.Size]:
    """Our keys and shapes of an image tower; no memory is taken for them."""
    with torch.device("meta"):
        tower = ImageEncoder(recipe)
    return {key: value.shape for key, value in tower.state_dict().items()}


def torchvision_trunk(path: Path, expected: Shapes) -> dict[str, Tensor]:
    """ImageNet's ResNet-50 without its classifier; it has none of the projector in `expected`.

    torchvision writes the first eight digits of a file's SHA-256 into its name; they are compared.
    """
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if named and path.is_file() and not sha256_of(path).startswith(named[1]):
        raise IntegrityError(
            f"{path} is damaged: its SHA-256 does not begin with {named[1]}; fetch it again"
        )
    trunk = {key: shape for key, shape in expected.items() if key.startswith("trunk.")}
    return convert(path, plain_state(path, load_table(path)), TORCHVISION, trunk)


def biovil_image(path: Path, expected: Shapes, temporal: bool | None = None) -> dict[str, Tensor]:
    """BioViL's image model or, temporal, BioViL-T's for a single image; None: its keys tell.

    BioViL-T's projector W reads a linear map A of the trunk's features x and a constant c that
    stands for the missing prior image: W [A x; c] = (W₁ A) x + W₂ c. The BatchNorm behind it
    subtracts its running mean. So the product takes in A, the mean gives up W₂ c, and what is left
    is BioViL's architecture.
    """
    state = plain_state(path, load_table(path))
    if temporal is None:
        temporal = "encoder.backbone_to_vit.weight" in state
    if not temporal:
        return convert(path, state, BIOVIL, expected)
    inputs = torch.Size((expected["proj.0.weight"][0], 512, 1, 1))
    out = convert(path, state, BIOVIL_T, {**expected, "proj.0.weight": inputs, **FOLD})
    a = out.pop(BACKBONE).double().flatten(1)  # [256, 2048]
    c = out.pop(MISSING).double().flatten()  # [256]
    w = out["proj.0.weight"].double().flatten(1)  # [D, 512]
    mean = out["proj.1.running_mean"].double() - w[:, 256:] @ c  # [D]
    folded = (w[:, :256] @ a)[:, :, None, None]
    product = {"proj.0.weight": folded.float(), "proj.1.running_mean": mean.float()}
    if not all(torch.isfinite(value).all() for value in product.values()):
        raise IntegrityError(f"{path}: its projector times backbone_to_vit is not finite")
    return out | product
