"""Training-time variation of position, scale, rotation and exposure; nothing of it at inference."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from tier_infer.geometry import Geometry
from tier_train.recipe import Recipe


def augment(squares: Tensor, geometry: Geometry, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """uint8 [N, R, R] → float32 [N, crop, crop] in 0..255.

    Shifts are whole pixels: with rotation and zoom at 0 the result is an exact crop, as sharp as
    the network will see at inference.
    """
    n = len(squares)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n, generator=rng) * 2 - 1) * limit

    margin = (geometry.resize - geometry.crop) // 2
    shift = torch.randint(-margin, margin + 1, (n, 2), generator=rng) * 2 / geometry.resize
    angle = uniform(recipe.rotate) * math.pi / 180
    scale = geometry.crop / geometry.resize * (1 + uniform(recipe.zoom))
    theta = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin(), shift[:, 0]], dim=1),
            torch.stack([scale * angle.sin(), scale * angle.cos(), shift[:, 1]], dim=1),
        ],
        dim=1,
    )  # [N, 2, 3]
    grid = affine_grid(theta, [n, 1, geometry.crop, geometry.crop], align_corners=False)
    x = grid_sample(squares[:, None].float(), grid, align_corners=False)[:, 0]
    contrast = (1 + uniform(recipe.contrast))[:, None, None]
    brightness = 255 * uniform(recipe.brightness)[:, None, None]
    return ((x - 127.5) * contrast + 127.5 + brightness).clamp(0, 255)
