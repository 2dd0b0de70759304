"""Stored pixel values → the 8 bits that the network was trained on. One function per preset.

The training JPEGs of MIMIC-CXR and CheXpert were made by scaling, inversion and histogram
equalisation, without any window. A network trained on them must be fed the same way, so the preset
is a property of the checkpoint and travels with the bundle.

    mimic-jpg     min-max, invert, equalise       no window, of a rescale only the slope's sign
    chexpert-jpg  by the maximum, invert, equalise                 likewise
    minmax        min-max, invert                                  likewise
    voi           modality, window or VOI LUT, invert: what a monitor shows (PS3.4 N.2.1)

A Modality LUT is applied under all four: without it the values mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import FailedImage, IntegrityError
from tier_infer.grayscale import Float, Grayscale, Lut

PRESETS = ("mimic-jpg", "chexpert-jpg", "minmax", "voi")
PLAIN = Grayscale()
MAX_LEVELS = 2**20  # different stored values; 16 bits have 65,536
BLOCK = 256  # rows that are looked up at once, so that a large image needs little extra memory
USED, MIN_GREYS = 0.0005, 64  # a film uses 64 of 256 greys, each for 0.05 % of its pixels
MAX_CLIPPED = 0.5  # share of pixels that a window may turn into pure black or white
OUTLIERS = 0.005  # share of pixels that may take more than half of the range before it is flagged


@dataclass(frozen=True)
class Levels:
    """The stored values that occur, first to last, and how often each does. Padding left out."""

    first: int
    counts: NDArray[np.int64]  # [last - first + 1]

    @property
    def stored(self) -> Float:
        return np.arange(self.first, self.first + len(self.counts), dtype=np.float64)


def to_8bit(
    stored: NDArray[np.integer],
    preset: str,
    grey: Grayscale = PLAIN,
    padding: NDArray[np.bool_] | None = None,
    levels: Levels | None = None,
) -> NDArray[np.uint8]:
    """Stored values [H, W], any integer type → uint8 [H, W], bright = dense.

    `padding` [H, W] marks what is no image: it has no part in any scale and becomes black.
    `levels` are those of the same values, where the caller has counted them.
    Raises FailedImage for a constant image, which has no contrast to scale, for a broken window
    under `voi`, and under the other presets for a VOI LUT that turns black into white.
    """
    if preset not in PRESETS:
        raise IntegrityError(
            f"intensity preset {preset!r} is unknown, allowed: {', '.join(PRESETS)}"
        )
    levels = levels or count_levels(stored, padding)
    table = grey_table(levels, preset, grey)
    if preset.endswith("-jpg"):  # equalised as the picture would be, once per level
        counts = np.bincount(table, levels.counts, minlength=256)
        table = _equalising(counts.astype(np.int64))[table]
    picture = _look_up(stored, levels.first, table)
    if padding is not None:
        picture[padding] = 0
    return picture


def grey_table(levels: Levels, preset: str, grey: Grayscale) -> NDArray[np.uint8]:
    """uint8 per level of `levels`, before any equalisation."""
    table = _voi(levels, grey) if preset == "voi" else _scaled(levels, grey, preset)
    seen = table[levels.counts > 0]
    if seen.min() == seen.max():
        raise FailedImage("constant_image", "every pixel comes out in the same grey")
    return table


def contrast_flags(levels: Levels, table: NDArray[np.uint8], grey: Grayscale) -> list[str]:
    """What the scaling did to the picture, asked of its 256 greys before equalisation."""
    greys = np.bincount(table, levels.counts, minlength=256)
    total = greys.sum()
    ends = levels.counts[0] + levels.counts[-1]  # may be burnt out in the file itself
    clipped = (greys[0] + greys[255] - ends) / total > MAX_CLIPPED and grey.voi is not None
    flags = ["low_contrast"] * (used_greys(greys) < MIN_GREYS)
    return flags + ["clipped"] * bool(clipped)


def used_greys(greys: NDArray[np.floating] | NDArray[np.integer]) -> int:
    """How many greys hold a share of the pixels worth the name; `greys` counts them, [256]. A white
    marker that squeezes the rest into a few does not hide here, however large it is."""
    return int(np.count_nonzero(greys / greys.sum() >= USED))


def minmax(stored: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(x − min) / max · 255, truncated to uint8 [H, W]; float64 as in the MIMIC-CXR-JPG recipe."""
    return to_8bit(stored, "minmax")


def count_levels(stored: NDArray[np.integer], padding: NDArray[np.bool_] | None = None) -> Levels:
    if padding is not None:
        stored = stored[~padding][None]
    if not stored.size or stored.min() == stored.max():
        raise FailedImage(
            "constant_image", "every pixel has the same value, so there is no picture"
        )
    first, last = int(stored.min()), int(stored.max())
    if last - first >= MAX_LEVELS:
        raise FailedImage("pixel_module", "the pixels span more levels than any radiograph has")
    counts = np.zeros(last - first + 1, np.int64)
    for top in range(0, len(stored), BLOCK):
        block = stored[top : top + BLOCK].astype(np.int64) - first
        counts += np.bincount(block.ravel(), minlength=len(counts))
    return Levels(first, counts)


def _look_up(
    stored: NDArray[np.integer], first: int, table: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """uint8 [H, W]; a value outside the table is padding and is painted over by the caller."""
    picture = np.empty(stored.shape, np.uint8)
    for top in range(0, len(stored), BLOCK):
        index = stored[top : top + BLOCK].astype(np.int64) - first
        picture[top : top + BLOCK] = table.take(index, mode="clip")
    return picture


def _scaled(levels: Levels, grey: Grayscale, preset: str) -> NDArray[np.uint8]:
    """uint8 per level, by min-max or by the maximum, inverted after rounding as both recipes do."""
    if _voi_inverts(levels, grey):
        raise FailedImage(
            "voi_lut",
            f"(0028,3010) VOILUTSequence turns black into white, and intensity {preset} works "
            "without it",
        )
    values = levels.stored
    if grey.modality_lut is not None:
        values = grey.modality_lut(values)
    occurring = values[levels.counts > 0]
    if occurring.min() == occurring.max():
        raise FailedImage("constant_image", "every pixel has the same grey, there is no picture")
    if preset == "chexpert-jpg":
        table = _by_maximum(values, occurring, grey)
    else:
        low = occurring.min()
        scaled = (values - low) / (occurring.max() - low) * 255
        table = scaled.clip(0, 255).astype(np.uint8)  # truncated (MIT-LCP/mimic-cxr issue 16)
    return np.uint8(255) - table if grey.inverted else table


def _voi_inverts(levels: Levels, grey: Grayscale) -> bool:
    """A VOI LUT that falls over the values that occur turns black into white. Its ends alone do
    not tell: the first entry may be the black of a collimator."""
    if not isinstance(grey.voi, Lut):
        return False
    values = grey.modality(levels.stored)
    share = levels.counts / levels.counts.sum()
    shown = grey.voi(values)
    return bool(np.sum(share * (values - share @ values) * (shown - share @ shown)) < 0)


def _by_maximum(values: Float, occurring: Float, grey: Grayscale) -> NDArray[np.uint8]:
    """OpenCV's convertScaleAbs(x, alpha=255 / max): float32, rounded (chexpert-labeler issue 11).

    It takes absolute values, which would fold a picture of signed numbers; those are rescaled
    first, and refused when they are still negative.
    """
    if occurring.min() < 0 and grey.modality_lut is None and grey.slope > 0:
        shift = grey.intercept / grey.slope
        values, occurring = values + shift, occurring + shift
    if occurring.min() < 0:
        raise FailedImage("pixel_module", "negative values have no place in intensity chexpert-jpg")
    alpha = np.float32(255 / occurring.max())
    scaled = np.rint(values.astype(np.float32) * alpha)
    table: NDArray[np.uint8] = scaled.clip(0, 255).astype(np.uint8)
    return table


def _voi(levels: Levels, grey: Grayscale) -> NDArray[np.uint8]:
    """uint8 per level: the display pipeline. Without window or VOI LUT the range that occurs."""
    if isinstance(grey.voi, FailedImage):
        raise FailedImage(grey.voi.reason, str(grey.voi))
    values = grey.modality(levels.stored)
    if grey.voi is None:
        occurring = values[levels.counts > 0]
        low, high = occurring.min(), occurring.max()
        if low == high:
            raise FailedImage("constant_image", "every pixel has the same grey, so no picture")
        shown = (values - low) / (high - low)
    else:
        shown = grey.voi(values)
        if isinstance(grey.voi, Lut):
            shown = shown / (2**grey.voi.bits - 1)
    if grey.monochrome1:
        shown = 1 - shown
    table: NDArray[np.uint8] = np.rint(shown.clip(0, 1) * 255).astype(np.uint8)
    return table


def has_outliers(levels: Levels) -> bool:
    """True when 99.5 % of the pixels fill less than half of the range that min-max scales."""
    share = np.cumsum(levels.counts) / levels.counts.sum()
    low = np.searchsorted(share, OUTLIERS / 2)
    high = np.searchsorted(share, 1 - OUTLIERS / 2)
    return bool(high - low < len(levels.counts) / 2)


def equalize_hist(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Histogram equalisation of uint8 [H, W], equal to OpenCV's `equalizeHist` bit for bit.

    PIL.ImageOps.equalize differs: it rounds its table otherwise and drops the last bin.
    """
    equalised: NDArray[np.uint8] = _equalising(np.bincount(grey.ravel(), minlength=256))[grey]
    return equalised


def _equalising(counts: NDArray[np.integer]) -> NDArray[np.uint8]:
    """How often each of 256 levels occurs → uint8 [256], what each becomes."""
    size, first = int(counts.sum()), int(np.flatnonzero(counts)[0])
    if counts[first] == size:
        return np.full(256, first, np.uint8)
    scale = np.float32(255) / np.float32(size - counts[first])  # float32, as OpenCV computes
    above = np.cumsum(counts) - counts[: first + 1].sum()  # darker or equal, first bin left out
    table = np.rint(np.maximum(above, 0).astype(np.float32) * scale)
    equalised: NDArray[np.uint8] = table.clip(0, 255).astype(np.uint8)
    return equalised


def looks_equalised(grey: NDArray[np.uint8], tolerance: float = 0.075) -> bool:
    """True when the grey levels of uint8 [H, W] are spread as histogram equalisation leaves them.

    Compares the cumulative histogram with the straight line. Of 463 films, equalised and written as
    JPEG, 95 % were within 0.04; as they were, 99 % were off by more than 0.076. One image proves
    little: callers let the majority of a sample decide.
    """
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    background = float(share[:3].sum())  # a black frame is one level before and after equalisation
    line = background + (1 - background) * np.arange(256) / 255
    close = np.abs(np.cumsum(share) - line)[3:].max() <= tolerance
    return bool(close and background < 0.5)
