"""Heatmap overlays: the cells on the picture as a reader sees it, where the network looked.

The cells are drawn as they are, unsmoothed, unless asked otherwise; the picture then says so.
Every PNG carries the text chunk `Software: tier-infer`, so that it is never scored as a film.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tier_infer.bundle import NOTICE
from tier_infer.cells import cell_boxes, cells_in_image
from tier_infer.files import write_atomic
from tier_infer.geometry import Geometry, reduced
from tier_infer.guard import printable
from tier_infer.report.colours import SCALE, colours, cool_warm
from tier_infer.scoring import ImageResult
from tier_infer.studies import StudyResult

OPACITY = 0.35  # of the colours; the film keeps the rest of its contrast, so markers stay legible
SHORT_PICTURE = 360  # a picture whose long side is less is enlarged, pixel by pixel
MARGIN = 12
TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # in units of SCALE
SOFTWARE = "tier-infer"  # PNG chunk tEXt, keyword Software

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_overlays(
    studies: list[StudyResult],
    geometry: Geometry,
    folder: Path,
    *,
    smooth: bool = False,
    allow_burned_in: bool = False,
) -> list[Path]:
    """One PNG per scored image and label, named by pseudonym: study-1_image-1_edema.png.

    An image whose pixels may hold a name gets none unless allowed, see `may_show`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for study in studies:
        for number, image in enumerate(study.images, start=1):
            film = image.display
            if image.heat is None or film is None or not may_show(image, allow_burned_in):
                continue
            for (name, score), cells in zip(image.scores.items(), image.heat, strict=True):
                stem = re.sub(r"[^A-Za-z0-9_.]", "-", name)
                path = folder / f"{study.id}_image-{number}_{stem}.png"
                picture = draw_overlay(
                    film, cells, geometry, label=name, score=score, smooth=smooth
                )
                write_atomic(path, to_png(picture))
                written.append(path)
    return written


def may_show(image: ImageResult, allow_burned_in: bool) -> bool:
    """Pixels that may hold a name are not copied into pictures unasked (PS3.15 E.3.1)."""
    return allow_burned_in or "burned_in_annotation" not in image.flags


def draw_overlay(
    grey: NDArray[np.uint8],
    cells: NDArray[np.float32],
    geometry: Geometry,
    *,
    label: str = "",
    score: float | None = None,
    smooth: bool = False,
) -> Image.Image:
    """grey: uint8 [H, W], cells: float32 [g, g] → RGB: film at the upper left, legend below it.

    Pixels outside the crop were never seen by the network and stay grey; cells of a black frame
    round the film are not drawn.
    """
    film = fitted(grey)
    z = heat_field(cells, film.shape[0], film.shape[1], grey.shape, geometry, smooth)
    picture = np.repeat(film[..., None], 3, axis=2)
    seen = np.isfinite(z)
    mixed = (1 - OPACITY) * picture[seen] + OPACITY * colours(z[seen])
    picture[seen] = mixed.round().astype(np.uint8)
    told = cells_in_image(cells, grey.shape, geometry)
    return _with_legend(Image.fromarray(picture), _captions(told, label, score, smooth))


def fitted(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W] → uint8 [h, w] with a long side of at most LONG_SIDE pixels.

    A small picture is enlarged by a whole factor, without inventing pixels.
    """
    long = max(grey.shape)
    if long < SHORT_PICTURE:
        factor = -(-SHORT_PICTURE // long)
        return np.kron(grey, np.ones((factor, factor), np.uint8))
    return reduced(grey)


def heat_field(
    cells: NDArray[np.float32],
    height: int,
    width: int,
    original: tuple[int, ...],
    geometry: Geometry,
    smooth: bool = False,
) -> NDArray[np.float32]:
    """float32 [g, g] → Z of every pixel of a [height, width] picture of the original [H, W].

    NaN where the network did not look. A pixel belongs to the cell that its centre lies in.
    """
    side = len(cells)
    boxes = cell_boxes(original[0], original[1], geometry, side)
    y = _cell_coordinate(height, original[0], boxes[0, 0, 1], boxes[-1, 0, 3], side)
    x = _cell_coordinate(width, original[1], boxes[0, 0, 0], boxes[0, -1, 2], side)
    if smooth:
        z = (cubic(y, side) @ cells.astype(np.float64) @ cubic(x, side).T).astype(np.float32)
    else:
        rows, columns = (np.floor(at).clip(0, side - 1).astype(int) for at in (y, x))
        z = cells[rows][:, columns]
    z[(y < 0) | (y >= side)] = np.nan
    z[:, (x < 0) | (x >= side)] = np.nan
    return z


def _cell_coordinate(
    count: int, original: int, start: float, end: float, side: int
) -> NDArray[np.float64]:
    """float64 [count]: pixel centres in cells, 0 at the crop's first edge, `side` at its last."""
    centres = (np.arange(count) + 0.5) * original / count
    result: NDArray[np.float64] = (centres - start) / (end - start) * side
    return result


def cubic(position: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Cells → weights [n, side] of Keys' cubic, a = -1/2: exact at centres, edge cells repeated."""
    at = position - 0.5  # in cells, from the centre of the first
    weights = np.zeros((len(position), side))
    rows = np.arange(len(position))
    for shift in (-1, 0, 1, 2):
        cell = np.floor(at) + shift
        d = np.abs(at - cell)
        near = (1.5 * d - 2.5) * d**2 + 1
        far = ((-0.5 * d + 2.5) * d - 4) * d + 2
        np.add.at(weights, (rows, cell.clip(0, side - 1).astype(int)), np.where(d <= 1, near, far))
    return weights


def _captions(
    cells: NDArray[np.float32], label: str, score: float | None, smooth: bool
) -> tuple[str, list[str]]:
    """The line above the colour bar, and those below it."""
    parts = [printable(label)] if label else []
    parts += [f"Z of the image {score:+.4f}"] if score is not None else []
    kind = f"{len(cells)} x {len(cells)} cells"
    how = f"smoothed: bicubic between the centres of {kind}" if smooth else f"{kind}, unsmoothed"
    beyond = int((np.abs(cells) > SCALE).sum())
    if beyond:
        how += f"; {beyond} of them beyond the scale"
    return "   ".join(parts), [how, NOTICE]


def _with_legend(picture: Image.Image, captions: tuple[str, list[str]]) -> Image.Image:
    """The picture at the upper left of a canvas that is wide enough to read the legend."""
    width = max(picture.width, SHORT_PICTURE)
    size = max(13, min(20, width // 48))
    font = ImageFont.load_default(size)
    line = round(1.4 * size)
    above, below = (wrap(text, font, width - 2 * MARGIN) for text in (captions[:1], captions[1]))
    bar = line * 2
    height = picture.height + 2 * MARGIN + line * (len(above) + len(below)) + bar
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    y = picture.height + MARGIN
    for text in above:
        draw.text((MARGIN, y), text, fill="black", font=font)
        y += line
    _draw_bar(draw, y, width, line, font)
    y += bar
    for text in below:
        draw.text((MARGIN, y), text, fill="black", font=font)
        y += line
    return canvas


def _draw_bar(draw: ImageDraw.ImageDraw, top: int, width: int, line: int, font: Font) -> None:
    """The map from -SCALE to +SCALE with ticks; arrow ends stand for all values beyond it."""
    left, right = MARGIN + line, min(width, 600) - MARGIN - line
    bottom = top + line // 2
    table = cool_warm()
    for x in range(left, right + 1):
        level = round((x - left) / (right - left) * (len(table) - 1))
        draw.line([(x, top), (x, bottom)], fill=tuple(table[level].tolist()))
    middle = (top + bottom) / 2
    for edge, tip, level in ((left, MARGIN, 0), (right, right + line, -1)):
        draw.polygon(
            [(edge, top), (edge, bottom), (tip, middle)], fill=tuple(table[level].tolist())
        )
    for tick in TICKS:
        x = round(left + (tick + 1) / 2 * (right - left))
        draw.line([(x, bottom), (x, bottom + 4)], fill="black")
        text = f"{tick * SCALE:+g}" if tick else "0"
        text = f"Z {text}" if tick == TICKS[0] else text
        offset = draw.textlength(text, font=font) / 2
        draw.text((max(x - offset, 2), bottom + 5), text, fill="black", font=font)


def wrap(texts: tuple[str, ...] | list[str], font: Font, width: int) -> list[str]:
    """Lines no wider than `width` pixels; a word that is wider is cut."""
    lines: list[str] = []
    for text in texts:
        rest = text
        while rest:
            fits = len(rest)
            while fits > 1 and font.getlength(rest[:fits]) > width:
                space = rest.rfind(" ", 1, fits)
                fits = space if space > 0 else fits - 1
            lines.append(rest[:fits])
            rest = rest[fits:].lstrip()
    return lines


def to_png(picture: Image.Image) -> bytes:
    """With the mark that keeps our own pictures from being scored (reason own_output)."""
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    info.add_text("Comment", NOTICE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
