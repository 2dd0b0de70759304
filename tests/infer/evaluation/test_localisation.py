"""python -m pytest tests/infer/evaluation/test_localisation.py -- planted masks, known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tier_infer.evaluation.localisation import (
    area,
    cells_of_mask,
    chance,
    cnr,
    iou,
    otsu,
    pointing_game,
)
from tier_infer.geometry import GEOMETRIES, to_crop

Cells = NDArray[np.float64]
SHAPES = {
    "portrait": (900, 600),
    "landscape": (500, 800),
    "square": (640, 640),
    "small": (150, 130),
}


def blob(shape: tuple[int, int], row: float, column: float, radius: float) -> NDArray[np.bool_]:
    """A disc; place and radius in parts of the shape."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    size = radius * min(shape)
    return (y + 0.5 - row * height) ** 2 + (x + 0.5 - column * width) ** 2 < size**2


def on_grid(mask: NDArray[np.bool_], name: str, side: int) -> Cells:
    """What the network sees of the mask, averaged over each cell's pixels of the crop: the same
    answer on the other way, through the resize itself."""
    crop = to_crop(mask.astype(np.uint8) * 255, GEOMETRIES[name]).astype(float) / 255
    step = len(crop) // side
    return crop[: step * side, : step * side].reshape(side, step, side, step).mean(axis=(1, 3))


@pytest.mark.parametrize("name", list(GEOMETRIES))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_share_is_what_the_network_sees(name: str, shape: tuple[int, int]) -> None:
    """The rim of the picture aside, where a cell is partly frame and shows less than it holds."""
    side = 8 if name == "chexzero-320pad-224" else 7  # 320 / 8, else crop / 7: whole pixels
    if GEOMETRIES[name].crop % side:
        side = 8
    mask = blob(shape, 0.45, 0.55, 0.2)
    share = cells_of_mask(mask, GEOMETRIES[name], side)
    seen = cells_of_mask(np.ones(shape, bool), GEOMETRIES[name], side)
    np.testing.assert_allclose(seen[~np.isnan(seen)], 1, atol=1e-9)
    np.testing.assert_array_equal(np.isnan(share), np.isnan(seen))
    visible = on_grid(np.ones(shape, bool), name, side)
    whole = visible > 0.999
    assert whole.sum() >= 9
    np.testing.assert_allclose(share[whole], on_grid(mask, name, side)[whole], atol=0.02)


def test_share_counts_cut_pixels_exactly() -> None:
    """600 x 900 to 224 of 256: 525 original pixels of 600, 75 to a cell. One pixel is 1 / 75²."""
    mask = np.zeros((900, 600), bool)
    mask[450, 300] = True
    share = cells_of_mask(mask, GEOMETRIES["tier-224-imagenet"], 7)
    assert share.shape == (7, 7)
    assert share.sum() == pytest.approx(1 / 75**2, abs=1e-12)
    assert share[3, 3] == pytest.approx(1 / 75**2, abs=1e-12)


def test_cells_of_the_frame_alone_are_nan() -> None:
    """400 x 800 on a square of 800: rows 0 and 1, 6 and 7 of 8 show nothing but black."""
    share = cells_of_mask(np.ones((400, 800), bool), GEOMETRIES["medclip-224"], 8)
    assert np.isnan(share[[0, 1, 6, 7]]).all()
    np.testing.assert_allclose(share[2:6], 1)


def test_mask_outside_the_crop_is_not_there() -> None:
    mask = np.zeros((900, 600), bool)
    mask[:30] = True  # the crop begins at row 187
    share = cells_of_mask(mask, GEOMETRIES["tier-224-imagenet"], 7)
    assert share.sum() == 0
    assert pointing_game(np.eye(7), share) is chance(share) is iou(np.eye(7), share, 0.5) is None
    assert cnr(np.eye(7), share) is None
    assert area(share) == 0


@pytest.mark.parametrize("name", list(GEOMETRIES))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize(("row", "column"), [(0.4, 0.35), (0.6, 0.65)])
def test_a_map_on_the_blob_wins_and_its_inverse_loses(
    name: str, shape: tuple[int, int], row: float, column: float
) -> None:
    """Heat as the network would have it: the crop of a bright disc, in cells."""
    mask = blob(shape, row, column, 0.12)
    share = cells_of_mask(mask, GEOMETRIES[name], 8)
    heat = on_grid(mask, name, 8)
    blind = chance(share)
    assert blind is not None
    assert 0 < area(share) < blind < 0.35
    assert pointing_game(heat, share) is True
    assert pointing_game(-heat, share) is False
    threshold = otsu(heat)
    assert threshold is not None
    on = iou(heat, share, threshold)
    off = iou(-heat, share, -threshold - 1e-9)
    assert on is not None
    assert off is not None
    assert on > 0.35 > 0.1 > off  # cells are coarse beside the disc
    contrast = cnr(heat, share)
    assert contrast is not None
    assert contrast > 1.5
    assert cnr(-heat, share) == pytest.approx(contrast)


def test_a_mirrored_map_loses() -> None:
    mask = blob((600, 600), 0.5, 0.25, 0.1)
    share = cells_of_mask(mask, GEOMETRIES["tier-224-imagenet"], 7)
    heat = on_grid(mask, "tier-224-imagenet", 7)
    assert pointing_game(heat, share) is True
    assert pointing_game(heat[:, ::-1], share) is False


def test_blind_maps_win_as_often_as_chance_says() -> None:
    share = cells_of_mask(blob((600, 600), 0.5, 0.4, 0.15), GEOMETRIES["tier-224-imagenet"], 7)
    rng = np.random.default_rng(0)
    won = [pointing_game(rng.random((7, 7)), share) for _ in range(4000)]
    blind = chance(share)
    assert blind is not None
    assert np.mean(np.array(won, float)) == pytest.approx(blind, abs=0.03)
    assert np.mean(np.array(won, float)) > area(share) + 0.05  # the area alone would flatter


def test_of_equally_high_cells_all_must_hold_mask() -> None:
    share = np.array([[1.0, 0.5], [0.0, np.nan]])
    assert pointing_game(np.array([[2.0, 2.0], [1.0, 9.0]]), share) is True  # 9 is in the frame
    assert pointing_game(np.array([[2.0, 1.0], [2.0, 0.0]]), share) is False
    assert pointing_game(np.zeros((2, 2)), share) is False


def test_figures_by_hand() -> None:
    """In: 4 and half of 2, mean 10/3, variance 8/9. Out: half of 2, 1 and 0, mean 0.8, 0.56."""
    cells = np.array([[4.0, 2.0], [1.0, 0.0]])
    share = np.array([[1.0, 0.5], [0.0, 0.0]])
    assert cnr(cells, share) == pytest.approx((10 / 3 - 0.8) / math.sqrt(8 / 9 + 0.56))
    assert iou(cells, share, 1.5) == pytest.approx(1.5 / 2)
    assert iou(cells, share, 2.0) == pytest.approx(1 / 1.5)  # above, not at
    assert iou(cells, share, 9.0) == 0
    assert chance(share) == 0.5
    assert area(share) == 1.5 / 4


def test_cnr_is_that_of_the_pixels() -> None:
    """The map enlarged to pixels, every pixel in or out: the definition."""
    rng = np.random.default_rng(1)
    geometry = GEOMETRIES["tier-224-imagenet"]
    mask, cells = blob((256, 256), 0.4, 0.6, 0.2), rng.random((7, 7))
    inside = mask[16:240, 16:240]
    pixels = np.kron(cells, np.ones((32, 32)))
    a, b = pixels[inside], pixels[~inside]
    expected = abs(a.mean() - b.mean()) / math.sqrt(a.var() + b.var())
    share = cells_of_mask(mask, geometry, 7)
    assert cnr(cells, share) == pytest.approx(expected, abs=1e-9)
    together = (pixels > 0.5) & inside
    either = (pixels > 0.5) | inside
    assert iou(cells, share, 0.5) == pytest.approx(together.sum() / either.sum(), abs=1e-9)


def test_no_contrast_without_noise_or_background() -> None:
    share = np.array([[1.0, 0.0]])
    assert cnr(np.array([[1.0, 0.0]]), share) is None
    assert cnr(np.array([[1.0, 2.0]]), np.ones((1, 2))) is None


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_otsu_is_the_best_of_all_splits(levels: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng([seed, levels])
        cells = rng.integers(0, levels, (7, 7)) / levels - 0.3
        cells[0, 0], cells[6, 6] = -1, 1
        cells[2] = np.nan
        heat = cells[~np.isnan(cells)]

        def within(t: float, heat: Cells = heat) -> float:
            low, high = heat[heat <= t], heat[heat > t]
            return float(len(low) * low.var() + len(high) * high.var())

        found = otsu(cells)
        assert found is not None
        best = min(within(t) for t in np.unique(heat)[:-1])
        assert within(found) == pytest.approx(best, abs=1e-12)
        assert found in heat


def test_otsu_of_two_groups_and_of_none() -> None:
    assert otsu(np.array([[0.0, 0.1], [5.0, 5.1]])) == 0.1
    assert otsu(np.full((3, 3), 0.2)) is None
    assert otsu(np.array([[np.nan, 1.0]])) is None


@pytest.mark.parametrize("figure", [pointing_game, cnr, lambda c, s: iou(c, s, 0)])
def test_maps_that_are_no_maps_are_refused(figure: object) -> None:
    assert callable(figure)
    share = np.array([[1.0, 0.0]])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            figure(np.array([[bad, 0.0]]), share)
    with pytest.raises(ValueError, match="one grid"):
        figure(np.zeros((2, 2)), share)
    with pytest.raises(ValueError, match="visible"):
        figure(np.zeros((1, 2)), np.full((1, 2), np.nan))


def test_masks_that_are_no_masks_are_refused() -> None:
    geometry = GEOMETRIES["tier-224-imagenet"]
    with pytest.raises(ValueError, match="bool"):
        cells_of_mask(np.zeros((9, 9), np.uint8), geometry, 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bool"):
        cells_of_mask(np.zeros((9, 9, 3), bool), geometry, 7)
