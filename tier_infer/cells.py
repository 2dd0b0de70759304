"""Where the cells of a heatmap lie in the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tier_infer.geometry import Geometry, crop_box

Floats = NDArray[np.float32]


def cell_boxes(height: int, width: int, geometry: Geometry, side: int) -> NDArray[np.float64]:
    """float64 [side, side, 4]: (left, top, right, bottom) of each cell, in original pixels; beyond
    the image where the geometry frames it in black."""
    left, top, right, bottom = crop_box(height, width, geometry)
    xs, ys = np.linspace(left, right, side + 1), np.linspace(top, bottom, side + 1)
    boxes = np.empty((side, side, 4))
    boxes[..., 0], boxes[..., 2] = xs[:-1], xs[1:]
    boxes[..., 1], boxes[..., 3] = ys[:-1, None], ys[1:, None]
    return boxes


def clipped(boxes: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """float64 [..., 4]: the part of each box that lies in the image; where none does, no area."""
    return np.clip(boxes, 0, [width, height, width, height])


def cells_in_image(cells: Floats, shape: tuple[int, ...], geometry: Geometry) -> Floats:
    """float32 [g, g], NaN for cells of nothing but the black frame: no picture shows them."""
    height, width = shape
    boxes = clipped(cell_boxes(height, width, geometry, len(cells)), height, width)
    inside = ((boxes[..., 2:] - boxes[..., :2]) > 1e-6).all(axis=-1)  # pixels; edges are rounded
    return np.where(inside, cells, np.float32(np.nan))
