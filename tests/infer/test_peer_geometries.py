"""python -m pytest tests/infer/test_peer_geometries.py -- the input of other people's networks.

CheXzero and BioViL: their recipes, written down here anew. MedCLIP: what its own class made, kept
in tests/data/medclip_crops.json by make_medclip_crops.py there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import DATA
from tests.data.make_medclip_crops import SHAPES, waves
from tests.infer.tiny_bundle import write_bundle
from tier_infer.bundle import load_bundle
from tier_infer.engine import Engine
from tier_infer.geometry import GEOMETRIES, crop_box, described, has_few_pixels, resized, to_crop
from tier_infer.images import load_image
from tier_infer.reader import Reader
from tier_infer.scoring import score_images, select_labels

CHEXZERO, MEDCLIP = GEOMETRIES["chexzero-320pad-224"], GEOMETRIES["medclip-224"]


def chexzero_recipe(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As published: OpenCV gives three channels, Pillow resizes them, pastes onto a grey canvas."""
    colour = Image.fromarray(np.stack([grey] * 3, axis=-1))
    ratio = 320.0 / max(colour.size)
    width, height = (int(side * ratio) for side in colour.size)
    canvas = Image.new("L", (320, 320))
    canvas.paste(
        colour.resize((width, height), Image.Resampling.LANCZOS),
        ((320 - width) // 2, (320 - height) // 2),
    )
    return np.asarray(canvas)


@pytest.mark.parametrize(
    "shape",
    [
        (2544, 3056),
        (390, 320),
        (320, 390),
        (320, 320),
        (319, 320),  # a row less than the canvas: it stays above
        (401, 300),
        (641, 640),
        (2139, 1700),  # 320 / 2139 * 2139 < 320 in floating point: 319 rows
        (1400, 2139),
        (303, 303),
        (77, 50),  # enlarged, and to 319
        (3, 2),
        (1, 1),
        (400, 100),
    ],
    ids=str,
)
def test_chexzero_is_its_published_recipe(shape: tuple[int, int]) -> None:
    grey = waves(*shape)
    crop = to_crop(grey, CHEXZERO)
    assert crop.shape == (320, 320)
    assert np.array_equal(crop, chexzero_recipe(grey))
    assert np.array_equal(resized(grey, CHEXZERO), crop)  # nothing is cut off
    assert crop.flags["C_CONTIGUOUS"]


def test_chexzeros_ratio_is_rounded_before_it_multiplies() -> None:
    """int(2139 * (320 / 2139)) is 319: the last row of the canvas stays black."""
    crop = to_crop(np.full((2139, 2139), 200, np.uint8), CHEXZERO)
    assert (crop[:319, :319] == 200).all()
    assert not crop[319].any()
    assert not crop[:, 319].any()


def test_chexzeros_statistics_are_of_0_to_255() -> None:
    x = np.arange(256) / 255
    ours = (x - CHEXZERO.mean[0]) / CHEXZERO.std[0]
    assert np.allclose(ours, (np.arange(256) - 101.48761) / 83.43944, atol=1e-12)
    assert len(set(CHEXZERO.mean)) == len(set(CHEXZERO.std)) == 1
    assert len(CHEXZERO.mean) == len(CHEXZERO.std) == 3
    assert (CHEXZERO.crop, CHEXZERO.network_side) == (320, 224)


MEDCLIP_FOUND = json.loads((DATA / "medclip_crops.json").read_text())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_medclip_is_what_its_own_class_makes(shape: tuple[int, int]) -> None:
    crop = to_crop(waves(*shape), MEDCLIP)
    digest = hashlib.sha256(crop.tobytes()).hexdigest()
    assert digest == MEDCLIP_FOUND["crops"]["x".join(map(str, shape))]
    assert len(MEDCLIP_FOUND["crops"]) == len(SHAPES)


def test_medclips_statistics_are_those_of_its_class() -> None:
    row = to_crop(waves(*SHAPES[0]), MEDCLIP)[112] / 255
    ours = (row - MEDCLIP.mean[0]) / MEDCLIP.std[0]
    assert np.allclose(ours, MEDCLIP_FOUND["middle"], atol=2e-6)
    assert MEDCLIP.mean == (MEDCLIP.mean[0],) * 3


@pytest.mark.parametrize(("preset", "side"), [("biovil-480-raw", 480), ("biovil-t-448-raw", 448)])
@pytest.mark.parametrize("shape", [(1024, 1024), (901, 640), (640, 901), (512, 700)], ids=str)
def test_biovil_is_resize_512_and_a_centre_crop(
    preset: str, side: int, shape: tuple[int, int]
) -> None:
    """torchvision's Resize(512), bilinear on a Pillow picture, and CenterCrop."""
    grey = waves(*shape)
    short, long = min(shape), max(shape)
    size = (
        (512, int(512 * long / short)) if shape[0] >= shape[1] else (int(512 * long / short), 512)
    )
    picture = Image.fromarray(grey)
    picture = picture.resize(size, Image.Resampling.BILINEAR) if short != 512 else picture
    left, top = (round((n - side) / 2.0) for n in picture.size)
    want = np.asarray(picture.crop((left, top, left + side, top + side)))
    geometry = GEOMETRIES[preset]
    assert np.array_equal(to_crop(grey, geometry), want)
    assert min(resized(grey, geometry).shape) == 512
    assert (geometry.mean, geometry.std) == ((0, 0, 0), (1, 1, 1))


def test_old_presets_are_described_as_they_always_were() -> None:
    """bundle_sha256 covers this text: another key, and every bundle in the world has a new one."""
    assert described(GEOMETRIES["tier-224-imagenet"]) == {
        "name": "tier-224-imagenet",
        "resize": 256,
        "crop": 224,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert described(GEOMETRIES["small-112"]) == {
        "name": "small-112", "resize": 128, "crop": 112, "mean": [0.5], "std": [0.25],
    }  # fmt: skip


def test_a_description_tells_every_difference_and_survives_json() -> None:
    for geometry in GEOMETRIES.values():
        told = described(geometry)
        assert json.loads(json.dumps(told)) == told
    told = described(CHEXZERO)
    later = {"rule": "long-side", "filter": "lanczos", "network": 224, "high_byte": True}
    assert {key: told[key] for key in later} == later
    assert described(MEDCLIP)["rule"] == "pad-square"
    assert "network" not in described(MEDCLIP)


@pytest.mark.parametrize(
    ("preset", "shape", "few"),
    [
        ("small-112", (111, 500), True),
        ("small-112", (112, 112), False),
        ("biovil-480-raw", (479, 600), True),
        ("chexzero-320pad-224", (319, 100), True),
        ("chexzero-320pad-224", (100, 320), False),  # the long side counts: nothing is enlarged
        ("medclip-224", (223, 223), True),
        ("medclip-224", (60, 224), False),
    ],
)
def test_few_pixels(preset: str, shape: tuple[int, int], few: bool) -> None:
    assert has_few_pixels(*shape, GEOMETRIES[preset]) is few


def test_medclips_frame_is_not_scaled_below_224() -> None:
    crop = to_crop(np.full((100, 61), 255, np.uint8), MEDCLIP)
    assert crop[62:162, 81:142].all()
    assert int((crop > 0).sum()) == 100 * 61
    assert crop_box(100, 61, MEDCLIP) == (-81, -62, 143, 162)


# 16-bit pictures


def wide_png(path: Path) -> NDArray[np.uint16]:
    """Every 16-bit value once, written as PNG."""
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(wide).save(path)
    return wide


def test_16_bits_become_8_as_the_geometry_says(tmp_path: Path) -> None:
    wide = wide_png(tmp_path / "a.png")
    high = load_image(tmp_path / "a.png", "minmax", high_byte=True).grey
    assert np.array_equal(high, wide >> 8)
    low = load_image(tmp_path / "a.png", "minmax", high_byte=False).grey
    assert np.array_equal(low, np.minimum(wide // 255, 255))
    assert 0.49 < (high != low).mean() < 0.51
    assert [g.name for g in GEOMETRIES.values() if g.high_byte] == ["chexzero-320pad-224"]


def test_8_bit_pictures_know_no_high_byte(tmp_path: Path) -> None:
    grey = waves(60, 50)
    Image.fromarray(grey).save(tmp_path / "a.png")
    for high_byte in (False, True):
        found = load_image(tmp_path / "a.png", "minmax", high_byte=high_byte).grey
        assert np.array_equal(found, grey)


@pytest.mark.parametrize("preset", ["chexzero-320pad-224", "medclip-224"])
def test_a_run_reads_16_bits_as_its_bundle_says(preset: str, tmp_path: Path) -> None:
    """One reader for two bundles in turn: what the first wanted must not stick to it."""
    wide = wide_png(tmp_path / "a.png")
    geometry = GEOMETRIES[preset]
    other = "medclip-224" if geometry.high_byte else "chexzero-320pad-224"
    with Reader() as reader:
        for name in (other, preset):
            bundle = load_bundle(write_bundle(tmp_path / name, name))
            engine, selection = Engine(bundle, "cpu"), select_labels(bundle, None)
            path = str(tmp_path / "a.png")
            (result,) = score_images([path], bundle, engine, selection, reader)
    grey = (wide >> 8 if geometry.high_byte else np.minimum(wide // 255, 255)).astype(np.uint8)
    assert result.digest == hashlib.sha256(to_crop(grey, geometry).tobytes()).hexdigest()
