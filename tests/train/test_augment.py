"""python -m pytest tests/train/test_augment.py -- training-time crops against slicing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tier_infer.geometry import GEOMETRIES
from tier_train.augment import augment
from tier_train.recipe import recipe_from

torch.set_num_threads(1)
SMALL = GEOMETRIES["small-112"]
STILL = {"rotate": 0.0, "zoom": 0.0, "brightness": 0.0, "contrast": 0.0}


def _squares(count: int, size: int = 128) -> Tensor:
    rng = torch.Generator().manual_seed(9)
    return torch.randint(0, 256, (count, size, size), generator=rng, dtype=torch.uint8)


def _augmented(squares: Tensor, seed: int = 0, **changes: float) -> Tensor:
    return augment(
        squares, SMALL, recipe_from(STILL | changes), torch.Generator().manual_seed(seed)
    )


def _offset(crop: Tensor, square: Tensor, size: int) -> tuple[int, int]:
    """Where `crop` was cut, to the bit once rounded; the only place that fits."""
    span = square.shape[0] - size + 1
    fits = [
        (top, left)
        for top in range(span)
        for left in range(span)
        if torch.equal(crop[:3].round(), square[top : top + 3, left : left + size].float())
    ]
    (top, left) = fits[0]
    assert len(fits) == 1
    exact = square[top : top + size, left : left + size].float()
    assert (crop - exact).abs().max() < 0.01  # grid_sample's float32 coordinates
    return top, left


@pytest.mark.parametrize("preset", sorted(GEOMETRIES))
def test_without_rotation_and_zoom_it_is_a_crop(preset: str) -> None:
    geometry = GEOMETRIES[preset]
    squares = _squares(12, geometry.resize)
    rng = torch.Generator().manual_seed(0)
    crops = augment(squares, geometry, recipe_from(STILL), rng)
    assert crops.shape == (12, geometry.crop, geometry.crop)
    assert crops.dtype == torch.float32
    pairs = zip(crops, squares, strict=True)
    assert len({_offset(crop, square, geometry.crop) for crop, square in pairs}) > 6


def test_shifts_reach_every_margin_and_no_further() -> None:
    ramp = torch.arange(128, dtype=torch.uint8)
    across = _augmented(ramp.expand(2000, 128, 128)).round()
    assert sorted(set(across[:, 0, 0].tolist())) == list(range(17))
    down = _augmented(ramp[:, None].expand(2000, 128, 128)).round()
    assert sorted(set(down[:, 0, 0].tolist())) == list(range(17))


def test_the_generator_decides_everything() -> None:
    squares = _squares(4)
    varied = {"rotate": 8.0, "zoom": 0.1, "brightness": 0.1, "contrast": 0.2}
    torch.manual_seed(0)
    first = _augmented(squares, 3, **varied)
    torch.manual_seed(1)
    assert torch.equal(first, _augmented(squares, 3, **varied))
    assert not torch.equal(first, _augmented(squares, 4, **varied))


def test_values_stay_grey_levels() -> None:
    out = _augmented(_squares(32), brightness=0.5, contrast=0.9, rotate=20.0, zoom=0.3)
    assert out.min() >= 0
    assert out.max() <= 255
    assert torch.isfinite(out).all()


def test_brightness_and_contrast_stay_in_their_range() -> None:
    grey = torch.full((500, 128, 128), 100, dtype=torch.uint8)
    shifts = _augmented(grey, brightness=0.1)[:, 50, 50] - 100
    assert shifts.abs().max() <= 25.5 + 1e-3
    assert shifts.min() < -20
    assert shifts.max() > 20
    factors = (_augmented(grey, contrast=0.2)[:, 50, 50] - 127.5) / (100 - 127.5)
    assert (factors - 1).abs().max() <= 0.2 + 1e-4
    assert factors.min() < 0.85
    assert factors.max() > 1.15


def test_nothing_is_mirrored() -> None:
    squares = torch.zeros(64, 128, 128, dtype=torch.uint8)
    squares[:, 20:50, 20:50] = 255  # upper left: the patient's right
    out = _augmented(squares, rotate=8.0, zoom=0.1)
    assert (out[:, :56, :56].mean((1, 2)) > 20).all()
    assert (out[:, 64:, :].amax((1, 2)) == 0).all()
    assert (out[:, :, 64:].amax((1, 2)) == 0).all()


def test_one_zoom_stretches_both_directions() -> None:
    squares = torch.zeros(64, 128, 128, dtype=torch.uint8)
    squares[:, 49:79, 49:79] = 255
    bright = _augmented(squares, zoom=0.2) > 127
    heights, widths = bright.any(2).sum(1), bright.any(1).sum(1)
    assert (heights - widths).abs().max() <= 1
    assert widths.min() < 28 < 33 < widths.max()
