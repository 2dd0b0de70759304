"""python -m pytest tests/infer/test_intensity.py -- stored values to 8 bits, against OpenCV."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tier_infer.errors import FailedImage, IntegrityError
from tier_infer.grayscale import Grayscale, Lut, Window
from tier_infer.intensity import (
    PRESETS,
    count_levels,
    equalize_hist,
    has_outliers,
    looks_equalised,
    minmax,
    to_8bit,
)

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
@pytest.mark.parametrize("slope", [1.0, 2.5])
def test_where_the_zero_of_stored_values_lies_is_not_seen(preset: str, slope: float) -> None:
    """Signed values with an intercept show the picture of the unsigned ones."""
    stored = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.int16)
    shifted = Grayscale(slope, 1024 * slope)
    assert np.array_equal(
        to_8bit(stored, preset, Grayscale(slope)), to_8bit(stored - 1024, preset, shifted)
    )


def test_chexpert_jpg_is_scaled_by_its_maximum_then_equalised() -> None:
    """convertScaleAbs(x, alpha=255/max): the darkest level stays where it is."""
    stored = (film().astype(np.uint16) + 1000) * 3
    scaled = np.rint(stored.astype(np.float32) * np.float32(255 / stored.max())).astype(np.uint8)
    assert scaled.min() > 100
    assert np.array_equal(to_8bit(stored, "chexpert-jpg"), equalize_hist(scaled))
    inverted = to_8bit(stored, "chexpert-jpg", Grayscale(monochrome1=True))
    assert np.array_equal(inverted, equalize_hist(255 - scaled))


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_chexpert_jpg_refuses_negative_values(slope: float) -> None:
    stored = film().astype(np.int16) - 100
    with pytest.raises(FailedImage, match="negative values") as caught:
        to_8bit(stored, "chexpert-jpg", Grayscale(slope))
    assert caught.value.reason == "pixel_module"


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_voi_shows_the_window_and_inverts_after_it() -> None:
    """PS3.4 N.2.1: modality, then VOI, then polarity."""
    window = Window(1000.0, 501.0, "LINEAR")  # y = (x - 999.5) / 500 + 0.5
    for slope, intercept in ((1.0, 0.0), (2.0, -500.0), (-1.0, 3000.0)):
        values = RAMP * slope + intercept
        want = np.rint(((values - 999.5) / 500 + 0.5).clip(0, 1) * 255)
        grey = Grayscale(slope, intercept, voi=window)
        assert np.array_equal(to_8bit(RAMP, "voi", grey), want)
        grey = Grayscale(slope, intercept, voi=window, monochrome1=True)
        assert np.abs(to_8bit(RAMP, "voi", grey) - (255 - want)).max() <= 1


@pytest.mark.parametrize(
    ("slope", "monochrome1", "rising"),
    [(1.0, False, True), (1.0, True, False), (-1.0, False, False), (-1.0, True, True)],
)
@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_has_the_same_polarity(
    preset: str, slope: float, monochrome1: bool, rising: bool
) -> None:
    grey = to_8bit(RAMP, preset, Grayscale(slope, 0.0, monochrome1=monochrome1)).astype(int)
    assert np.corrcoef(grey.ravel(), RAMP.ravel())[0, 1] * (1 if rising else -1) > 0.99


def test_a_modality_lut_counts_under_every_preset() -> None:
    falling = Lut(0, np.arange(4095, -1, -1, dtype=np.float64), 12)
    for preset in PRESETS:
        got = to_8bit(RAMP, preset, Grayscale(modality_lut=falling))
        assert np.array_equal(got, to_8bit(4095 - RAMP, preset))


def test_an_inverting_voi_lut_needs_the_preset_voi() -> None:
    falling = Lut(0, np.arange(4095, -1, -1, dtype=np.float64), 12)
    grey = Grayscale(voi=falling)
    assert np.array_equal(to_8bit(RAMP, "voi", grey), to_8bit(4095 - RAMP, "voi"))
    for preset in PRESETS[:3]:
        with pytest.raises(FailedImage, match="turns black into white") as caught:
            to_8bit(RAMP, preset, grey)
        assert caught.value.reason == "voi_lut"


def test_a_broken_window_matters_where_a_window_is_used() -> None:
    grey = Grayscale(voi=FailedImage("window", "broken"))
    for preset in PRESETS[:3]:
        assert np.ptp(to_8bit(RAMP, preset, grey)) == 255
    with pytest.raises(FailedImage, match="broken") as caught:
        to_8bit(RAMP, "voi", grey)
    assert caught.value.reason == "window"


@pytest.mark.parametrize("center", [-9000.0, 9000.0])
def test_a_window_beside_the_picture_leaves_no_picture(center: float) -> None:
    with pytest.raises(FailedImage, match="same grey") as caught:
        to_8bit(RAMP, "voi", Grayscale(voi=Window(center, 100.0, "LINEAR")))
    assert caught.value.reason == "constant_image"


ODD_RESCALES = [(1e-20, 1000.0), (1e308, 0.0), (-1e308, 1e308), (1.0, 1e300), (1e-320, 1e10)]
ODD_WINDOWS = [
    (100.0, 1e-310, "LINEAR_EXACT"),
    (100.0, 1e-310, "SIGMOID"),
    (1e308, 1e-3, "SIGMOID"),
    (-1e308, 1e308, "LINEAR"),
    (100.0, -4.0, "SIGMOID"),
    (100.0, 0.5, "LINEAR"),
    (100.0, 50.0, "CUBIC"),
]


@pytest.mark.parametrize(("slope", "intercept"), ODD_RESCALES)
def test_a_rescale_beyond_reason_is_refused(slope: float, intercept: float) -> None:
    with pytest.raises(FailedImage) as caught:
        Grayscale(slope, intercept)
    assert caught.value.reason == "rescale"


@pytest.mark.parametrize(("center", "width", "function"), ODD_WINDOWS)
def test_a_window_beyond_reason_is_refused(center: float, width: float, function: str) -> None:
    with pytest.raises(FailedImage) as caught:
        Window(center, width, function)
    assert caught.value.reason == "window"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("slope", [1e-6, -1e-6, 1e6, -1e6])
@pytest.mark.parametrize("intercept", [0.0, 1e6, -1e6])
@pytest.mark.parametrize("width", [None, 1e-6, 1e6])
def test_finite_but_odd_numbers_end_in_a_picture_or_a_refusal(
    slope: float, intercept: float, width: float | None, preset: str
) -> None:
    """Warnings are errors here: no overflow, no NaN that a cast would turn into some grey."""
    voi = None if width is None else Window(100.0, width, "SIGMOID")
    for stored in (RAMP, RAMP.astype(np.int16) - 2048):
        with contextlib.suppress(FailedImage):
            assert np.ptp(to_8bit(stored, preset, Grayscale(slope, intercept, voi=voi))) > 0


def test_outliers() -> None:
    rng = np.random.default_rng(2)
    stored = rng.normal(2000, 200, (200, 200)).astype(np.uint16)
    assert not has_outliers(count_levels(stored))
    stored[0, :5] = 65535
    assert has_outliers(count_levels(stored))
    mask = stored == 65535
    assert not has_outliers(count_levels(stored, mask))


def test_pixels_that_span_more_than_any_radiograph_are_refused() -> None:
    with pytest.raises(FailedImage, match="more levels") as caught:
        minmax(np.array([[0, 2**31 - 1]], np.int32))
    assert caught.value.reason == "pixel_module"


def test_inversion_comes_after_truncation() -> None:
    stored = np.array([[0, 1, 2, 3, 1000]], dtype=np.uint16)
    first = 255 - plain_minmax(stored)
    other = plain_minmax(1000 - stored.astype(np.int32))  # truncates towards the other end
    assert not np.array_equal(first, other)
    assert np.array_equal(to_8bit(stored, "minmax", Grayscale(monochrome1=True)), first)


def test_mimic_jpg_inverts_then_equalises() -> None:
    stored = (film().astype(np.uint16) + 5) * 11
    grey = 255 - plain_minmax(stored)
    inverted = to_8bit(stored, "mimic-jpg", Grayscale(monochrome1=True))
    assert np.array_equal(inverted, equalize_hist(grey))
    assert np.array_equal(to_8bit(stored, "mimic-jpg"), equalize_hist(plain_minmax(stored)))
    assert not np.array_equal(equalize_hist(grey), 255 - equalize_hist(255 - grey))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_picture_is_refused(preset: str, value: int) -> None:
    with pytest.raises(FailedImage, match="same value") as caught:
        to_8bit(np.full((5, 5), value, np.uint16), preset)
    assert caught.value.reason == "constant_image"


@pytest.mark.parametrize("preset", ["", "VOI", "MINMAX", "mimic_jpg"])
def test_an_unknown_preset_is_refused_before_any_work(preset: str) -> None:
    allowed = "allowed: mimic-jpg, chexpert-jpg, minmax, voi"
    with pytest.raises(IntegrityError, match=allowed) as caught:
        to_8bit(np.zeros((2, 2), np.uint16), preset)
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
