"""python -m pytest tests/infer/test_content.py -- what the pixels say that the header can't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.infer.dicom_files import picture
from tier_infer.content import check_content, fit_pose, load_template, samples, thumbnail
from tier_infer.errors import FailedImage
from tier_infer.intensity import equalize_hist
from tier_train.phantoms.phantom import draw_phantom

FILMS = sorted((Path(__file__).parents[1] / "data" / "nih").glob("*.jpg"))
ALL_FILMS = pytest.mark.parametrize("path", FILMS, ids=lambda path: path.stem)
Grey = NDArray[np.uint8]


def film(path: Path = FILMS[0]) -> Grey:
    return np.asarray(Image.open(path).convert("L"))


def reason(stored: NDArray[np.integer]) -> str:
    with pytest.raises(FailedImage) as refusal:
        check_content(stored)
    return refusal.value.reason


@ALL_FILMS
def test_a_chest_film_passes(path: Path) -> None:
    grey = film(path)
    assert check_content(grey) == []
    assert check_content(equalize_hist(grey)) == []
    assert check_content(np.ascontiguousarray(grey[:, ::-1])) == []  # a mirror image isn't seen


@ALL_FILMS
def test_black_and_white_swapped(path: Path) -> None:
    negative = 255 - film(path)
    assert check_content(negative) == ["polarity_suspect"]
    assert check_content(equalize_hist(negative)) == ["polarity_suspect"]
    assert check_content(negative, inverted=True) == []


@ALL_FILMS
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned(path: Path, turns: int) -> None:
    turned = np.rot90(film(path), turns)
    assert check_content(turned) == ["rotation_suspect"]
    assert check_content(255 - turned) == ["polarity_suspect", "rotation_suspect"]
    fit = fit_pose(thumbnail(samples(turned)[0]))
    assert (fit.turns, fit.swapped) == (turns, False)


@pytest.mark.parametrize("index", range(20))
def test_phantoms_pass(index: int) -> None:
    assert check_content(draw_phantom(0, index).pixels) == []


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32])
def test_any_depth(dtype: type[np.integer]) -> None:
    stored = film().astype(dtype) * 100 - (5000 if np.issubdtype(dtype, np.signedinteger) else 0)
    assert check_content(stored) == []
    assert check_content(stored, inverted=True) == ["polarity_suspect"]


def test_an_outlier_squeezes_nothing() -> None:
    stored = film().astype(np.uint16)  # 8 of 16 bits
    stored[2:4, 3:9] = 65535
    assert check_content(stored) == []
    deep = film().astype(np.uint16) * 16
    deep[2:4, 3:9] = 65535
    assert check_content((deep >> 8).astype(np.uint8)) == []  # 16 grey levels


@pytest.mark.parametrize("level", [0, 255])
def test_a_flat_border_is_left_out(level: int) -> None:
    padded = np.pad(film(), ((60, 20), (30, 50)), constant_values=level)
    assert check_content(padded) == []
    assert check_content(np.rot90(padded)) == ["rotation_suspect"]


def test_a_noisy_border_with_a_letter_is_left_out() -> None:
    padded = np.pad(film(), 40).astype(np.int64)
    padded += np.random.default_rng(0).integers(0, 9, padded.shape)
    padded[8:20, 8:16] = 250
    assert check_content(padded) == []


def test_a_page_of_text_is_no_chest() -> None:
    page = Image.new("L", (300, 380), 250)
    pen = ImageDraw.Draw(page)
    for y in range(10, 370, 12):
        pen.text((12, y), "Findings: clear lungs, no effusion. " * 2, fill=0)
    try:
        found = check_content(np.asarray(page))
    except FailedImage as refusal:  # in a thin font the page is mostly white
        found = [refusal.reason]
    assert found in (["unlike_chest"], ["blank_image"])


def test_patterns_are_no_chest() -> None:
    y, x = np.mgrid[:300, :280]
    rings = np.hypot(y - 60, x - 200)
    patterns = [
        (y // 40 + x // 40) % 2 * 200 + (y + x) // 20,  # checkerboard
        1000 + 900 * np.sin(rings / 6),
        1000 + 900 * np.sin(x / 9 + y / 9),
        y * 7 + x,
        rings * 10,
    ]
    for number, pattern in enumerate(patterns):
        assert check_content(pattern.astype(np.int32)) == ["unlike_chest"], number


def test_a_limb_is_no_chest() -> None:
    image = Image.new("L", (240, 320), 8)
    pen = ImageDraw.Draw(image)
    pen.polygon([(60, 0), (190, 0), (165, 320), (80, 320)], fill=110)
    pen.rectangle((100, 0, 150, 130), fill=210)
    pen.ellipse((80, 110, 170, 165), fill=220)
    pen.ellipse((80, 170, 170, 205), fill=220)
    pen.rectangle((100, 190, 145, 320), fill=205)
    noise = np.random.default_rng(0).integers(0, 12, (320, 240))
    assert check_content(np.asarray(image) + noise) == ["unlike_chest"]


def test_a_piece_of_a_film_is_no_chest() -> None:
    grey = film()
    pieces = [grey[y : y + 70, x : x + 70] for y in range(40, 240, 60) for x in range(40, 240, 60)]
    flagged = sum(check_content(piece) != [] for piece in pieces)
    assert flagged >= 0.8 * len(pieces)


def test_too_small_to_tell() -> None:
    assert check_content(np.arange(49, dtype=np.uint8).reshape(7, 7)) == ["unlike_chest"]
    check_content(picture(8, 9))
    assert reason(np.full((1, 1), 7, np.uint8)) == "constant_image"


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("size", [(40, 36), (36, 40), (128, 96), (700, 900)])
def test_a_noisy_drawing_is_a_picture(bits: int, size: tuple[int, int]) -> None:
    check_content(picture(*size, bits=bits))  # flagged perhaps, not refused


def test_constant() -> None:
    assert reason(np.full((50, 60), 7, np.int16)) == "constant_image"


def test_blank() -> None:
    rng = np.random.default_rng(0)
    dot = np.zeros((600, 500), np.uint16)
    dot[3, 3] = 4095  # between the samples
    assert reason(dot) == "blank_image"
    assert reason(rng.integers(100, 102, (60, 50))) == "blank_image"  # two neighbouring levels
    mostly = np.zeros((300, 280), np.uint16)
    mostly[:80, :80] = film()[:80, :80]
    assert reason(mostly) == "blank_image"
    assert reason(film() // 64) == "blank_image"  # four levels


def test_half_black_is_not_blank() -> None:
    narrow = np.pad(film(), ((0, 0), (200, 200)))
    assert check_content(narrow) == []


def test_noise_is_scrambled() -> None:
    rng = np.random.default_rng(0)
    assert reason(rng.integers(0, 4096, (300, 280))) == "scrambled"
    assert reason(rng.integers(1000, 1012, (300, 280))) == "scrambled"  # an exposure of nothing
    shuffled = film()[rng.permutation(320)]
    assert reason(shuffled) == "scrambled"
    assert reason(np.ascontiguousarray(shuffled.T)) == "scrambled"


@ALL_FILMS
@pytest.mark.parametrize("columns", [280, 300, 360])
def test_rows_and_columns_swapped(path: Path, columns: int) -> None:
    grey = np.asarray(Image.fromarray(film(path)).resize((columns, 320)))
    assert check_content(grey) == []
    assert reason(grey.reshape(columns, 320)) == "scrambled"


def test_a_noisy_film_is_not_scrambled() -> None:
    noise = np.random.default_rng(0).normal(0, 25, film().shape)
    assert check_content((film() + noise).astype(np.int32)) == []


def test_the_input_is_left_alone() -> None:
    stored = film().astype(np.uint16)
    stored.flags.writeable = False
    before = stored.copy()
    check_content(stored)
    np.testing.assert_array_equal(stored, before)


def test_the_template() -> None:
    template = load_template()
    models, axes, cells = template.axes.shape
    assert (models, cells) == (2, 256)
    for directions in template.axes:
        np.testing.assert_allclose(directions @ directions.T, np.eye(axes), atol=0.005)
    assert (template.variance > 0).all()
    assert (template.noise > 0).all()
    grids = template.mean.reshape(models, 16, 16)
    np.testing.assert_allclose(grids, grids[:, :, ::-1], atol=0.005)  # sees no mirror image
    for mean in template.mean:
        fit = fit_pose(mean.reshape(16, 16))
        assert (fit.turns, fit.swapped, fit.margin) == (0, False, 0.0)
