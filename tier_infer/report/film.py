"""One image of a report: the film, and over it one layer of heat per label, as SVG.

The drawing's own units are the pixels of the picture shown (at most 1024 long), so every cell
stands where `cell_boxes` says. Which layer is seen, and how strongly, the style sheet decides.
"""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tier_infer.cells import cell_boxes, clipped
from tier_infer.geometry import Geometry, reduced
from tier_infer.guard import printable
from tier_infer.report.colours import SCALE, colours, cool_warm, hex_colour
from tier_infer.report.overlay import SOFTWARE, cubic

MAX_FILM_BYTES = 400_000  # of the JPEG; two of them leave a page below 2 MB
QUALITIES = (92, 85, 75, 60)
EXIF_SOFTWARE = 0x0131
FINE = 8  # pixels per cell and side of a smoothed layer; the browser fills in the rest


def plain(text: str) -> str:
    """Any text for HTML: nothing of it can be markup, a control character or half a character."""
    return escape(printable(text).encode("utf-8", "backslashreplace").decode("utf-8"))


def draw_film(
    film: NDArray[np.uint8],
    heat: NDArray[np.float32],
    geometry: Geometry,
    *,
    title: str,
    smooth: bool = False,
) -> str:
    """film: uint8 [H, W], heat: float32 [L, g, g] → an SVG element with L layers of class heat."""
    height, width = film.shape
    boxes = cell_boxes(height, width, geometry, heat.shape[1])
    left, top, right, bottom = clipped(_outer(boxes), height, width)
    frame = f"M{left:.2f} {top:.2f}H{right:.2f}V{bottom:.2f}H{left:.2f}Z"
    layers = []
    for number, cells in enumerate(heat):
        as_image = smooth and bool(np.isfinite(cells).all())
        shown = _smooth_layer if as_image else _cell_layer
        inside = shown(cells, boxes, height, width)
        layers.append(f'<g class="heat heat-{number}" shape-rendering="crispEdges">{inside}</g>')
    return (
        f'<svg class="film" viewBox="0 0 {width} {height}" role="img" aria-label="{plain(title)}">'
        f'<image width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="{film_uri(film)}"/>{"".join(layers)}<path class="frame" d="{frame}"/></svg>'
    )


def film_uri(film: NDArray[np.uint8]) -> str:
    """uint8 [H, W] → data: URI of a JPEG, long side at most LONG_SIDE; never enlarged.

    Marked in its Exif data as ours, so that a copy of it is not scored as a film.
    """
    image = Image.fromarray(reduced(film))
    exif = Image.Exif()
    exif[EXIF_SOFTWARE] = SOFTWARE
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, exif=exif.tobytes())
        if buffer.tell() <= MAX_FILM_BYTES:
            break
    return data_uri("image/jpeg", buffer.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _png_uri(picture: NDArray[np.uint8]) -> str:
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=info)
    return data_uri("image/png", buffer.getvalue())


def _outer(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 [4]: the box round all cells."""
    return np.concatenate([boxes[0, 0, :2], boxes[-1, -1, 2:]])


def _cell_layer(
    cells: NDArray[np.float32], boxes: NDArray[np.float64], height: int, width: int
) -> str:
    """A rectangle per cell, with its Z as a tooltip. Only what lies on the film: the element may be
    larger than the film, so nothing else would cut off what reaches beyond it."""
    parts = []
    visible = clipped(boxes, height, width).reshape(-1, 4)
    for z, (left, top, right, bottom) in zip(cells.ravel(), visible, strict=True):
        if np.isfinite(z) and left < right and top < bottom:
            parts.append(
                f'<path d="M{left:.2f} {top:.2f}H{right:.2f}V{bottom:.2f}H{left:.2f}Z" '
                f'fill="{hex_colour(float(z))}"><title>Z {z:+.2f}</title></path>'
            )
    return "".join(parts)


def _smooth_layer(
    cells: NDArray[np.float32], boxes: NDArray[np.float64], height: int, width: int
) -> str:
    """A picture of the part that lies on the film, sampled there."""
    side, outer = len(cells), _outer(boxes)
    left, top, right, bottom = clipped(outer, height, width)
    rows, columns = (
        cubic(_samples(start, end, outer[axis], outer[axis + 2], side), side)
        for start, end, axis in ((top, bottom, 1), (left, right, 0))
    )
    z = (rows @ cells.astype(np.float64) @ columns.T).astype(np.float32)
    return (
        f'<image x="{left:.2f}" y="{top:.2f}" width="{right - left:.2f}" '
        f'height="{bottom - top:.2f}" preserveAspectRatio="none" href="{_png_uri(colours(z))}"/>'
    )


def _samples(start: float, end: float, first: float, last: float, side: int) -> NDArray[np.float64]:
    """Centres of FINE samples per cell from `start` to `end`, in cells of the grid first..last."""
    count = max(1, round((end - start) / (last - first) * side * FINE))
    at = start + (np.arange(count) + 0.5) / count * (end - start)
    return np.asarray((at - first) / (last - first) * side)


def describe_heat(cells: NDArray[np.float32]) -> str:
    """The layer in words, for those who do not see it."""
    if not np.isfinite(cells).any():
        return "no cell has a finite value"
    row, column = np.unravel_index(np.nanargmax(cells), cells.shape)
    return (
        f"cells from {np.nanmin(cells):+.2f} to {np.nanmax(cells):+.2f}, the highest in row "
        f"{row + 1} of {len(cells)} from the top, column {column + 1} of {len(cells)} from the left"
    )


def draw_scale() -> str:
    """The colour bar: fixed scale, ticks, arrow ends for all values beyond it."""
    first, last = (f"#{end.tobytes().hex()}" for end in cool_warm()[[0, -1]])
    parts = [
        '<svg class="scale" viewBox="0 0 544 44" role="img" '
        f'aria-label="Colour scale of Z: blue at -{SCALE:g}, grey at 0, red at +{SCALE:g}">',
        f'<image x="22" y="2" width="500" height="16" preserveAspectRatio="none" '
        f'href="{_png_uri(cool_warm()[None])}"/>',
        f'<path d="M22 2V18L4 10Z" fill="{first}"/><path d="M522 2V18L540 10Z" fill="{last}"/>',
    ]
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = 272 + 250 * tick
        text = f"{tick * SCALE:+g}" if tick else "0"
        parts.append(
            f'<path d="M{x:g} 18v6" stroke="#1b1f23"/><text x="{x:g}" y="38" '
            f'text-anchor="middle" fill="#1b1f23">{"Z " if tick == -1 else ""}{text}</text>'
        )
    return "".join(parts) + "</svg>"


def draw_marker(z: float) -> str:
    """A bar from 0 to Z on the same scale, beside the number in a table."""
    end = 80 + 76 * max(-1.0, min(1.0, z / SCALE))
    left, width = min(80.0, end), abs(end - 80)
    return (
        '<svg class="marker" viewBox="0 0 160 18" preserveAspectRatio="none" aria-hidden="true">'
        '<path d="M4 9H156" stroke="#b9bfc5"/>'
        f'<rect x="{left:.2f}" y="3" width="{width:.2f}" height="12" fill="{hex_colour(z)}" '
        'stroke="#50565c" stroke-width=".7"/><path d="M80 0V18" stroke="#1b1f23"/></svg>'
    )
