"""Whether a heatmap lies on the finding: cells [g, g] against a mask drawn on the original image.

`share` is what part of each cell the mask covers, NaN for cells that show only the black frame.
Every visible cell counts the same. The mask beyond the crop is unseen and counts nowhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tier_infer.cells import cell_boxes, clipped
from tier_infer.geometry import Geometry

Cells = NDArray[np.float64]  # [g, g]
HOLDS = 1e-6  # of a cell; cell borders are computed, and less than this is their rounding


def cells_of_mask(mask: NDArray[np.bool_], geometry: Geometry, side: int) -> Cells:
    """bool [H, W], original pixels → float64 [side, side] in [0, 1]: the part of each cell's
    visible area that the mask covers, exactly, pixels cut by a border included."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is bool [H, W], not {mask.dtype} {mask.shape}")
    height, width = mask.shape
    boxes = clipped(cell_boxes(height, width, geometry, side), height, width)
    rows = _overlaps(boxes[:, 0, 1], boxes[:, 0, 3], height)
    columns = _overlaps(boxes[0, :, 0], boxes[0, :, 2], width)
    sizes = boxes[..., 2:] - boxes[..., :2]  # [side, side, 2]
    area = np.where((sizes > HOLDS).all(axis=-1), sizes.prod(axis=-1), np.nan)
    bands = [np.flatnonzero(row) for row in rows]  # a whole mask in float64 is 60 MB and more
    covered = np.stack([row[b] @ mask[b] for row, b in zip(rows, bands, strict=True)]) @ columns.T
    return np.asarray(np.clip(covered / area, 0, 1))


def pointing_game(cells: Cells, share: Cells) -> bool | None:
    """Whether the highest visible cell holds mask; of equally high cells all must. None where the
    crop holds no mask."""
    heat, part = _visible(cells, share)
    holds = part > HOLDS
    return bool(holds[heat == heat.max()].all()) if holds.any() else None


def chance(share: Cells) -> float | None:
    """How often a cell chosen blindly would win the pointing game: the part of the visible cells
    that hold mask. None where the crop holds none."""
    holds = share[~np.isnan(share)] > HOLDS
    return float(holds.mean()) if holds.any() else None


def area(share: Cells) -> float:
    """The part of the visible crop that the mask covers. Cells that the mask only touches win the
    pointing game, so `chance` is higher and is the rate to beat."""
    part = share[~np.isnan(share)]
    if not len(part):
        raise ValueError("no cell is visible")
    return float(part.mean())


def cnr(cells: Cells, share: Cells) -> float | None:
    """Contrast to noise |mean_in − mean_out| / √(var_in + var_out), each cell weighing in `in` by
    its share and in `out` by the rest, as pixels under a map of square cells do.

    The sign is lost: an inverted map has the same. None where mask or background is missing, or
    where neither varies.
    """
    heat, part = _visible(cells, share)
    if not part.sum() > HOLDS or not (1 - part).sum() > HOLDS:
        return None
    mean_in, mean_out = np.average(heat, weights=part), np.average(heat, weights=1 - part)
    noise = np.average((heat - mean_in) ** 2, weights=part)
    noise += np.average((heat - mean_out) ** 2, weights=1 - part)
    return float(abs(mean_in - mean_out) / np.sqrt(noise)) if noise > 0 else None


def iou(cells: Cells, share: Cells, threshold: float) -> float | None:
    """Area of mask and cells above the threshold together, over the area of either. None where the
    crop holds no mask."""
    heat, part = _visible(cells, share)
    if not (part > HOLDS).any():
        return None
    chosen = heat > threshold
    return float(part[chosen].sum() / (chosen.sum() + part[~chosen].sum()))


def otsu(cells: Cells) -> float | None:
    """The value above which cells are foreground: of all splits of the visible (not NaN) cells the
    first with the highest variance between classes (Otsu 1979), without a histogram. None where all
    are equal."""
    heat = np.sort(cells[~np.isnan(cells)].astype(np.float64))
    if not np.isfinite(heat).all():
        raise ValueError("cells must be finite")
    split = np.flatnonzero(heat[1:] > heat[:-1]) + 1  # cells below
    if not len(split):
        return None
    below, n = np.cumsum(heat)[split - 1], len(heat)
    difference = below / split - (heat.sum() - below) / (n - split)
    return float(heat[split[np.argmax(split * (n - split) * difference**2)] - 1])


def _overlaps(low: NDArray[np.float64], high: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """float64 [g, n]: how much of every pixel lies between low and high [g]."""
    pixel = np.arange(n)
    ends = np.minimum(high[:, None], pixel + 1)
    return np.asarray(np.clip(ends - np.maximum(low[:, None], pixel), 0, 1))


def _visible(cells: Cells, share: Cells) -> tuple[Cells, Cells]:
    """Both of the visible cells, [m]. ValueError where the heat of one is not finite."""
    if cells.shape != share.shape:
        raise ValueError(f"cells {cells.shape} and share {share.shape} must be of one grid")
    seen = ~np.isnan(share)
    if not seen.any():
        raise ValueError("no cell is visible")
    heat = cells[seen].astype(np.float64)
    if not np.isfinite(heat).all():
        raise ValueError("cells must be finite")
    return heat, share[seen]
