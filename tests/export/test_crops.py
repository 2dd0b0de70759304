"""python -m pytest tests/export/test_crops.py -- what parity is measured on, for every geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import DATA
from tier_export.crops import calibration_crops, check_apart, manifest_crops, phantom_crops
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


def manifest(folder: Path, *splits: str, tail: str = "") -> Path:
    """The darkest grey of row i is 10 · i."""
    lines = ["image_path,patient_id,split,edema" + (",intensity" if tail else "")]
    for i, split in enumerate(splits):
        ramp = np.tile(np.arange(130, dtype=np.uint8), (120, 1)) + 10 * i
        Image.fromarray(ramp.astype(np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{i},{split},{i % 2}{tail}")
    (folder / "films.csv").write_text("\n".join(lines) + "\n")
    return folder / "films.csv"


SMALL = GEOMETRIES["small-112"]


def test_what_is_calibrated_on_is_never_measured_on(tmp_path: Path) -> None:
    path = manifest(tmp_path, "train", "test", "val", "test", "train")
    ours = calibration_crops(str(path), SMALL, "mimic-jpg")
    gate = manifest_crops(path, SMALL, "mimic-jpg")
    assert np.diff(ours.pixels.min((1, 2))).tolist() == [20, 20]
    assert np.diff(gate.pixels.min((1, 2))).tolist() == [20]
    assert int(gate.pixels.min()) - int(ours.pixels.min()) == 10
    assert ours.source == "3 radiographs"
    phantoms = calibration_crops("phantoms", SMALL, "mimic-jpg")
    assert phantoms.source == "128 phantoms"
    check_apart(ours, gate)
    with pytest.raises(UsageError, match="3 of 3 radiographs that --int8 is calibrated on"):
        check_apart(ours, ours)
    measured = {crop.tobytes() for crop in phantom_crops(SMALL, "mimic-jpg").pixels}
    assert len({crop.tobytes() for crop in phantoms.pixels} - measured) == 128


def test_at_most_128_crops_are_taken_from_all_over(tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "film.png")
    rows = [f"film.png,{i},train,{int(i >= 200)}\n" for i in range(300)]
    (tmp_path / "films.csv").write_text("image_path,patient_id,split,edema\n" + "".join(rows))
    crops = calibration_crops(str(tmp_path / "films.csv"), SMALL, "mimic-jpg")
    assert 64 <= len(crops.pixels) <= 128
    assert crops.truth["edema"].mean() == pytest.approx(1 / 3, abs=0.01)


def test_calibrating_on_test_rows_is_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path, "test", "test")
    with pytest.raises(
        UsageError, match=r"has only test rows.*--int8 needs train or val rows"
    ) as e:
        calibration_crops(str(path), SMALL, "mimic-jpg")
    assert e.value.exit_code == 2
    with pytest.raises(UsageError, match=r"fantoms is no file.*or the word phantoms"):
        calibration_crops("fantoms", SMALL, "mimic-jpg")


def test_calibrating_on_another_intensity_is_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path, "train", tail=",voi")
    with pytest.raises(UsageError, match="names intensity voi, the checkpoint mimic-jpg"):
        calibration_crops(str(path), SMALL, "mimic-jpg")


def test_the_source_counts_and_names_no_file(tmp_path: Path) -> None:
    """Found in review: mueller_hans_1957.csv went into the bundle with its name."""
    path = manifest(tmp_path, "train", "test", "val")
    path = path.rename(tmp_path / "mueller_hans_1957.csv")
    assert manifest_crops(path, SMALL, "mimic-jpg").source == "1 radiographs of split test"
    assert calibration_crops(str(path), SMALL, "mimic-jpg").source == "2 radiographs"
    path.write_text(path.read_text().replace(",test,", ",train,"))
    assert manifest_crops(path, SMALL, "mimic-jpg").source == "1 radiographs of split val"
    path.write_text(path.read_text().replace(",val,", ",train,"))
    assert manifest_crops(path, SMALL, "mimic-jpg").source == "3 radiographs without a test split"
