"""Heatmap overlays: the 7×7 cells on the original image, where the network looked, unsmoothed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tier_infer.bundle import NOTICE
from tier_infer.geometry import Geometry
from tier_infer.scoring import StudyResult, cell_boxes

SCALE = 1.0  # |Z| shown at full colour; fixed, so that two pictures can be compared
OPACITY = 0.45
LONG_SIDE = 1024  # pictures for people, not for measuring
BAR = 26  # height of the colour bar in pixels
COLD, WARM = (59, 76, 192), (180, 4, 38)  # ends of Moreland's diverging map, white between


def write_overlays(studies: list[StudyResult], geometry: Geometry, folder: Path) -> list[Path]:
    """One PNG per scored image and label, named by pseudonym: study-1_image-1_edema.png."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for study in studies:
        for number, image in enumerate(study.images, start=1):
            if image.heat is None or image.grey is None:
                continue
            for name, cells in zip(image.scores, image.heat, strict=True):
                stem = name.replace(":", "-")
                path = folder / f"{study.id}_image-{number}_{stem}.png"
                draw_overlay(image.grey, cells, geometry).save(path)
                written.append(path)
    return written


def draw_overlay(
    grey: NDArray[np.uint8], cells: NDArray[np.float32], geometry: Geometry
) -> Image.Image:
    """grey: uint8 [H, W], cells: float32 [7, 7] → RGB picture with a colour bar below it.

    Pixels outside the crop were never seen by the network and stay grey.
    """
    height, width = grey.shape
    shrink = max(1.0, max(height, width) / LONG_SIDE)
    size = (round(width / shrink), round(height / shrink))
    base = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR), np.float32)
    picture = np.repeat(base[..., None], 3, axis=2)
    boxes = np.rint(cell_boxes(height, width, geometry) / shrink).astype(int).reshape(-1, 4)
    for (left, top, right, bottom), z in zip(boxes, cells.ravel(), strict=True):
        tile = picture[top:bottom, left:right]
        tile *= 1 - OPACITY
        tile += OPACITY * colour(float(z))
    canvas = Image.new("RGB", (size[0], size[1] + BAR), "white")
    canvas.paste(Image.fromarray(picture.round().astype(np.uint8)))
    _draw_bar(canvas, size[1])
    return canvas


def colour(z: float) -> NDArray[np.float32]:
    """Blue below zero, white at zero, red above; float32 [3] in 0..255."""
    strength = min(abs(z) / SCALE, 1.0)
    end = np.array(WARM if z > 0 else COLD, np.float32)
    return (1 - strength) * np.float32(255) + strength * end


def _draw_bar(canvas: Image.Image, top: int) -> None:
    draw = ImageDraw.Draw(canvas)
    for x in range(canvas.width):
        z = SCALE * (2 * x / max(canvas.width - 1, 1) - 1)
        draw.line([(x, top), (x, top + 9)], fill=tuple(int(v) for v in colour(z)))
    draw.text((2, top + 12), f"Z -{SCALE:g}", fill="black")
    draw.text((canvas.width - 32, top + 12), f"+{SCALE:g}", fill="black")
    if canvas.width > 340:
        draw.text((canvas.width // 2 - 120, top + 12), NOTICE, fill="black")
