"""python -m pytest tests/infer/test_presets_opencv.py -- the 8-bit presets and OpenCV.

The results stand in tests/data/presets_opencv.npz; `make_presets_opencv.py` there wrote them, in an
environment that had OpenCV.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import DATA
from tests.data.make_presets_opencv import films
from tier_infer.errors import FailedImage
from tier_infer.grayscale import Grayscale
from tier_infer.intensity import to_8bit

FILMS = dict(films())


@pytest.fixture(scope="module")
def opencv() -> dict[str, NDArray[np.uint8]]:
    with np.load(DATA / "presets_opencv.npz") as table:
        return {key: table[key] for key in table.files if key != "opencv"}


def test_all_films_are_there(opencv: dict[str, NDArray[np.uint8]]) -> None:
    assert len(opencv) == 4 * len(FILMS) == 84


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("recipe", ["mimic", "chexpert"])
@pytest.mark.parametrize("mono1", [False, True])
def test_equal_to_opencv(
    name: str, recipe: str, mono1: bool, opencv: dict[str, NDArray[np.uint8]]
) -> None:
    """Every pixel, not nearly: the network was trained on exactly these bytes."""
    grey = to_8bit(FILMS[name], f"{recipe}-jpg", Grayscale(monochrome1=mono1))
    assert np.array_equal(grey, opencv[f"{recipe}_{name}" + "_mono1" * mono1])


@pytest.mark.parametrize("name", ["12_1", "14_5", "16_3"])
@pytest.mark.parametrize("recipe", ["mimic", "chexpert"])
def test_a_negative_slope_inverts(
    name: str, recipe: str, opencv: dict[str, NDArray[np.uint8]]
) -> None:
    grey = to_8bit(FILMS[name], f"{recipe}-jpg", Grayscale(slope=-1.0, intercept=4095.0))
    assert np.array_equal(grey, opencv[f"{recipe}_{name}_mono1"])


def test_chexpert_rescales_signed_values_before_they_are_made_absolute(
    opencv: dict[str, NDArray[np.uint8]],
) -> None:
    """convertScaleAbs folds negative values over: the picture must not be made of them."""
    signed = (FILMS["12_1"].astype(np.int32) - 2048).astype(np.int16)
    grey = to_8bit(signed, "chexpert-jpg", Grayscale(intercept=2048.0))
    assert np.array_equal(grey, opencv["chexpert_12_1"])
    with pytest.raises(FailedImage) as refusal:
        to_8bit(signed, "chexpert-jpg")
    assert refusal.value.reason == "pixel_module"
