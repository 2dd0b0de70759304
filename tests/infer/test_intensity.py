"""python -m pytest tests/infer/test_intensity.py -- stored values to 8 bits, against OpenCV."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tier_infer.errors import FailedImage, IntegrityError
from tier_infer.intensity import PRESETS, equalize_hist, looks_equalised, minmax, to_8bit

OPENCV = Path(__file__).parents[1] / "data" / "equalize_opencv.npz"  # made by make_equalize_opencv
with np.load(OPENCV) as _file:
    CASES = {name: _file[name] for name in _file.files}
NAMES = sorted(name.removeprefix("in_") for name in CASES if name.startswith("in_"))


def plain_minmax(stored: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The recipe of MIMIC-CXR-JPG as it is written: float64, one division per pixel, truncated."""
    wide = stored.astype(np.float64)
    wide = wide - wide.min()
    return (wide / wide.max() * 255).astype(np.uint8)


def film(seed: int = 3, size: int = 300) -> NDArray[np.uint8]:
    """uint8 [size, size]: smooth, crowded in the dark greys, nowhere near a flat histogram."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    wave = 0.5 + 0.3 * np.sin(7 * x) * np.cos(5 * y) + 0.02 * rng.standard_normal((size, size))
    return (255 * wave.clip(0, 1) ** 3).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_equalize_hist_equals_opencv(name: str) -> None:
    grey = CASES[f"in_{name}"]
    before = grey.copy()
    got = equalize_hist(grey)
    assert got.dtype == np.uint8
    assert np.array_equal(got, CASES[f"out_{name}"])
    assert np.array_equal(grey, before)


def test_the_fixture_can_tell_pillow_from_opencv() -> None:
    grey = CASES["in_lungs"]
    pillow = np.asarray(ImageOps.equalize(Image.fromarray(grey)))
    assert not np.array_equal(pillow, CASES["out_lungs"])


def test_equalize_hist_takes_a_view() -> None:
    grey = CASES["in_lungs"]
    assert np.array_equal(equalize_hist(grey[:, ::-1]), CASES["out_lungs"][:, ::-1])
    assert np.array_equal(equalize_hist(grey.T), CASES["out_lungs"].T)


@pytest.mark.parametrize("shape", [(2, 3), (9, 11), (64, 80), (300, 300)])
@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.uint8, 0, 255),
        (np.uint16, 0, 4095),
        (np.uint16, 13, 4000),
        (np.uint16, 0, 16383),
        (np.uint16, 0, 65535),
        (np.int16, -2048, 2047),
        (np.int16, -32768, 32767),
        (np.int16, -32768, -32760),
        (np.int32, -70000, 70000),
    ],
)
def test_minmax_equals_the_plain_formula(
    dtype: type[np.integer], low: int, high: int, shape: tuple[int, int]
) -> None:
    stored = np.random.default_rng(abs(high)).integers(low, high + 1, shape).astype(dtype)
    stored.flat[0], stored.flat[-1] = low, high
    got = minmax(stored)
    assert got.dtype == np.uint8
    assert got.shape == shape
    assert np.array_equal(got, plain_minmax(stored))
    assert (got.min(), got.max()) == (0, 255)


@pytest.mark.parametrize("bits", [1, 8, 12, 14, 16])
def test_the_table_and_the_direct_path_agree(bits: int) -> None:
    """Every value of `bits` bits, as uint16 (table, once it's repeated) and int32 (direct)."""
    every = np.arange(2**bits, dtype=np.uint16)[None].repeat(3, axis=0)
    direct = minmax(every.astype(np.int32))
    assert np.array_equal(minmax(every), direct)  # more pixels than levels: the table
    assert np.array_equal(minmax(every[:1]), direct[:1])  # as many pixels as levels: no table
    assert np.array_equal(direct[0], plain_minmax(every)[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_rescaling_with_a_positive_slope_changes_nothing_visible(preset: str) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.int16)
    assert np.array_equal(to_8bit(stored, preset, False), to_8bit(stored - 1024, preset, False))


def test_inversion_comes_after_truncation() -> None:
    stored = np.array([[0, 1, 2, 3, 1000]], dtype=np.uint16)
    first = 255 - plain_minmax(stored)
    other = plain_minmax(1000 - stored.astype(np.int32))  # truncates towards the other end
    assert not np.array_equal(first, other)
    assert np.array_equal(to_8bit(stored, "minmax", inverted=True), first)


def test_mimic_jpg_inverts_then_equalises() -> None:
    stored = (film().astype(np.uint16) + 5) * 11
    grey = 255 - plain_minmax(stored)
    assert np.array_equal(to_8bit(stored, "mimic-jpg", inverted=True), equalize_hist(grey))
    assert np.array_equal(to_8bit(stored, "mimic-jpg", False), equalize_hist(plain_minmax(stored)))
    assert not np.array_equal(equalize_hist(grey), 255 - equalize_hist(255 - grey))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_picture_is_refused(preset: str, value: int) -> None:
    with pytest.raises(FailedImage, match="same value") as caught:
        to_8bit(np.full((5, 5), value, np.uint16), preset, inverted=False)
    assert caught.value.reason == "constant_image"


@pytest.mark.parametrize("preset", ["", "voi", "MINMAX", "mimic_jpg"])
def test_an_unknown_preset_is_refused_before_any_work(preset: str) -> None:
    with pytest.raises(IntegrityError, match="allowed: mimic-jpg, minmax") as caught:
        to_8bit(np.zeros((2, 2), np.uint16), preset, inverted=False)
    assert caught.value.exit_code == 4


def jpeg(grey: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("seed", range(4))
def test_looks_equalised_tells_equalised_from_scaled(seed: int) -> None:
    grey = film(seed)
    flat = equalize_hist(grey)
    assert looks_equalised(flat)
    assert looks_equalised(255 - flat)
    for quality in (75, 95):
        assert looks_equalised(jpeg(flat, quality))
    assert not looks_equalised(grey)
    assert not looks_equalised(255 - grey)
    assert not looks_equalised(jpeg(grey, 95))


def test_looks_equalised_with_a_black_frame() -> None:
    assert looks_equalised(equalize_hist(np.pad(film(), 40)))
    assert not looks_equalised(np.pad(film(), 40))


@pytest.mark.parametrize("value", [128, 255])
def test_a_flat_picture_does_not_look_equalised(value: int) -> None:
    assert not looks_equalised(np.full((20, 20), value, np.uint8))
