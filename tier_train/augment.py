"""Training-time variation of position, scale, rotation and exposure; nothing of it at inference.

`shift` is ours, for two cores. `paper` is TIER's (resize, crop, affine and jitter), with the ranges
of the released code, which has torchvision's RandomResizedCrop(224, ratio (0.9, 1)),
RandomAffine(10, translate 0.05, scale 0.95 to 1.05) and ColorJitter(brightness 0.2, contrast 0.2);
no flip, because reports name the side. The two resamplings are one here, bilinear (theirs takes the
nearest pixel in the affine step), and grey levels are not rounded in between: on radiographs the
same parameters give pictures 1.5 levels of 255 apart, of which Pillow's truncation makes 1.4.

All randomness is drawn for the whole batch before a picture is touched: of several processes each
draws the same and applies its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from tier_infer.geometry import Geometry, center_crop
from tier_train.recipe import Recipe

AREA = (0.08, 1.0)  # of the crop, in shares of the picture's; torchvision's default
RATIO = (0.9, 1.0)  # width / height of the crop
TRIES = 10  # for a crop that fits
ROTATE = 10.0  # degrees, uniform in ±
TRANSLATE = 0.05  # of the side, uniform in ±
SCALE = (0.95, 1.05)
JITTER = 0.2  # brightness and contrast factors are uniform in 1 ± it

Picture = NDArray[np.uint8]


def augment(
    pictures: Sequence[Picture], geometry: Geometry, recipe: Recipe, rng: torch.Generator
) -> Tensor:
    """pictures: uint8 [h, w], short side `resize` → float32 [N, crop, crop] in 0..255."""
    return apply(pictures, draw(len(pictures), geometry, recipe, rng), geometry, recipe)


def draw(n: int, geometry: Geometry, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """All that chance decides, a row for each of n pictures, whatever their size: float [n, k]."""
    if recipe.augment == "paper":
        return torch.rand(n, 4 * TRIES + 7, generator=rng, dtype=torch.float64)  # in [0, 1)
    margin = (geometry.resize - geometry.crop) // 2
    shift = torch.randint(-margin, margin + 1, (n, 2), generator=rng)
    uniform = [torch.rand(n, generator=rng) * 2 - 1 for _ in range(4)]
    return torch.stack([*shift.unbind(1), *uniform], dim=1)


def apply(pictures: Sequence[Picture], rows: Tensor, geometry: Geometry, recipe: Recipe) -> Tensor:
    """Like `augment`, with the rows of `draw` that belong to these pictures."""
    if recipe.augment == "paper":
        side = geometry.crop
        out = []
        for picture, row in zip(pictures, rows.tolist(), strict=True):
            height, width = picture.shape
            out.append(changed(picture, chosen(row, height, width, side), side))
        return torch.stack(out)
    squares = np.stack([center_crop(picture, geometry.resize) for picture in pictures])
    return _shift(torch.from_numpy(squares), rows, geometry, recipe)


def _shift(squares: Tensor, rows: Tensor, geometry: Geometry, recipe: Recipe) -> Tensor:
    """uint8 [N, R, R] → float32 [N, crop, crop].

    Shifts are whole pixels: with rotation and zoom at 0 the result is an exact crop, as sharp as
    the network will see at inference.
    """
    across, down, turn, zoom, contrast, brightness = rows.unbind(1)
    shift_x, shift_y = across * 2 / geometry.resize, down * 2 / geometry.resize
    angle = turn * recipe.rotate * math.pi / 180
    scale = geometry.crop / geometry.resize * (1 + zoom * recipe.zoom)
    theta = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin(), shift_x], dim=1),
            torch.stack([scale * angle.sin(), scale * angle.cos(), shift_y], dim=1),
        ],
        dim=1,
    )  # [N, 2, 3]
    grid = affine_grid(theta, [len(rows), 1, geometry.crop, geometry.crop], align_corners=False)
    x = grid_sample(squares[:, None].float(), grid, align_corners=False)[:, 0]
    factor = (1 + contrast * recipe.contrast)[:, None, None]
    offset = 255 * (brightness * recipe.brightness)[:, None, None]
    return ((x - 127.5) * factor + 127.5 + offset).clamp(0, 255)


class Change(NamedTuple):
    """What happens to one picture under `paper`, in the order of torchvision's three steps."""

    top: int
    left: int
    rows: int
    cols: int
    angle: float  # degrees, clockwise, about the middle
    right: int  # pixels of the result, after the rotation
    down: int
    scale: float
    brightness: float  # factor towards black
    contrast: float  # factor about the picture's mean
    brightness_first: bool


def chosen(row: list[float], height: int, width: int, side: int) -> Change:
    """row: 47 numbers in [0, 1), as `draw` has them."""
    turn, right, down, scale, brightness, contrast, order = row[4 * TRIES :]
    limit = TRANSLATE * side
    return Change(
        *random_crop(row[: 4 * TRIES], height, width),
        angle=_between(-ROTATE, ROTATE, turn),
        right=round(_between(-limit, limit, right)),
        down=round(_between(-limit, limit, down)),
        scale=_between(*SCALE, scale),
        brightness=_between(1 - JITTER, 1 + JITTER, brightness),
        contrast=_between(1 - JITTER, 1 + JITTER, contrast),
        brightness_first=order < 0.5,
    )


def random_crop(chance: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    """RandomResizedCrop's (top, left, rows, cols): area and logarithm of width / height uniform,
    the first of 10 that fits; else the middle, cut to the nearest allowed ratio."""
    for i in range(0, 4 * TRIES, 4):
        area = height * width * _between(*AREA, chance[i])
        ratio = math.exp(_between(math.log(RATIO[0]), math.log(RATIO[1]), chance[i + 1]))
        cols, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < cols <= width and 0 < rows <= height:
            top = int(chance[i + 2] * (height - rows + 1))
            left = int(chance[i + 3] * (width - cols + 1))
            return top, left, rows, cols
    rows, cols = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    return (height - rows) // 2, (width - cols) // 2, rows, cols


def changed(picture: Picture, change: Change, side: int) -> Tensor:
    """uint8 [h, w] → float32 [side, side] in 0..255, black where the turned crop doesn't reach."""
    height, width = picture.shape
    top, left, rows, cols = change[:4]
    # where a pixel of the result lies in the crop, once that has been resized to the same side
    cos, sin = (f(math.radians(change.angle)) / change.scale for f in (math.cos, math.sin))
    middle = side / 2
    x = (torch.arange(side) + 0.5 - middle - change.right)[None, :]
    y = (torch.arange(side) + 0.5 - middle - change.down)[:, None]
    u, v = cos * x + sin * y + middle, cos * y - sin * x + middle  # [side, side]
    inside = (u >= 0) & (u < side) & (v >= 0) & (v < side)
    # where that lies in the picture: the crop's edge repeats, what is beyond it is never seen
    u = (left + u * cols / side).clamp(left + 0.5, left + cols - 0.5) * 2 / width - 1
    v = (top + v * rows / side).clamp(top + 0.5, top + rows - 0.5) * 2 / height - 1
    source = torch.from_numpy(picture.astype(np.float32))[None, None]
    seen = grid_sample(source, torch.stack([u, v], dim=2)[None], align_corners=False)[0, 0]
    return _jittered(seen.masked_fill(~inside, 0), change)


def _jittered(x: Tensor, change: Change) -> Tensor:
    if change.brightness_first:
        x = (x * change.brightness).clamp(0, 255)
    mean = x.mean()
    x = ((x - mean) * change.contrast + mean).clamp(0, 255)
    return x if change.brightness_first else (x * change.brightness).clamp(0, 255)


def _between(low: float, high: float, chance: float) -> float:
    return low + (high - low) * chance
