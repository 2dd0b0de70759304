"""python -m pytest tests/export/test_crops.py -- what parity is measured on, for every geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import DATA
from tier_export.crops import manifest_crops, phantom_crops
from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES, to_crop


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_phantoms_fill_the_crop_with_detail(geometry: str) -> None:
    crops = phantom_crops(GEOMETRIES[geometry], "mimic-jpg", 2)
    side = GEOMETRIES[geometry].crop
    assert crops.pixels.shape == (2, side, side)
    assert crops.pixels.dtype == np.uint8
    steps = np.abs(np.diff(crops.pixels.astype(int), axis=-1))
    assert steps.mean() > 2  # grain of single pixels; a film of 128, enlarged to 512, has none
    assert all(len(known) == 2 for known in crops.truth.values())


@pytest.mark.parametrize("geometry", ["biovil-480-raw", "chexzero-320pad-224", "medclip-224"])
def test_films_of_16_bit_become_8_as_the_geometry_says(geometry: str, tmp_path: Path) -> None:
    with Image.open(sorted((DATA / "nih").glob("*.jpg"))[0]) as film:
        deep = np.asarray(film).astype(np.uint16)[:, 40:] * 257
    for name in ("deep.png", "other.png"):
        Image.fromarray(deep).save(tmp_path / name)
    lines = "image_path,patient_id,split,edema\ndeep.png,1,test,1\nother.png,2,train,0\n"
    (tmp_path / "films.csv").write_text(lines)
    crops = manifest_crops(tmp_path / "films.csv", GEOMETRIES[geometry], "mimic-jpg")
    grey = deep >> 8 if geometry.startswith("chexzero") else np.minimum(deep // 255, 255)
    expected = to_crop(grey.astype(np.uint8), GEOMETRIES[geometry])
    assert np.array_equal(crops.pixels, expected[None])
    assert crops.truth["edema"].tolist() == [1]


def test_a_manifest_of_another_intensity_is_refused(tmp_path: Path) -> None:
    film = sorted((DATA / "nih").glob("*.jpg"))[0]
    head = "image_path,patient_id,split,edema,intensity"
    (tmp_path / "films.csv").write_text(f"{head}\n{film},1,test,1,voi\n")
    with pytest.raises(UsageError, match="names intensity voi, the checkpoint mimic-jpg"):
        manifest_crops(tmp_path / "films.csv", GEOMETRIES["small-112"], "mimic-jpg")
