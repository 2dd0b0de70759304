"""python -m pytest tests/train/test_pictures.py -- decoded at once or when asked for: the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.mimic_tree import image_path, picture, plain, write_tree
from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES, resize_short_side, resized
from tier_train.data import pictures
from tier_train.data.dataset import Dataset
from tier_train.data.datasets import open_dataset
from tier_train.data.pictures import load_pictures
from tier_train.recipe import Recipe

SMALL = GEOMETRIES["small-112"]
ALL = plain(12)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("mimic") / "root", ALL)


def _open(root: Path) -> Dataset:
    return open_dataset(f"mimic:{root}", Recipe())


def test_a_picture_is_whole_and_its_short_side_resized(root: Path) -> None:
    dataset = _open(root)
    for index, study in enumerate(ALL[:4]):
        _, loaded = load_pictures(dataset, [dataset.rows[index]], "mimic-jpg", SMALL)
        grey = np.asarray(Image.open(image_path(root, study)))
        np.testing.assert_array_equal(loaded[0], resize_short_side(grey, 128))
        assert min(loaded[0].shape) == 128
        assert max(loaded[0].shape) == 160
    _, square = load_pictures(dataset, [dataset.rows[0]], "x", GEOMETRIES["medclip-224"])
    assert square[0].shape == (224, 224)


def test_many_pictures_are_decoded_when_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _open(root)
    rows, at_once = load_pictures(dataset, list(dataset.rows), "mimic-jpg", SMALL)
    monkeypatch.setattr(pictures, "IN_MEMORY", 11)
    same, later = load_pictures(dataset, list(dataset.rows), "mimic-jpg", SMALL)
    assert isinstance(at_once, list)
    assert not isinstance(later, list)
    assert same == rows
    assert len(later) == len(at_once) == 12
    for i in range(12):
        np.testing.assert_array_equal(later[i], at_once[i])
    with pytest.raises(UsageError, match=r"--skip-bad would have to decode 12 images.*data cache"):
        load_pictures(dataset, list(dataset.rows), "mimic-jpg", SMALL, skip_bad=True)


def test_a_refused_picture_is_named_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(tmp_path / "root", ALL)
    image_path(root, ALL[2]).write_bytes(b"\xff\xd8\xff")
    image_path(root, ALL[5]).unlink()
    dataset = _open(root)
    words = (
        r"2 images of the metadata table are refused, the first at line 4 of the metadata table: "
    )
    with pytest.raises(UsageError, match=words + ".*--skip-bad") as caught:
        load_pictures(dataset, list(dataset.rows), "mimic-jpg", SMALL)
    rows, kept = load_pictures(dataset, list(dataset.rows), "mimic-jpg", SMALL, skip_bad=True)
    assert [row.number for row in rows] == [2, 3, 5, 6, 8, 9, 10, 11, 12, 13]
    np.testing.assert_array_equal(kept[2], _only(root, ALL[3].dicom(0)))
    monkeypatch.setattr(pictures, "IN_MEMORY", 3)
    _, later = load_pictures(dataset, list(dataset.rows), "mimic-jpg", SMALL)
    with pytest.raises(
        UsageError, match=r"line 4 of the metadata table is refused: .*data cache"
    ) as e:
        later[2]
    for error in (caught, e):
        assert not any(
            s.dicom(0) in str(error.value) or str(s.subject) in str(error.value) for s in ALL
        )


def _only(root: Path, name: str) -> np.ndarray:
    (path,) = root.rglob(f"{name}.jpg")
    return resize_short_side(np.asarray(Image.open(path)), 128)


def test_sixteen_bits_become_eight_as_the_geometry_says(tmp_path: Path) -> None:
    wide = (picture(0).astype(np.uint16) << 8) + 250
    Image.fromarray(wide).save(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text("image_path,patient_id,split,text\na.png,p,train,x\n")
    dataset = open_dataset(f"manifest:{tmp_path / 'm.csv'}", Recipe())
    _, by_255 = load_pictures(dataset, list(dataset.rows), "minmax", SMALL)
    expected = resize_short_side((wide // 255).clip(0, 255).astype(np.uint8), 128)
    np.testing.assert_array_equal(by_255[0], expected)
    chexzero = GEOMETRIES["chexzero-320pad-224"]
    _, high = load_pictures(dataset, list(dataset.rows), "minmax", chexzero)
    np.testing.assert_array_equal(high[0], resized(picture(0), chexzero))
