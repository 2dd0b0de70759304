"""python -m pytest tests/infer/test_geometry.py -- resize, centre crop, and the way back."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.data.make_medclip_crops import waves
from tests.infer.tiny_bundle import parts
from tier_infer.cells import cell_boxes, cells_in_image, clipped
from tier_infer.errors import NotEvaluated
from tier_infer.geometry import (
    GEOMETRIES,
    Geometry,
    center_crop,
    crop_box,
    resize_short_side,
    resized,
    to_crop,
)

PRESETS = sorted(GEOMETRIES.values(), key=lambda g: g.name)
SHORT = [g for g in PRESETS if g.rule == "short-side"]
FRAMED = [g for g in PRESETS if g not in SHORT]
SHAPES = [
    (1024, 1024),  # square
    (1187, 931),  # portrait
    (931, 1187),  # landscape
    (256, 256),  # exactly the short side
    (256, 300),
    (300, 256),
    (400, 100),  # as long as a picture may be
    (37, 53),  # tiny, enlarged
    (1, 1),
    (2, 3),
]
GOLDEN = {  # a Pillow that resizes otherwise breaks parity with every trained checkpoint
    "biovil-480-raw": "b37f967579cb5dd49d0299701b671c29b6a6285e53476e0f539598ac4e6782ca",
    "biovil-t-448-raw": "64928854e8fdc7cc1b2b32f40b56546b467c86cdf5561fe3ed21fbb2e4941a8b",
    "chexzero-320pad-224": "4c321207705f18d578de136b46b568c644ec41a7abf56f12b7fc2cb1ae6e3a10",
    "medclip-224": "1ca9af820fb6c040d90db0400b151afbe8a33ec3bf46bd275ea60219afd619ee",
    "small-112": "0aa1f6859a85001d49be207581e3a73c6fd16aa27ed6b9fcf75c72fea923abd5",
    "tier-224-imagenet": "d4baa0aa033301462581ad1816884f154f10e3316f88e8b3c3482e4ed76bc428",
}


@pytest.mark.parametrize("geometry", SHORT, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_follow_torchvision(shape: tuple[int, int], geometry: Geometry) -> None:
    """torchvision Resize(int): short side exact, long side int(size * long / short)."""
    size, short, long = geometry.resize, min(shape), max(shape)
    other = int(size * long / short)
    want = (other, size) if shape[0] > shape[1] else (size, other)
    for found in (resize_short_side(waves(*shape), size), resized(waves(*shape), geometry)):
        assert found.dtype == np.uint8
        assert found.shape == want
    crop = to_crop(waves(*shape), geometry)
    assert crop.dtype == np.uint8
    assert crop.shape == (geometry.crop, geometry.crop)
    assert crop.flags["C_CONTIGUOUS"]


def test_the_long_side_is_truncated_not_rounded() -> None:
    assert resize_short_side(waves(100, 199), 128).shape == (128, 254)  # 254.72
    assert resize_short_side(waves(199, 100), 128).shape == (254, 128)


@pytest.mark.parametrize("shape", [(256, 256), (256, 400), (400, 256)])
def test_an_exact_short_side_is_left_untouched(shape: tuple[int, int]) -> None:
    assert np.array_equal(resize_short_side(waves(*shape), 256), waves(*shape))


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [
        (224, 224, 0, 0),
        (256, 256, 16, 16),
        (256, 225, 16, 0),  # 0.5 goes to the even neighbour, as int(round()) does in torchvision
        (256, 227, 16, 2),  # 1.5
        (229, 301, 2, 38),  # 2.5 and 38.5
        (226, 226, 1, 1),
    ],
)
def test_crop_offsets_follow_torchvision(height: int, width: int, top: int, left: int) -> None:
    assert (top, left) == (round((height - 224) / 2.0), round((width - 224) / 2.0))
    picture = waves(height, width)
    expected = picture[top : top + 224, left : left + 224]
    assert np.array_equal(center_crop(picture, 224), expected)


@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
def test_a_crop_has_the_pixels_it_always_had(geometry: Geometry) -> None:
    crops = [to_crop(waves(h, w), geometry) for h, w in ((613, 509), (430, 777), (61, 50))]
    digest = hashlib.sha256(b"".join(crop.tobytes() for crop in crops)).hexdigest()
    assert digest == GOLDEN[geometry.name]


@pytest.mark.parametrize("shape", [(401, 100), (100, 401), (1, 5), (5, 1), (1, 60000)])
def test_a_strip_is_refused(shape: tuple[int, int]) -> None:
    for geometry in PRESETS:
        with pytest.raises(NotEvaluated, match=f"{shape[1]} x {shape[0]} pixels") as caught:
            to_crop(np.zeros(shape, np.uint8), geometry)
        assert caught.value.reason == "aspect_ratio"


@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
def test_crop_box_of_a_square_is_its_middle(geometry: Geometry) -> None:
    margin = (geometry.resize - geometry.crop) / 2 / geometry.resize * 1000
    box = crop_box(1000, 1000, geometry)
    assert box == pytest.approx((margin, margin, 1000 - margin, 1000 - margin))


@pytest.mark.parametrize("geometry", SHORT, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_crop_box_lies_inside_the_picture(shape: tuple[int, int], geometry: Geometry) -> None:
    height, width = shape
    left, top, right, bottom = crop_box(height, width, geometry)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert crop_box(width, height, geometry) == pytest.approx((top, left, bottom, right))


@pytest.mark.parametrize("geometry", FRAMED, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", [*SHAPES[:3], (2139, 1700), (100, 61), (400, 100)], ids=str)
def test_crop_box_of_a_framed_picture_holds_all_of_it(
    shape: tuple[int, int], geometry: Geometry
) -> None:
    height, width = shape
    box = crop_box(height, width, geometry)
    left, top, right, bottom = box
    assert left <= 0
    assert top <= 0
    assert right >= width
    assert bottom >= height
    across, down = right - left, bottom - top
    assert across == pytest.approx(down, rel=0.01)  # sides were truncated to whole pixels
    assert clipped(np.array([box]), height, width).tolist() == [[0, 0, width, height]]


@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
@pytest.mark.parametrize("cells", [1, 7, 15])
def test_cell_boxes_tile_the_crop(cells: int, shape: tuple[int, int], geometry: Geometry) -> None:
    boxes = cell_boxes(*shape, geometry, cells)
    left, top, right, bottom = crop_box(*shape, geometry)
    assert boxes.shape == (cells, cells, 4)
    assert boxes[0, 0, :2] == pytest.approx((left, top))
    assert boxes[-1, -1, 2:] == pytest.approx((right, bottom))
    assert np.allclose(boxes[:, :-1, 2], boxes[:, 1:, 0])  # right edge meets the next left edge
    assert np.allclose(boxes[:-1, :, 3], boxes[1:, :, 1])


LARGE = [(1700, 1300), (1300, 1700), (1500, 1500), (2139, 900)]


@pytest.mark.parametrize("cells", [7, 14, 15])
@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_a_square_painted_at_a_cell_lights_up_that_cell_alone(
    shape: tuple[int, int], geometry: Geometry, cells: int
) -> None:
    """Corners, an edge, the middle: what the network averages there is bright, and nothing else.

    Where a black frame takes part of a cell, it is as bright as its share of film.
    """
    last, middle = cells - 1, cells // 2
    a = parts(cells, geometry.crop)
    for cell in ((0, 0), (0, last), (last, 0), (last, last), (middle, middle), (middle - 1, 1)):
        box = cell_boxes(*shape, geometry, cells)[cell]
        left, top, right, bottom = clipped(box, *shape)
        share = (right - left) * (bottom - top) / ((box[2] - box[0]) * (box[3] - box[1]))
        picture = np.zeros(shape, np.uint8)
        picture[round(top) : round(bottom), round(left) : round(right)] = 255
        crop = to_crop(picture, geometry).astype(np.float32) / 255
        light = a @ crop @ a.T  # [cells, cells]
        pixels = geometry.crop / cells  # side of a cell; a filter blurs about one of them
        assert light[cell] == pytest.approx(share, abs=1.2 / pixels)
        assert light.sum() == pytest.approx(share, abs=1.5 / pixels)  # and the rest is dark
        if share == 1:
            rows, columns = (
                slice(round(i * pixels) + 2, round((i + 1) * pixels) - 2) for i in cell
            )
            assert crop[rows, columns].min() > 0.9  # off by a pixel, and a row here is dark
        assert np.isfinite(cells_in_image(light, shape, geometry)[cell]) == (share > 0)


@pytest.mark.parametrize("geometry", FRAMED, ids=lambda g: g.name)
def test_cells_of_the_frame_are_known(geometry: Geometry) -> None:
    """A film twice as high as wide: three and a half of seven columns show it."""
    shown = cells_in_image(np.ones((7, 7), np.float32), (1600, 800), geometry)
    assert np.isfinite(shown).all(axis=0).tolist() == [False, *[True] * 5, False]
    assert np.isnan(shown[:, [0, 6]]).all()
    whole = cells_in_image(np.ones((7, 7), np.float32), (900, 900), geometry)
    assert np.isfinite(whole).all()
