"""What each preset must give, written from the recipes and not from tier_infer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.infer.encodings.base import Case, Float

PRESETS = ("voi", "minmax", "mimic-jpg", "chexpert-jpg")
SIZE = 224


def expected(case: Case, preset: str) -> NDArray[np.uint8]:
    """uint8 [H, W], upright, bright = dense, padding black.

    voi: PS3.4 N.2. minmax and mimic-jpg: (x - min) / max * 255 truncated, then 255 - x for
    MONOCHROME1 (MIMIC-CXR-JPG). chexpert-jpg: cv2.convertScaleAbs(x, alpha=255 / max), rounded,
    the minimum not subtracted, then likewise. Both JPG recipes end in equalizeHist. PNG files went
    through a recipe already and are taken as they are. Padding has no part in any of it.
    """
    if preset == "voi" or case.suffix != ".dcm":
        return np.rint(case.shown * 255).astype(np.uint8)
    image = np.ones(case.values.shape, bool) if case.padding is None else ~case.padding
    x = case.values
    if preset == "chexpert-jpg":
        scaled = np.rint(x.astype(np.float32) * np.float32(255 / x[image].max()))
    else:
        x = x - x[image].min()
        scaled = np.floor(x / x[image].max() * 255)
    grey = scaled.clip(0, 255).astype(np.uint8)
    if case.inverted:
        grey = 255 - grey
    if preset != "minmax":
        grey[image] = equalized(grey[image])
    grey[~image] = 0
    return grey


def equalized(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """OpenCV's equalizeHist of any number of pixels, bin by bin."""
    counts = [int(np.count_nonzero(grey == level)) for level in range(256)]
    first = next(level for level in range(256) if counts[level])
    if counts[first] == grey.size:
        return grey
    scale = np.float32(255) / np.float32(grey.size - counts[first])
    table, total = np.zeros(256, np.uint8), 0
    for level in range(first + 1, 256):
        total += counts[level]
        table[level] = min(np.rint(np.float32(total) * scale), 255)
    return table[grey]


def difference(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> tuple[float, int]:
    """Mean and largest difference in grey levels; of unequal shapes, infinite."""
    if found.shape != wanted.shape:
        return float("inf"), 256
    off = np.abs(found.astype(np.int16) - wanted.astype(np.int16))
    return float(off.mean()), int(off.max())


def small(grey: NDArray[np.uint8] | Float) -> Float:
    """[H, W] of any shape → float64 [224, 224] by area: how far two renderings differ at all."""
    rows, columns = (_shares(length) for length in grey.shape)
    result: Float = rows @ grey.astype(np.float64) @ columns.T
    return result


def _shares(length: int) -> Float:
    """[224, length]: how much of each old pixel lies in each new one."""
    new = np.arange(SIZE + 1) * length / SIZE
    low, high = new[:-1, None], new[1:, None]
    old = np.arange(length)[None]
    share = np.clip(np.minimum(old + 1, high) - np.maximum(old, low), 0, None)
    result: Float = share * SIZE / length
    return result
