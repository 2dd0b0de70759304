"""python -m pytest tests/train/test_augment_paper.py -- the paper's crops against torchvision.

The expected pictures were made by torchvision, which no test needs.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tier_infer.geometry import GEOMETRIES
from tier_train.augment import Change, apply, augment, changed, chosen, draw, random_crop
from tier_train.recipe import Recipe

torch.set_num_threads(1)
SMALL = GEOMETRIES["small-112"]
PAPER = Recipe(augment="paper")
AS_IT_IS = Change(0, 0, 112, 112, 0.0, 0, 0, 1.0, 1.0, 1.0, True)
Picture = NDArray[np.uint8]


def _smooth(height: int, width: int) -> Picture:
    y, x = np.mgrid[:height, :width]
    waves = 70 * np.sin(x / 13) * np.cos(y / 19) + 40 * np.cos((x + 2 * y) / 31)
    return np.asarray(np.round(120 + waves), dtype=np.uint8)


# Drawn and computed by torchvision 0.28 on Pillow pictures, bilinear: _smooth(height, width), what
# its get_params drew, and the result at rows and columns 4, 32, 60, 84 and 107 of 112.
# fmt: off
TORCHVISION: list[tuple[tuple[int, int], Change, list[int]]] = [
    ((150, 128),
     Change(12, 0, 127, 118, -9.4143686, 3, -1, 1.0254371, 1.0098664, 1.0730457, False),
     [0, 95, 48, 131, 157, 58, 72, 211, 129, 82, 106, 128, 179,
      103, 78, 0, 179, 33, 68, 186, 0, 150, 48, 111, 0]),
    ((128, 170),
     Change(4, 16, 122, 115, 4.2718768, 1, -1, 0.9595768, 1.0132916, 0.9560204, True),
     [4, 95, 42, 146, 4, 4, 109, 141, 127, 163, 99, 182, 168,
      63, 122, 185, 92, 83, 103, 85, 4, 4, 100, 193, 4]),
    ((128, 128),
     Change(37, 47, 39, 35, -0.5677128, -5, 3, 1.0243700, 1.1197963, 0.8599364, False),
     [134, 152, 161, 161, 155, 172, 201, 207, 197, 175, 203, 235, 237,
      216, 184, 217, 242, 239, 215, 179, 213, 230, 222, 197, 164]),
    ((128, 180),
     Change(1, 37, 121, 120, 0.2760375, 2, 4, 0.9514089, 1.0722133, 0.8800069, True),
     [13, 13, 13, 13, 13, 13, 104, 140, 162, 157, 13, 220, 85,
      137, 142, 13, 125, 89, 90, 114, 116, 32, 175, 124, 114]),
]
# fmt: on


@pytest.mark.parametrize(("shape", "change", "expected"), TORCHVISION)
def test_a_change_is_that_of_torchvision(
    shape: tuple[int, int], change: Change, expected: list[int]
) -> None:
    places = [4, 32, 60, 84, 107]
    ours = changed(_smooth(*shape), change, 112)[places][:, places].flatten()
    more = ours - torch.tensor(expected)
    # Pillow cuts fractions off after each of three steps, we never do.
    assert more.min() >= -0.5
    assert more.max() <= 3.5
    assert ((ours == 0) == (torch.tensor(expected) == 0)).all()


def test_every_pixel_comes_from_where_the_three_steps_put_it() -> None:
    """Ramps tell where a pixel came from; forwards through the steps it must arrive where it is."""
    change = Change(20, 31, 150, 140, 9.0, 7, -5, 1.04, 1.0, 1.0, True)
    y, x = np.mgrid[:256, :256].astype(np.uint8)
    from_x, from_y = changed(x, change, 224).double(), changed(y, change, 224).double()
    cos, sin = math.cos(math.radians(9)), math.sin(math.radians(9))
    u = (from_x + 0.5 - 31) * 224 / 140 - 112  # from the middle of the resized crop
    v = (from_y + 0.5 - 20) * 224 / 150 - 112
    seen = (u.abs() < 110) & (v.abs() < 110)
    assert seen.double().mean() > 0.8
    # clockwise with y downwards: what lies right of the middle goes down
    to_x = 112 + 7 + 1.04 * (cos * u - sin * v)
    to_y = 112 - 5 + 1.04 * (sin * u + cos * v)
    row, column = torch.meshgrid(torch.arange(224) + 0.5, torch.arange(224) + 0.5, indexing="ij")
    assert (to_x - column)[seen].abs().max() < 0.01
    assert (to_y - row)[seen].abs().max() < 0.01


def test_nothing_beyond_the_crop_is_seen() -> None:
    picture = np.full((128, 160), 255, np.uint8)
    picture[30:90, 40:95] = 0
    change = Change(30, 40, 60, 55, -7.3, 3, 2, 0.95, 1.0, 1.0, True)
    assert not changed(picture, change, 112).any()
    inverse = changed(255 - picture, change, 112)
    assert set(inverse.round().unique().tolist()) == {0.0, 255.0}
    assert 0.8 < (inverse > 0).float().mean() < 0.95**2


def test_the_whole_picture_unchanged_is_itself() -> None:
    picture = _smooth(112, 112)
    expected = torch.from_numpy(picture.astype(np.float32))
    torch.testing.assert_close(changed(picture, AS_IT_IS, 112), expected, rtol=0, atol=1e-3)


def test_jitter_by_hand() -> None:
    picture = np.full((112, 112), 200, np.uint8)
    picture[:56] = 100  # mean 150
    both = {"brightness": 1.2, "contrast": 0.5}
    # 1.2 first: 120 and 240, mean 180; contrast first: 125 and 175
    for first, low, high in ((True, 150, 210), (False, 150, 210)):
        out = changed(picture, AS_IT_IS._replace(brightness_first=first, **both), 112)
        assert out[5, 5].item() == pytest.approx(low, abs=1e-3)
        assert out[99, 5].item() == pytest.approx(high, abs=1e-3)
    # 1.4 first: 140 and 255, as 280 is white, mean 197.5; contrast first: 75 and 225, then 255
    strong = {"brightness": 1.4, "contrast": 1.5}
    for first, low in ((True, 197.5 - 1.5 * 57.5), (False, 1.4 * 75)):
        out = changed(picture, AS_IT_IS._replace(brightness_first=first, **strong), 112)
        assert out[5, 5].item() == pytest.approx(low, abs=1e-2)
        assert out[99, 5].item() == 255


def test_the_first_crop_that_fits_is_taken() -> None:
    tall = [0.999, 0.0, 0.5, 0.5]  # of 100 x 400, width / height 0.9: 190 columns do not fit
    fits = [(0.1 - 0.08) / 0.92, 1.0, 0.5, 0.999]  # a tenth of the area, square: 63 x 63
    chance = [*tall, *fits, *[0.0] * 32]
    assert random_crop(chance, 400, 100) == (int(0.5 * 338), int(0.999 * 38), 63, 63)


@pytest.mark.parametrize(
    ("height", "width", "middle"),
    [(700, 256, (208, 0, 284, 256)), (256, 700, (0, 222, 256, 256))],
)
def test_without_one_the_middle_is_taken(
    height: int, width: int, middle: tuple[int, int, int, int]
) -> None:
    chance = [0.999, 0.5, 0.3, 0.3] * 10
    assert random_crop(chance, height, width) == middle


def test_ranges_are_reached_and_kept() -> None:
    rows = draw(4000, SMALL, PAPER, torch.Generator().manual_seed(0)).tolist()
    changes = [chosen(row, 256, 320, 224) for row in rows]
    area = np.array([c.rows * c.cols / (256 * 320) for c in changes])
    ratio = np.array([c.cols / c.rows for c in changes])
    # a crop of ratio r fits 256 rows up to the area r * 256 * 256, at most 0.8 of 256 x 320
    assert 0.075 < area.min() < 0.09
    assert 0.78 < area.max() <= 0.8
    assert np.quantile(area, 0.5) == pytest.approx(
        0.42, abs=0.015
    )  # uniform between 0.08 and 0.72 to 0.8
    assert 0.88 < ratio.min() < 0.91
    assert 0.99 < ratio.max() < 1.01
    assert min(c.top for c in changes) == min(c.left for c in changes) == 0
    assert max(c.top + c.rows for c in changes) == 256
    assert max(c.left + c.cols for c in changes) == 320
    for name, low, high in (
        ("angle", -10, 10),
        ("right", -11, 11),
        ("down", -11, 11),
        ("scale", 0.95, 1.05),
        ("brightness", 0.8, 1.2),
        ("contrast", 0.8, 1.2),
    ):
        values = np.array([getattr(c, name) for c in changes])
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin, name
        assert high - margin < values.max() <= high, name
        assert values.mean() == pytest.approx((low + high) / 2, abs=2 * margin), name
    assert np.mean([c.brightness_first for c in changes]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("recipe", [PAPER, Recipe(rotate=8.0, zoom=0.1)])
def test_a_process_makes_its_own_rows_of_the_batch(recipe: Recipe) -> None:
    shapes = [(128, 128), (128, 150), (190, 128), (128, 301), (140, 128), (128, 129)]
    pictures = [_smooth(*shape) for shape in shapes]
    pictures[3].setflags(write=False)  # as a memory-mapped cache has them
    whole = augment(pictures, SMALL, recipe, torch.Generator().manual_seed(4))
    assert whole.shape == (6, 112, 112)
    assert whole.dtype == torch.float32
    for part in (slice(0, 2), slice(2, 6)):
        rows = draw(6, SMALL, recipe, torch.Generator().manual_seed(4))[part]
        assert torch.equal(apply(pictures[part], rows, SMALL, recipe), whole[part])
    other = augment(pictures, SMALL, recipe, torch.Generator().manual_seed(5))
    assert not torch.equal(whole, other)
    assert whole.min() >= 0
    assert whole.max() <= 255
