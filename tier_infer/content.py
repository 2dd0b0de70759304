"""Cheap pixel checks for what a header can't tell: a blank or scrambled picture, black and white
swapped, a film lying on its side, something that is no chest at all.

The picture is reduced to 16 x 16 cells of grey *ranks*, which windows and equalisation hardly
change, and compared in eight poses (four turns, two polarities) with probabilistic principal
component models (Tipping and Bishop, 1999) of frontal chest films, one of adults and one of small
children. The pose that fits best should be the one the header promised. A picture that fits in no
pose, or that a small network tells from chest films, is unlike a chest. All were learned from films
and their mirror images, so an undeclared mirror image is not seen.

`benchmarks/content_checks.py` makes them and measures how often each check is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tier_infer.errors import FailedImage

TEMPLATE = Path(__file__).with_name("chest_template.npz")
SIDE = 16  # cells
SAMPLES = 256  # pixels looked at along the short side: 3000 x 2500 costs no more than 300 x 250
MIN_SIDE = 8  # pixels; nothing can be said of a smaller picture
CROP = 0.05  # of each side, left out: letters, edges of the collimator
LINES = 64  # bands of the picture, in which its border is looked for
FLAT_LINE = 1 / 20  # of the grey range: a band at the border with less contrast is background

MAX_ONE_LEVEL = 0.9  # share of the pixels that one grey level and the next may hold
MIN_LEVELS = 8
# Neighbouring rows, and columns, of 1389 films correlate by 0.95 or more, and one of the two is at
# most 5.6 times as far from 1 as the other; where Rows and Columns that differ by 6 % or more were
# swapped, 20 times or more.
MIN_CORRELATION, MIN_LOPSIDED, MAX_LOPSIDED = 0.2, 0.9, 8.0
# Below each is 1 of the 612 films they were chosen on, cross-validated by patient.
MIN_LIKENESS, MIN_RESEMBLANCE = 0.0, -2.0
MIN_MARGIN = 0.08  # turned or swapped, the least of those 612 films gains 0.09

Array = NDArray[np.float64]
Stored = NDArray[np.integer]


@dataclass(frozen=True)
class Template:
    """M Gaussian models, K axes each and equal noise beside them; a network of N hidden units."""

    mean: Array  # [M, 256], grey ranks of an upright film
    axes: Array  # [M, K, 256], orthonormal
    variance: Array  # [M, K]
    noise: Array  # [M], variance of a cell beside the axes
    hidden: Array  # [256, N]
    hidden_bias: Array  # [N]
    out: Array  # [N]
    out_bias: Array  # scalar


@dataclass(frozen=True)
class Fit:
    """How a picture looks as a chest film, in the pose that suits it best."""

    likeness: float  # log likelihood of a cell, averaged
    resemblance: float  # log odds of film against other pictures
    margin: float  # by how much this pose fits better than the one that the header promised
    turns: int  # quarter turns, counter-clockwise, that the picture went through
    swapped: bool  # black and white


def check_content(stored: Stored, inverted: bool = False) -> list[str]:
    """Integers [H, W], upright if the header was right → flags.

    `stored` may have any depth and be equalised or not; stored values tell more than the 8 bits
    into which an outlier squeezed them. `inverted` is True where small values are bright.

    Flags: polarity_suspect and rotation_suspect (may come together), or unlike_chest alone.
    Raises FailedImage with constant_image, blank_image or scrambled.
    """
    height, width = stored.shape
    if stored[0, 0] == stored[height // 2, width // 2] and stored.min() == stored.max():
        raise FailedImage(
            "constant_image", "every pixel has the same value, so there is no picture"
        )
    if min(height, width) < MIN_SIDE:
        return ["unlike_chest"]
    here, below, right = samples(stored)
    _check_levels(np.bincount(here.ravel()))
    _check_neighbours(here, below, right)
    fit = fit_pose(thumbnail(here, inverted))
    if fit.likeness < MIN_LIKENESS or fit.resemblance < MIN_RESEMBLANCE:
        return ["unlike_chest"]
    if fit.margin < MIN_MARGIN:
        return []
    return ["polarity_suspect"] * fit.swapped + ["rotation_suspect"] * (fit.turns != 0)


def samples(stored: Stored) -> tuple[NDArray[np.int64], ...]:
    """A coarse grid of pixels, the pixels below them and those to their right; all 0..65535."""
    step = -(-min(stored.shape) // SAMPLES)
    parts = stored[:-1:step, :-1:step], stored[1::step, :-1:step], stored[:-1:step, 1::step]
    grids = [part.astype(np.int64) for part in parts]
    low, high = min(int(g.min()) for g in grids), max(int(g.max()) for g in grids)
    shift = max(0, (high - low).bit_length() - 16)  # of more than 16 bits the upper 16
    return tuple((grid - low) >> shift for grid in grids)


def thumbnail(values: NDArray[np.integer], inverted: bool = False) -> Array:
    """Integers [H, W] → grey ranks in -1..1, [16, 16]; flat borders and the outermost 5 % go."""
    inner = _trim(values)
    height, width = inner.shape
    top, left = int(height * CROP), int(width * CROP)
    inner = inner[top : height - top, left : width - left]
    cells = Image.fromarray(inner.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    _, places, counts = np.unique(np.asarray(cells), return_inverse=True, return_counts=True)
    ranks = (2 * np.cumsum(counts) - counts) / SIDE**2 - 1
    return np.asarray(ranks[places].reshape(SIDE, SIDE) * (-1 if inverted else 1))


def fit_pose(cells: Array) -> Fit:
    """Grey ranks [16, 16] → the best of eight poses and how well it fits."""
    template = load_template()
    upright = np.stack([np.rot90(cells, -turns).ravel() for turns in range(4)])
    poses = np.concatenate([upright, -upright])  # [8, 256]
    likeness = _likelihood(poses, template)
    pose = int(likeness.argmax())
    hidden = np.maximum(poses[pose] @ template.hidden + template.hidden_bias, 0)
    return Fit(
        likeness=float(likeness[pose]),
        resemblance=float(hidden @ template.out + template.out_bias),
        margin=float(likeness[pose] - likeness[0]),
        turns=pose % 4,
        swapped=pose >= 4,
    )


def _likelihood(poses: Array, template: Template) -> Array:
    """[P, 256] → [P], the better model's log likelihood per cell, up to a constant."""
    found = []
    for mean, axes, variance, noise in zip(
        template.mean, template.axes, template.variance, template.noise, strict=True
    ):
        offset = poses - mean
        along = offset @ axes.T
        beside = (offset**2).sum(axis=1) - (along**2).sum(axis=1)
        distance = (along**2 / variance).sum(axis=1) + beside / noise
        spread = np.log(variance).sum() + (SIDE**2 - len(axes)) * np.log(noise)
        found.append(-(distance + spread) / (2 * SIDE**2))
    return np.asarray(np.max(found, axis=0))


@cache
def load_template() -> Template:
    with np.load(TEMPLATE) as file:
        return Template(**{name: file[name].astype(np.float64) for name in file.files})


def _check_levels(counts: NDArray[np.int64]) -> None:
    """Pixels of each level. Raises FailedImage if hardly any level holds some."""
    total, used = int(counts.sum()), int(np.count_nonzero(counts))
    share = int((counts[1:] + counts[:-1]).max(initial=counts.max())) / total
    if share >= MAX_ONE_LEVEL:
        raise FailedImage(
            "blank_image", f"{share:.0%} of the pixels have the same grey; the picture is blank"
        )
    if used < MIN_LEVELS:
        raise FailedImage(
            "blank_image",
            f"the picture has {used} grey levels; a radiograph has {MIN_LEVELS} or more",
        )


def _check_neighbours(here: NDArray[np.int64], *beside: NDArray[np.int64]) -> None:
    """Raises FailedImage if rows or columns don't go on in the next one."""
    top = 1 + max(int(part.max()) for part in (here, *beside))
    counts = np.bincount(here.ravel(), minlength=top)
    ranks = (2 * np.cumsum(counts) - counts) / here.size - 1  # outliers weigh no more than others
    centre = ranks[here] - ranks[here].mean()
    alike = []
    for part in beside:
        other = ranks[part] - ranks[part].mean()
        scale = np.sqrt((centre**2).sum() * (other**2).sum())
        alike.append(float((centre * other).sum() / scale) if scale > 0 else 0.0)
    worse, better = min(alike), max(alike)
    lopsided = worse < MIN_LOPSIDED and 1 - worse > MAX_LOPSIDED * (1 - better)
    if worse < MIN_CORRELATION or lopsided:
        lines = ("rows", "columns")[alike.index(worse)]
        raise FailedImage(
            "scrambled",
            f"neighbouring {lines} have little in common (correlation {worse:.2f}): Rows and "
            "Columns may be swapped, or the pixels are noise",
        )


def _trim(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """Without the lines at the border that show nothing but noise and letters."""
    coarse = Image.fromarray(values.astype(np.float32)).resize((LINES, LINES), Image.Resampling.BOX)
    cells = np.asarray(coarse)
    low, high = np.percentile(cells, (1, 99))
    top, bottom = _shown(cells, (high - low) * FLAT_LINE)
    left, right = _shown(cells[top:bottom].T, (high - low) * FLAT_LINE)
    height, width = values.shape
    return values[
        top * height // LINES : -(-bottom * height // LINES),
        left * width // LINES : -(-right * width // LINES),
    ]


def _shown(lines: NDArray[np.float32], contrast: float) -> tuple[int, int]:
    """The first line with more contrast between most of its cells, and the one after the last."""
    low, high = np.percentile(lines, (10, 90), axis=1)
    kept = np.flatnonzero(high - low > contrast)
    if kept.size and kept[-1] + 1 - kept[0] >= LINES / 4:
        return int(kept[0]), int(kept[-1]) + 1
    return 0, len(lines)
