"""python -m pytest tests/train/test_chexpert.py -- CheXpert's tables, wherever its folders lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.mimic_tree import picture
from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.data.chexpert import read_chexpert
from tier_train.data.dataset import truth_table, validation_labels
from tier_train.data.pictures import load_pictures

HEAD = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pleural Effusion\n"
ONE = "patient64541/study1/view1_frontal.jpg"
TWO = "patient64542/study1/view2_lateral.jpg"


def _write(base: Path, table: str, text: str, images: str) -> Path:
    for i, name in enumerate((ONE, TWO)):
        path = base / images / name
        path.parent.mkdir(parents=True)
        Image.fromarray(picture(i)).save(path)
    (base / table).parent.mkdir(parents=True, exist_ok=True)
    (base / table).write_text(text, encoding="utf-8")
    return base / table


@pytest.mark.parametrize(
    ("prefix", "table", "images"),
    [
        ("CheXpert-v1.0-small/", "CheXpert-v1.0-small/valid.csv", "CheXpert-v1.0-small/valid"),
        ("CheXpert-v1.0-small/", "valid.csv", "CheXpert-v1.0-small/valid"),
        ("CheXpert-v1.0/", "elsewhere/valid.csv", "elsewhere/valid"),
        ("CheXpert-v1.0/", "CheXpert/val.csv", "CheXpert/val"),
        ("", "tables/valid.csv", "valid"),
    ],
)
def test_the_stock_table_is_read(tmp_path: Path, prefix: str, table: str, images: str) -> None:
    rows = f"{prefix}valid/{ONE},Female,70,Frontal,AP,0.0,1.0,\n"
    rows += f"{prefix}valid/{TWO},Male,50,Lateral,,0.0,-1.0,0.0\n"
    dataset = read_chexpert(_write(tmp_path, table, HEAD + rows, images))
    assert dataset.label_columns == ("No Finding", "Edema", "Pleural Effusion")
    assert [row.split for row in dataset.rows] == ["val", "val"]
    assert [row.view for row in dataset.rows] == ["frontal", "lateral"]
    assert [row.patient for row in dataset.rows] == ["patient64541", "patient64542"]
    assert [row.labels for row in dataset.rows] == [
        {"No Finding": 0, "Edema": 1},
        {"No Finding": 0, "Pleural Effusion": 0},
    ]
    assert dataset.views == ("frontal", "lateral")
    assert (dataset.kind, dataset.intensity) == ("chexpert", "chexpert-jpg")
    _, loaded = load_pictures(dataset, list(dataset.rows), "chexpert-jpg", GEOMETRIES["small-112"])
    assert [loaded[i].shape for i in range(2)] == [(128, 160), (160, 128)]
    labels, columns = validation_labels(dataset)
    assert [label.id for label in labels.labels] == ["edema", "pleural_effusion"]
    truth = truth_table(list(dataset.rows), columns)
    np.testing.assert_array_equal(truth["edema"], np.array([1, np.nan], np.float32))


@pytest.mark.parametrize("split", ["test", "val"])
def test_chexlocalize_takes_the_view_from_the_name(tmp_path: Path, split: str) -> None:
    text = f"Path,Edema\nCheXpert-v1.0/{split}/{ONE},1\nCheXpert-v1.0/{split}/{TWO},0\n"
    table = _write(tmp_path, f"CheXpert/{split}_labels.csv", text, f"CheXpert/{split}")
    dataset = read_chexpert(table)
    assert [row.split for row in dataset.rows] == [split, split]
    assert [row.view for row in dataset.rows] == ["frontal", "lateral"]
    assert [row.labels for row in dataset.rows] == [{"Edema": 1}, {"Edema": 0}]


def test_some_images_may_be_missing(tmp_path: Path) -> None:
    text = HEAD + "".join(f"C/valid/patient{i}/study1/view1_frontal.jpg,,,,,,,\n" for i in range(9))
    table = _write(tmp_path, "valid.csv", text + f"C/valid/{ONE},F,1,Frontal,AP,,1.0,\n", "valid")
    assert read_chexpert(table).rows[-1].image_path == f"valid/{ONE}"


def test_the_split_is_the_folder_of_the_patients(tmp_path: Path) -> None:
    base = tmp_path / "test"  # above the release; Path may be absolute
    text = f"Path,Edema\n{base}/valid/{ONE},1\n"
    table = _write(base, "valid.csv", text, "valid")
    assert [(r.split, r.patient) for r in read_chexpert(table).rows] == [("val", "patient64541")]


def test_a_name_too_long_for_a_file_is_not_told(tmp_path: Path) -> None:
    long = f"valid/patient64541/study1/{'v' * 300}.jpg"
    table = _write(tmp_path, "valid.csv", f"Path,Edema\n{long},1\nvalid/{TWO},0\n", "valid")
    dataset = read_chexpert(table)
    assert len(dataset.rows) == 2
    nul = replace(dataset.rows[0], image_path="valid/patient64541/\0.jpg")
    for row in (dataset.rows[0], nul):
        with pytest.raises(
            UsageError, match=r"line 2 of valid\.csv: the file can't be op"
        ) as caught:
            load_pictures(dataset, [row], "chexpert-jpg", GEOMETRIES["small-112"])
        assert "patient64541" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,Edema\nx,1\n", "needs the columns Path"),
        (HEAD, "has no rows"),
        (f"Path\nvalid/{ONE}\n", "has no label columns"),
        (f"Path,Edema\nvalid/{ONE},maybe\n", "line 2: a label is not 1.0, 0.0, -1.0 or empty"),
        ("Path,Edema\nvalid/view1_frontal.jpg,1\n", "line 2: Path is not like CheXpert-v1.0/valid"),
        ("Path,Edema\npatient1/study1/view1_frontal.jpg,1\n", "line 2: Path is not like"),
        (f"Path,Edema\nvalid/{ONE},1\nvalid/{ONE},0\n", "lines 2 and 3 name the same image"),
        (f"Path,Edema\ntrain/{ONE},1\nvalid/{ONE},0\n", "train in line 2 and val in line 3"),
        (f"Path,Edema,Edema\nvalid/{ONE},1,0\n", "column 3 has no name or that of another"),
        (f",Path,Edema\n0,valid/{ONE},1\n", "column 1 has no name"),
        ("Path,Edema\nC/valid/patient1/study1/a.jpg,1\n", "none of the first 1 images.*`val`"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "valid.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        read_chexpert(tmp_path / "valid.csv")
