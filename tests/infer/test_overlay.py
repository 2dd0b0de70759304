"""python -m pytest tests/infer/test_overlay.py -- heat on the right pixels, in honest colours."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from tests.infer.report_files import GEOMETRY, LABELS, film, one_hot, scored, study
from tests.infer.tiny_bundle import NATURAL, parts
from tier_infer.bundle import NOTICE
from tier_infer.cells import cell_boxes, clipped
from tier_infer.geometry import GEOMETRIES, LONG_SIDE, Geometry, to_crop
from tier_infer.report import overlay
from tier_infer.report.colours import SCALE, colours, cool_warm, hex_colour
from tier_infer.report.overlay import (
    OPACITY,
    SHORT_PICTURE,
    draw_overlay,
    fitted,
    heat_field,
    to_png,
    wrap,
    write_overlays,
)

PRESETS = sorted(GEOMETRIES.values(), key=lambda g: g.name)
SHORT = [g for g in PRESETS if g.rule == "short-side"]
FRAMED = [g for g in PRESETS if g not in SHORT]
SHAPES = {
    "square": (512, 512),
    "portrait": (900, 640),
    "landscape": (640, 900),
    "long": (300, 1100),  # most of it is cropped away
    "shrunk": (2300, 1900),  # displayed smaller than it is
    "enlarged": (90, 110),  # displayed larger than it is
}


def lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """uint8 sRGB [..., 3] → CIELAB under D65, by the formulas of CIE 15."""
    v = rgb / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    x = linear @ [0.4124564, 0.3575761, 0.1804375] / 0.95047
    y = linear @ [0.2126729, 0.7151522, 0.0721750]
    z = linear @ [0.0193339, 0.1191920, 0.9503041] / 1.08883
    fx, fy, fz = (
        np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29) for t in (x, y, z)
    )
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=-1)


# --- colours


def test_the_map_is_morelands() -> None:
    """matplotlib's coolwarm is his published table of 33 colours: an independent source."""
    matplotlib = pytest.importorskip("matplotlib")
    reference = matplotlib.colormaps["coolwarm"].resampled(33)(range(33))[:, :3] * 255
    ours = cool_warm()[:: (len(cool_warm()) - 1) // 32]
    assert np.abs(ours - reference).max() < 0.6  # rounded to whole numbers


def test_a_larger_z_always_looks_further_from_zero() -> None:
    middle = len(cool_warm()) // 2
    distance = np.linalg.norm(lab(cool_warm()) - lab(cool_warm()[middle]), axis=1)
    coarse = distance[::8]
    assert (np.diff(coarse[: len(coarse) // 2 + 1]) < 0).all()
    assert (np.diff(coarse[len(coarse) // 2 :]) > 0).all()
    step = np.linalg.norm(np.diff(lab(cool_warm()[::8]), axis=0), axis=1)
    assert step.max() / step.min() < 1.7  # even enough that no edge appears out of nothing


def test_both_signs_weigh_the_same() -> None:
    values = lab(cool_warm())
    light = values[:, 0]
    distance = np.linalg.norm(values - values[len(values) // 2], axis=1)
    assert np.abs(light - light[::-1]).max() < 4
    assert np.abs(distance / distance[::-1].clip(1) - 1)[[0, 32, 64, 96]].max() < 0.2


def test_signs_stay_apart_without_red_or_green() -> None:
    """Deuteranopia and protanopia leave blue against yellow: the b* axis must tell the sign."""
    b = lab(colours(np.linspace(-1, 1, 21, dtype=np.float32)))[:, 2]
    assert (b[:10] < -5).all()
    assert (b[11:] > 5).all()


def test_zero_is_grey_and_the_scale_is_clipped() -> None:
    assert colours(np.float32([0]))[0].tolist() == [221, 221, 221]
    ends = colours(np.float32([-2, -SCALE, SCALE, 2]))
    assert ends[0].tolist() == ends[1].tolist() == [59, 76, 192]
    assert ends[2].tolist() == ends[3].tolist() == [180, 4, 38]
    assert hex_colour(0.0) == "#dddddd"


# --- geometry


def lit_box(picture: NDArray[np.uint8], film_only: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels that are redder than a cell of Z = 0 makes them."""
    rgb = picture[: film_only.shape[0], : film_only.shape[1]].astype(int)
    return rgb[..., 0] - rgb[..., 2] > 20


@pytest.mark.parametrize("geometry", SHORT, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("cell", ["first", "top right", "middle", "last"])
def test_a_one_hot_cell_colours_what_the_network_saw_in_it(
    cell: str, shape: tuple[int, int], geometry: Geometry
) -> None:
    """The way there and the way back: light exactly the pixels that the overlay coloured, send
    them through resize and crop, and the encoder's input must be bright in that cell alone."""
    count = NATURAL[geometry.name]
    last = count - 1
    at = {"first": (0, 0), "top right": (0, last), "middle": (count // 2, 2), "last": (last, last)}
    hot = one_hot(*at[cell], side=count)
    grey = np.full(shape, 128, np.uint8)
    lit = lit_box(np.asarray(draw_overlay(grey, hot, geometry)), fitted(grey))
    assert lit.any()
    crop = seen_by_the_network(lit, shape, geometry)
    side = crop.shape[0] // count
    light = crop.reshape(count, side, count, side).mean(axis=(1, 3)) / 255
    fine = 7 / count  # cells of a finer grid have more edge
    assert light[hot > 0].min() > 1 - 0.1 / fine
    assert light[hot == 0].max() < 0.06 / fine  # the resize filter and the display's rounding
    inside = crop.reshape(count, side, count, side).transpose(0, 2, 1, 3)[at[cell]]
    rim = 2 + 2 * geometry.resize // min(shape)  # one pixel of a small original is several here
    assert inside[rim:-rim, rim:-rim].min() > 240


def seen_by_the_network(
    lit: NDArray[np.bool_], shape: tuple[int, int], geometry: Geometry
) -> NDArray[np.uint8]:
    """The crop of an original whose pixels shine where the picture shown was lit."""
    shown = Image.fromarray(lit.astype(np.uint8) * 255)
    return to_crop(np.asarray(shown.resize(shape[::-1], Image.Resampling.BOX)), geometry)


@pytest.mark.parametrize("side", [7, 15])
@pytest.mark.parametrize("geometry", FRAMED, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_under_a_black_frame_a_cell_colours_its_part_of_the_film(
    shape: tuple[int, int], geometry: Geometry, side: int
) -> None:
    """As above, but a cell may lie in the frame as a whole or in part: so bright it must be."""
    grey = np.full(shape, 128, np.uint8)
    a = parts(side, geometry.crop)
    scale = max(shape) / max(fitted(grey).shape)  # original pixels per pixel shown
    for cell in ((0, 0), (side // 2, side // 2), (side // 3, 2), (side - 1, 1)):
        picture = np.asarray(draw_overlay(grey, one_hot(*cell, side=side), geometry))
        lit = lit_box(picture, fitted(grey))
        box = cell_boxes(*shape, geometry, side)[cell]
        left, top, right, bottom = clipped(box, *shape)
        share = (right - left) * (bottom - top) / ((box[2] - box[0]) * (box[3] - box[1]))
        assert lit.any() == (share > 0.01)
        light = a @ (seen_by_the_network(lit, shape, geometry) / np.float32(255)) @ a.T
        # an edge is off by up to half a pixel shown and half a pixel of the original
        rim = (max(scale, 1) + 1) / (box[2] - box[0]) + 1.5 * side / geometry.crop
        assert light[cell] == pytest.approx(share, abs=rim)
        assert light.sum() == pytest.approx(share, abs=2 * rim)


@pytest.mark.parametrize("shape", [(700, 512), (512, 700)], ids=["padded below", "padded aside"])
def test_padding_moves_the_cells_as_it_moves_the_crop(shape: tuple[int, int]) -> None:
    """A square film padded to a rectangle: a bright spot in it is found under the same cell."""
    grey = np.zeros(shape, np.uint8)
    grey[300:340, 300:340] = 255
    side = GEOMETRY.crop // 7
    light = to_crop(grey, GEOMETRY).reshape(7, side, 7, side).mean(axis=(1, 3))
    row, column = np.unravel_index(light.argmax(), light.shape)
    z = heat_field(one_hot(int(row), int(column)), *shape, shape, GEOMETRY)
    assert z[320, 320] == 1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_outside_the_crop_the_film_stays_as_it_is(shape: tuple[int, int]) -> None:
    grey = film(*shape)
    shown = fitted(grey)
    z = heat_field(one_hot(3, 3), *shown.shape, shape, GEOMETRY)
    picture = np.asarray(draw_overlay(grey, one_hot(3, 3), GEOMETRY))
    picture = picture[: shown.shape[0], : shown.shape[1]]
    outside = np.isnan(z)
    assert outside.any()
    assert not outside.all()
    assert (picture[outside] == shown[outside][:, None]).all()
    assert np.ptp(picture[~outside].astype(int), axis=1).max() > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (1, 900), (2000, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("smooth", [False, True])
def test_thin_pictures_are_drawn(shape: tuple[int, int], smooth: bool) -> None:
    grey = np.full(shape, 90, np.uint8)
    picture = draw_overlay(grey, one_hot(3, 3), GEOMETRY, label="edema", score=0.5, smooth=smooth)
    assert picture.width >= SHORT_PICTURE
    assert picture.height > fitted(grey).shape[0]


def test_the_film_keeps_its_contrast_and_its_markers() -> None:
    grey = np.zeros((400, 400), np.uint8)
    grey[180:220, 100:300:8] = 255  # strokes as of a lead letter
    for z in (-1.0, 0.0, 1.0):
        picture = np.asarray(draw_overlay(grey, np.full((7, 7), z, np.float32), GEOMETRY))
        stroke, ground = picture[200, 100].astype(int), picture[200, 101].astype(int)
        assert (stroke - ground >= 255 * (1 - OPACITY) - 1).all()
    assert 0.2 <= OPACITY <= 0.5


def test_the_cells_are_unsmoothed_unless_asked() -> None:
    cells = np.random.default_rng(0).uniform(-1, 1, (7, 7)).astype(np.float32)
    hard = heat_field(cells, 512, 512, (512, 512), GEOMETRY)
    assert set(np.unique(hard[np.isfinite(hard)])) == set(np.unique(cells))
    soft = heat_field(cells, 512, 512, (512, 512), GEOMETRY, smooth=True)
    assert np.array_equal(np.isnan(hard), np.isnan(soft))
    assert len(np.unique(soft[np.isfinite(soft)])) > 10_000


def test_smoothing_keeps_the_values_at_the_centres() -> None:
    cells = np.random.default_rng(1).uniform(-1, 1, (7, 7)).astype(np.float32)
    for side in (7, 15):
        centres = overlay.cubic(np.arange(side) + 0.5, side)
        assert np.allclose(centres, np.eye(side))
        anywhere = overlay.cubic(np.linspace(0, side, 501), side)
        assert np.allclose(anywhere.sum(axis=1), 1)
        row = np.arange(side, dtype=np.float64)  # a straight line stays one away from the edge
        at = np.linspace(1.5, side - 1.5, 41)
        assert np.allclose(overlay.cubic(at, side) @ row, at - 0.5)
    assert heat_field(cells, 7, 7, (7, 7), GEOMETRY, smooth=True).shape == (7, 7)


def test_a_cell_that_is_not_finite_is_left_out() -> None:
    cells = one_hot(3, 3)
    cells[0, 0] = np.nan
    z = heat_field(cells, 256, 256, (256, 256), GEOMETRY)
    assert np.isnan(z[20, 20])
    assert np.isfinite(z[128, 128])
    draw_overlay(film(256, 256), cells, GEOMETRY)


# --- legend


class Pen:
    """Keeps what is written on a canvas."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[tuple[float, float, str, float]] = []
        original = overlay.ImageDraw.ImageDraw.text

        def text(
            draw: object, xy: tuple[float, float], words: str, *, fill: str, font: overlay.Font
        ) -> None:
            self.texts.append((*xy, words, font.getlength(words)))
            original(draw, xy, words, fill=fill, font=font)  # type: ignore[arg-type]

        monkeypatch.setattr(overlay.ImageDraw.ImageDraw, "text", text)

    @property
    def words(self) -> list[str]:
        return [words for _, _, words, _ in self.texts]


@pytest.mark.parametrize("width", [1, 40, 200, 512, 1024])
def test_notice_label_and_scale_are_legible_at_every_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pen = Pen(monkeypatch)
    grey = np.full((400, width), 90, np.uint8)
    picture = draw_overlay(grey, one_hot(1, 1), GEOMETRY, label="pleural_effusion", score=-0.25)
    told = " ".join(pen.words)
    assert NOTICE in told
    assert "pleural_effusion   Z of the image -0.2500" in told
    assert "unsmoothed" in told
    assert [w for w in pen.words if w in ("Z -1", "-0.5", "0", "+0.5", "+1")] == [
        "Z -1",
        "-0.5",
        "0",
        "+0.5",
        "+1",
    ]
    for x, y, words, length in pen.texts:
        assert x >= 0
        assert x + length <= picture.width, words
        assert y + 13 <= picture.height, words
    ticks = [t for t in pen.texts if t[2] in ("Z -1", "-0.5", "0", "+0.5", "+1")]
    assert all(a[0] + a[3] < b[0] for a, b in pairwise(ticks))


def test_a_long_label_is_wrapped_and_cannot_forge_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pen = Pen(monkeypatch)
    name = "padchest:" + "very_" * 30 + "long\nsafe to use"
    draw_overlay(film(200, 100), one_hot(0, 0), GEOMETRY, label=name, score=1.5)
    assert not any("\n" in words for words in pen.words)
    assert "\\nsafe to use" in "".join(pen.words)


def test_wrapped_lines_lose_no_word() -> None:
    font = ImageFont.load_default(14)
    text = "one two three four five six seven eight nine ten eleven twelve"
    lines = wrap([text], font, 90)
    assert " ".join(lines) == text
    assert all(font.getlength(line) <= 90 for line in lines)
    assert "".join(wrap(["x" * 80], font, 90)) == "x" * 80


def test_the_bar_shows_the_map_from_end_to_end_with_arrows() -> None:
    picture = np.asarray(draw_overlay(np.zeros((360, 600), np.uint8), one_hot(0, 0), GEOMETRY))
    legend = picture[360:].reshape(-1, 3)
    present = {tuple(row) for row in legend.tolist()}
    assert {tuple(row) for row in cool_warm().tolist()} <= present
    rows = [r for r in picture[360:] if (r == cool_warm()[128]).all(axis=1).any()]
    cold = [int((r == cool_warm()[0]).all(axis=1).argmax()) for r in rows]
    assert len(set(cold)) > 3  # the end is an arrow: its edge moves from row to row


def test_values_beyond_the_scale_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pen = Pen(monkeypatch)
    cells = one_hot(0, 0, 1.4)
    cells[1, 1] = -1.2
    draw_overlay(film(500, 500), cells, GEOMETRY, smooth=True)
    told = " ".join(pen.words)
    assert "smoothed: bicubic" in told
    assert "2 of them beyond the scale" in told


def test_cells_beside_the_film_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were seen by the network as black, and nobody can see them in the picture."""
    pen = Pen(monkeypatch)
    cells = np.full((7, 7), 0.2, np.float32)
    cells[:, 0], cells[3, 3] = 1.5, 1.5  # a column of the frame, and a cell of the film
    draw_overlay(film(900, 450), cells, GEOMETRIES["medclip-224"])
    assert "7 x 7 cells, unsmoothed; 1 of them beyond the scale" in " ".join(pen.words)


@pytest.mark.parametrize("side", [1, 7, 14, 15])
def test_the_legend_names_the_grid(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pen = Pen(monkeypatch)
    for smooth in (False, True):
        draw_overlay(film(300, 300), one_hot(0, 0, side=side), GEOMETRY, smooth=smooth)
        assert f"{side} x {side} cells" in " ".join(pen.words)
        pen.texts.clear()


# --- files


def test_large_films_are_shown_smaller_and_small_ones_larger_by_a_whole_factor() -> None:
    assert fitted(film(2300, 1900)).shape == (LONG_SIDE, 846)
    small = film(90, 110)
    assert np.array_equal(fitted(small)[::4, ::4], small)
    same = film(600, 500)
    assert fitted(same) is same


def test_overlays_are_named_by_pseudonym_and_marked_as_ours(tmp_path: Path) -> None:
    image = scored("JANE DOE.dcm")
    assert image.heat is not None
    image.scores = dict(zip(("a:b", "../up", "c", "d", "e"), image.scores.values(), strict=True))
    paths = write_overlays([study(1, image)], GEOMETRY, tmp_path / "new")
    assert [path.name for path in paths][:2] == [
        "study-1_image-1_a-b.png",
        "study-1_image-1_..-up.png",
    ]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    with Image.open(paths[0]) as picture:
        assert picture.info["Software"] == "tier-infer"
        assert picture.info["Comment"] == NOTICE
        assert "JANE" not in str(picture.info)
    assert b"tEXtSoftware\x00tier-infer" in paths[0].read_bytes()[:200]


def test_pixels_that_may_hold_a_name_are_copied_only_when_allowed(tmp_path: Path) -> None:
    """PS3.15 E.3.1."""
    studies = [study(1, scored("a.dcm", "burned_in_annotation"))]
    assert write_overlays(studies, GEOMETRY, tmp_path / "a") == []
    allowed = write_overlays(studies, GEOMETRY, tmp_path / "b", allow_burned_in=True)
    assert len(allowed) == len(LABELS)


def test_the_same_input_gives_the_same_bytes() -> None:
    pictures = [to_png(draw_overlay(film(), one_hot(2, 2), GEOMETRY, label="x")) for _ in (0, 1)]
    assert pictures[0] == pictures[1]
    with Image.open(io.BytesIO(pictures[0])) as picture:
        assert picture.mode == "RGB"
