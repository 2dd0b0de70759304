"""python -m pytest tests/train/test_augment.py -- training-time crops against slicing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tier_infer.geometry import GEOMETRIES
from tier_train.augment import augment
from tier_train.recipe import Recipe

torch.set_num_threads(1)
SMALL = GEOMETRIES["small-112"]
STILL: dict[str, Any] = {"rotate": 0.0, "zoom": 0.0, "brightness": 0.0, "contrast": 0.0}


def _squares(count: int, size: int = 128) -> Tensor:
    rng = torch.Generator().manual_seed(9)
    return torch.randint(0, 256, (count, size, size), generator=rng, dtype=torch.uint8)


def _augmented(squares: Tensor, seed: int = 0, **changes: float) -> Tensor:
    recipe = Recipe(**STILL | changes)
    return augment([*squares.numpy()], SMALL, recipe, torch.Generator().manual_seed(seed))


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
    crops = augment([*squares.numpy()], geometry, Recipe(**STILL), rng)
    assert crops.shape == (12, geometry.crop, geometry.crop)
    assert crops.dtype == torch.float32
    pairs = zip(crops, squares, strict=True)
    assert len({_offset(crop, square, geometry.crop) for crop, square in pairs}) > (
        6 if geometry.resize > geometry.crop else 0
    )


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


def test_shift_is_what_it_was() -> None:
    """The published figures depend on it: values of the first version, which took whole batches."""
    varied = Recipe(rotate=8.0, zoom=0.1, brightness=0.15, contrast=0.25)
    out = augment([*_squares(6).numpy()], SMALL, varied, torch.Generator().manual_seed(3))
    first = [119.182373046875, 80.20227813720703, 158.35208129882812]
    assert out[0, 0, :3].tolist() == pytest.approx(first, abs=1e-3)
    assert out[5, 50, 50].item() == pytest.approx(85.96197509765625, abs=1e-3)
    assert out.sum(dtype=torch.float64).item() == pytest.approx(8020194.626382828, rel=1e-6)


def test_shift_takes_the_centre_square() -> None:
    wide = _squares(1, 180)[0].numpy()[:128]  # [128, 180]
    rng = [torch.Generator().manual_seed(1) for _ in range(2)]
    whole = augment([wide], SMALL, Recipe(), rng[0])
    square = augment([wide[:, 26:154]], SMALL, Recipe(), rng[1])
    assert torch.equal(whole, square)
