"""Resize and crop: 8-bit radiograph of any shape → the square that the network sees, and back.

This is the only resize in the repository; training and export call it. Pillow's antialiased
bilinear filter on one 8-bit channel, because torch's and OpenCV's give other pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tier_infer.errors import NotEvaluated

LONG_SIDE = 1024  # of pictures for people, not for measuring
GRID = 7  # patches per side; P = 49
MAX_ASPECT = (
    4.0  # beyond it the short-side rule would show a sliver: a strip is no chest radiograph
)


@dataclass(frozen=True)
class Geometry:
    """Short side to `resize`, centre crop `crop`; `mean`, `std` of pixels / 255, one per channel.

    The normalisation itself lives in the exported graph; it stands here because it belongs to the
    preset and the manifest must name it.
    """

    name: str
    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


GEOMETRIES = {
    g.name: g
    for g in (
        # TIER, section 2.1: resize to 256, centre crop 224, ImageNet statistics
        Geometry("tier-224-imagenet", 256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        # for two cores: one grey channel, centred on the mid grey of an equalised image
        Geometry("small-112", 128, 112, (0.5,), (0.25,)),
    )
}


def resize_short_side(grey: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [H, W] → uint8, short side `size`, long side truncated as torchvision does."""
    height, width = grey.shape
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise NotEvaluated(
            "aspect_ratio",
            f"the image is {width} x {height} pixels; a chest radiograph is at most "
            f"{MAX_ASPECT:g} times as long as wide",
        )
    if min(height, width) == size:
        return grey
    long = int(size * max(height, width) / min(height, width))
    target = (size, long) if width <= height else (long, size)  # Pillow wants (width, height)
    return np.asarray(Image.fromarray(grey).resize(target, Image.Resampling.BILINEAR))


def center_crop(grey: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [H, W] with H, W ≥ size → uint8 [size, size]; offsets rounded as torchvision does."""
    top = round((grey.shape[0] - size) / 2)
    left = round((grey.shape[1] - size) / 2)
    return np.ascontiguousarray(grey[top : top + size, left : left + size])


def to_crop(grey: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """uint8 [H, W] → uint8 [crop, crop], what the encoder graph takes as one row of `pixels`."""
    return center_crop(resize_short_side(grey, geometry.resize), geometry.crop)


def reduced(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W] → the same with a long side of at most LONG_SIDE, for pictures only: a folder's
    films must fit into memory."""
    height, width = grey.shape
    shrink = LONG_SIDE / max(height, width)
    if shrink >= 1:
        return grey
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))


def crop_box(height: int, width: int, geometry: Geometry) -> tuple[float, float, float, float]:
    """The crop in coordinates of the original image: (left, top, right, bottom) in its pixels.

    Undoes the centre crop and the resize, so that a heatmap cell lands where the network looked.
    """
    short = min(height, width)
    long = int(geometry.resize * max(height, width) / short)
    rows, cols = (long, geometry.resize) if height >= width else (geometry.resize, long)
    top = round((rows - geometry.crop) / 2)
    left = round((cols - geometry.crop) / 2)
    return (
        left * width / cols,
        top * height / rows,
        (left + geometry.crop) * width / cols,
        (top + geometry.crop) * height / rows,
    )
