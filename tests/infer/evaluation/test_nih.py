"""python -m pytest tests/infer/evaluation/test_nih.py -- NIH ChestX-ray14 in both of its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.infer.evaluation import trees
from tier_infer.errors import UsageError
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.evaluation.nih import NO_LIST

TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("one_folder", [True, False])
def test_the_test_list_is_read(tmp_path: Path, name: str, one_folder: bool) -> None:
    cohort = open_cohort(f"nih:{trees.nih(tmp_path, name, one_folder)}")
    assert (cohort.split, cohort.name) == ("test", f"NIH/{name}")
    positive = [
        [label for label, value in zip(cohort.labels, row, strict=True) if value]
        for row in cohort.truth
    ]
    assert positive == [["cardiomegaly", "pleural_effusion"], ["no_finding"], ["mass", "hernia"]]
    assert cohort.truth.shape == (3, 15)
    assert not np.isnan(cohort.truth).any()
    there = [(cohort.root / case.place).is_file() for case in cohort.cases]
    assert there == [True, True, False]
    assert [case.patient for case in cohort.cases] == ["1", "1", "3"]
    assert len({case.study for case in cohort.cases}) == 3
    assert {case.view for case in cohort.cases} == {"frontal"}
    assert [case.line for case in cohort.cases] == [2, 3, 5]
    assert cohort.groups["View Position"] == ("PA", "AP", "PA")


def test_the_other_list_and_none(tmp_path: Path) -> None:
    trees.nih(tmp_path)
    cohort = open_cohort(f"nih:{tmp_path}", "train_val")
    assert [case.image_path for case in cohort.cases] == ["00000002_000.png"]
    assert cohort.truth_of("pleural_thickening").tolist() == [1]
    with pytest.raises(UsageError, match="no row with split 'val'; it has test, train_val"):
        open_cohort(f"nih:{tmp_path}", "val")
    for name in ("test_list.txt", "train_val_list.txt"):
        (tmp_path / name).unlink()
    cohort = open_cohort(f"nih:{tmp_path}")
    assert (len(cohort), cohort.split, cohort.notes) == (4, "", (NO_LIST,))
    with pytest.raises(UsageError, match="no row with split 'test'; it has none; leave --split"):
        open_cohort(f"nih:{tmp_path}", "test")


def test_a_list_that_names_more_is_told(tmp_path: Path) -> None:
    trees.nih(tmp_path)
    with (tmp_path / "test_list.txt").open("a") as file:
        file.write("00009999_000.png\n\n")
    notes = open_cohort(f"nih:{tmp_path}").notes
    assert notes == ("1 images of test_list.txt are in no row",)


@pytest.mark.parametrize("found", ["Cardiomegaly|Swelling", "No Finding|Mass", "", "cardiomegaly"])
def test_another_word_is_refused_by_line(tmp_path: Path, found: str) -> None:
    trees.nih(tmp_path)
    table = tmp_path / TABLES[0]
    table.write_text(table.read_text().replace("Cardiomegaly|Effusion", found))
    with pytest.raises(UsageError, match="line 2: Finding Labels must be names of Atelectasis"):
        open_cohort(f"nih:{tmp_path}")


@pytest.mark.parametrize("layout", ["images_001", "images_012/images", "images"])
def test_other_copies_of_the_images_are_not_read(tmp_path: Path, layout: str) -> None:
    trees.nih(tmp_path)
    for folder in ("images_000_thumb", "images_small/images", "images_1"):
        trees.picture(tmp_path / folder / "00000003_000.png")
    missing = open_cohort(f"nih:{tmp_path}").cases[2]
    assert not (tmp_path / missing.place).exists()
    trees.picture(tmp_path / layout / "00000003_000.png")
    assert open_cohort(f"nih:{tmp_path}").cases[2].place == f"{layout}/00000003_000.png"
    trees.picture(tmp_path / "images_003" / "00000003_000.png")
    with pytest.raises(UsageError, match=r"an image lies in images.* and in images.*; leave one"):
        open_cohort(f"nih:{tmp_path}")


def test_lists_as_others_write_them(tmp_path: Path) -> None:
    """With a byte order mark, CRLF, and the folder before each name."""
    trees.nih(tmp_path)
    path = tmp_path / "test_list.txt"
    names = path.read_text().split()
    path.write_text("\ufeff" + "".join(f"images/{name}\r\n" for name in names), newline="")
    cohort = open_cohort(f"nih:{tmp_path}")
    assert [case.image_path for case in cohort.cases] == names
    assert cohort.notes == ()


def test_an_image_in_both_lists_is_refused(tmp_path: Path) -> None:
    trees.nih(tmp_path)
    with (tmp_path / "train_val_list.txt").open("a") as file:
        file.write("00000001_000.png\n")
    for split in (None, "train_val"):
        with pytest.raises(UsageError, match=r"1 images stand in both test_list\.txt and train"):
            open_cohort(f"nih:{tmp_path}", split)


def test_a_patient_has_one_spelling(tmp_path: Path) -> None:
    trees.nih(tmp_path)
    table = tmp_path / TABLES[0]
    table.write_text(table.read_text().replace(",0,1,58", ",0,0001,58"))
    assert [case.patient for case in open_cohort(f"nih:{tmp_path}").cases] == ["1", "1", "3"]


def test_another_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds neither Data_Entry_2017_v2020"):
        open_cohort(f"nih:{tmp_path}")
