"""Resize and crop: 8-bit radiograph of any shape → the square that a graph takes, and back.

This is the only resize in the repository; training and export call it. Pillow's antialiased
filters on one 8-bit channel, because torch's and OpenCV's give other pixels. Three rules:

    short-side   the short side becomes `resize`, the centre is cut out: edges are lost
    long-side    the long side becomes `resize`, on a black square: nothing is lost
    pad-square   a black square as large as the long side, then `resize`: likewise
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tier_infer.errors import NotEvaluated

LONG_SIDE = 1024  # of pictures for people, not for measuring
MAX_ASPECT = (
    4.0  # beyond it the short-side rule would show a sliver: a strip is no chest radiograph
)
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes uint8 [crop, crop]; `mean`, `std` of pixels / 255, one per channel.

    The normalisation itself lives in the exported graph; it stands here because it belongs to the
    preset and the manifest must name it. Fields with a default came later, see `described`.
    """

    name: str
    resize: int
    crop: int  # side of the graph's input
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rule: str = "short-side"
    filter: str = "bilinear"
    network: int = 0  # side after a resampling inside the graph; 0: none, the network sees `crop`
    high_byte: bool = False  # 16-bit pictures become x >> 8, as OpenCV reads them; else x // 255

    @property
    def network_side(self) -> int:
        return self.network or self.crop


GEOMETRIES = {
    g.name: g
    for g in (
        # TIER, section 2.1: resize to 256, centre crop 224, ImageNet statistics
        Geometry("tier-224-imagenet", 256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        # for two cores: one grey channel, centred on the mid grey of an equalised image
        Geometry("small-112", 128, 112, (0.5,), (0.25,)),
        # BioViL and BioViL-T as hi-ml-multimodal 0.2.2 feeds them: no statistics at all
        Geometry("biovil-480-raw", 512, 480, (0.0,) * 3, (1.0,) * 3),
        Geometry("biovil-t-448-raw", 512, 448, (0.0,) * 3, (1.0,) * 3),
        # CheXzero, data_process.preprocess and zero_shot.make: statistics of 0..255; then a bicubic
        # resize of the tensor, without antialias, which is part of the graph
        Geometry(
            "chexzero-320pad-224",
            320,
            320,
            (101.48761 / 255,) * 3,
            (83.43944 / 255,) * 3,
            rule="long-side",
            filter="lanczos",
            network=224,
            high_byte=True,
        ),
        # MedCLIP 0.0.3, MedCLIPFeatureExtractor
        Geometry(
            "medclip-224",
            224,
            224,
            (0.5862785803043838,) * 3,
            (0.27950088968644304,) * 3,
            rule="pad-square",
            filter="bicubic",
        ),
    )
}


def described(geometry: Geometry) -> dict[str, Any]:
    """What a manifest says of a preset, as JSON has it. A field that came later is left out at its
    default, so that bundles written before it keep their identity."""
    later = {f.name: f.default for f in fields(Geometry) if f.default is not MISSING}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(geometry).items()
        if key not in later or value != later[key]
    }


def resized(grey: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """uint8 [H, W] → uint8, what crops are cut from: short side `resize`, under the rules with a
    black frame both sides. Raises NotEvaluated for a strip."""
    _refuse_strip(grey.shape)
    height, width = grey.shape
    if geometry.rule == "short-side":
        return resize_short_side(grey, geometry.resize)
    if geometry.rule == "long-side":
        rows, cols = _fitted(height, width, geometry.resize)
        return _on_black(_to_size(grey, rows, cols, geometry.filter), geometry.resize)
    square = _on_black(grey, max(geometry.resize, height, width))
    return _to_size(square, geometry.resize, geometry.resize, geometry.filter)


def to_crop(grey: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """uint8 [H, W] → uint8 [crop, crop], what the encoder graph takes as one row of `pixels`."""
    return center_crop(resized(grey, geometry), geometry.crop)


def resize_short_side(grey: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [H, W] → uint8, short side `size`, long side truncated as torchvision does."""
    _refuse_strip(grey.shape)
    height, width = grey.shape
    return _to_size(grey, *_short_side(height, width, size), "bilinear")


def center_crop(grey: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [H, W] with H, W ≥ size → uint8 [size, size]; offsets rounded as torchvision does."""
    top = round((grey.shape[0] - size) / 2)
    left = round((grey.shape[1] - size) / 2)
    return np.ascontiguousarray(grey[top : top + size, left : left + size])


def crop_box(height: int, width: int, geometry: Geometry) -> Box:
    """The crop in coordinates of the original image: (left, top, right, bottom) in its pixels.

    Undoes crop, frame and resize, so that a heatmap cell lands where the network looked. Under the
    rules with a black frame the box reaches beyond the image.
    """
    size = geometry.resize
    if geometry.rule == "pad-square":
        side = max(size, height, width)
        left, top = (side - width) // 2, (side - height) // 2
        return (-left, -top, side - left, side - top)
    if geometry.rule == "long-side":
        rows, cols = _fitted(height, width, size)
        top, left = -((size - rows) // 2), -((size - cols) // 2)
    else:
        rows, cols = _short_side(height, width, size)
        top, left = round((rows - geometry.crop) / 2), round((cols - geometry.crop) / 2)
    return (
        left * width / cols,
        top * height / rows,
        (left + geometry.crop) * width / cols,
        (top + geometry.crop) * height / rows,
    )


def has_few_pixels(height: int, width: int, geometry: Geometry) -> bool:
    """Fewer than the graph takes: the picture is enlarged, or an island under pad-square."""
    if geometry.rule == "short-side":
        return min(height, width) < geometry.crop
    return max(height, width) < geometry.resize


def reduced(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W] → the same with a long side of at most LONG_SIDE, for pictures only: a folder's
    films must fit into memory."""
    height, width = grey.shape
    shrink = LONG_SIDE / max(height, width)
    if shrink >= 1:
        return grey
    return _to_size(grey, max(1, round(height * shrink)), max(1, round(width * shrink)), "bilinear")


def _refuse_strip(shape: tuple[int, ...]) -> None:
    height, width = shape
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise NotEvaluated(
            "aspect_ratio",
            f"the image is {width} x {height} pixels; a chest radiograph is at most "
            f"{MAX_ASPECT:g} times as long as wide",
        )


def _short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Rows and columns."""
    long = int(size * max(height, width) / min(height, width))
    return (long, size) if width <= height else (size, long)


def _fitted(height: int, width: int, size: int) -> tuple[int, int]:
    """Rows and columns. The product with a rounded ratio is CheXzero's: it makes a long side of
    2,139 pixels one of 319, not 320, and so did its training pictures."""
    ratio = size / max(height, width)
    return int(height * ratio), int(width * ratio)


def _on_black(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = grey.shape
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), np.uint8)
    square[top : top + height, left : left + width] = grey
    return square


def _to_size(grey: NDArray[np.uint8], rows: int, cols: int, name: str) -> NDArray[np.uint8]:
    if grey.shape == (rows, cols):
        return grey
    return np.asarray(Image.fromarray(grey).resize((cols, rows), FILTERS[name]))
