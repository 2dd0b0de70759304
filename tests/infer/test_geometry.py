"""python -m pytest tests/infer/test_geometry.py -- resize, centre crop, and the way back."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from tier_infer.errors import NotEvaluated
from tier_infer.geometry import (
    GEOMETRIES,
    GRID,
    Geometry,
    center_crop,
    crop_box,
    resize_short_side,
    to_crop,
)
from tier_infer.scoring import cell_boxes

PRESETS = sorted(GEOMETRIES.values(), key=lambda g: g.name)
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
    "small-112": "0aa1f6859a85001d49be207581e3a73c6fd16aa27ed6b9fcf75c72fea923abd5",
    "tier-224-imagenet": "d4baa0aa033301462581ad1816884f154f10e3316f88e8b3c3482e4ed76bc428",
}


def waves(height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [height, width] from integer arithmetic alone: equal on every machine."""
    y, x = np.mgrid[:height, :width]
    return ((x * x // 97 + y * 3 + x * y // 41) % 256).astype(np.uint8)


@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_follow_torchvision(shape: tuple[int, int], geometry: Geometry) -> None:
    """torchvision Resize(int): short side exact, long side int(size * long / short)."""
    size, short, long = geometry.resize, min(shape), max(shape)
    other = int(size * long / short)
    want = (other, size) if shape[0] > shape[1] else (size, other)
    resized = resize_short_side(waves(*shape), size)
    assert resized.dtype == np.uint8
    assert resized.shape == want
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
    with pytest.raises(NotEvaluated, match=f"{shape[1]} x {shape[0]} pixels") as caught:
        to_crop(np.zeros(shape, np.uint8), PRESETS[0])
    assert caught.value.reason == "aspect_ratio"


@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
def test_crop_box_of_a_square_is_its_middle(geometry: Geometry) -> None:
    margin = (geometry.resize - geometry.crop) / 2 / geometry.resize * 1000
    box = crop_box(1000, 1000, geometry)
    assert box == pytest.approx((margin, margin, 1000 - margin, 1000 - margin))


@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_crop_box_lies_inside_the_picture(shape: tuple[int, int], geometry: Geometry) -> None:
    height, width = shape
    left, top, right, bottom = crop_box(height, width, geometry)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert crop_box(width, height, geometry) == pytest.approx((top, left, bottom, right))


@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_cell_boxes_tile_the_crop(shape: tuple[int, int], geometry: Geometry) -> None:
    boxes = cell_boxes(*shape, geometry)
    left, top, right, bottom = crop_box(*shape, geometry)
    assert boxes.shape == (GRID, GRID, 4)
    assert boxes[0, 0, :2] == pytest.approx((left, top))
    assert boxes[-1, -1, 2:] == pytest.approx((right, bottom))
    assert np.allclose(boxes[:, :-1, 2], boxes[:, 1:, 0])  # right edge meets the next left edge
    assert np.allclose(boxes[:-1, :, 3], boxes[1:, :, 1])


@pytest.mark.parametrize("geometry", PRESETS, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", [(1700, 1300), (1300, 1700), (1500, 1500), (2000, 900)], ids=str)
@pytest.mark.parametrize("cell", [(0, 0), (0, 6), (6, 0), (6, 6), (3, 3), (2, 5)], ids=str)
def test_a_square_painted_at_a_cell_lights_up_that_cell_alone(
    cell: tuple[int, int], shape: tuple[int, int], geometry: Geometry
) -> None:
    left, top, right, bottom = cell_boxes(*shape, geometry)[cell]
    picture = np.zeros(shape, np.uint8)
    picture[round(top) : round(bottom), round(left) : round(right)] = 255
    side = geometry.crop // GRID
    crop = to_crop(picture, geometry).reshape(GRID, side, GRID, side)
    light = crop.mean(axis=(1, 3)) / 255  # [7, 7]
    lit = np.zeros((GRID, GRID), bool)
    lit[cell] = True
    assert light[lit] > 0.93
    assert light[~lit].max() < 0.05  # the resize filter spills less than a pixel over the edge
    inside = crop.transpose(0, 2, 1, 3)[cell]
    assert inside[1:-1, 1:-1].min() > 230  # off by one pixel would leave a dark row here
