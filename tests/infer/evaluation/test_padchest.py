"""python -m pytest tests/infer/evaluation/test_padchest.py -- PadChest by membership of lists.

The publisher's own table: TIER_PADCHEST_TABLE=FILE.csv.gz python -m pytest … (the wheel of
torchxrayvision 1.5.7 ships it in torchxrayvision/data).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import DATA
from tests.infer.evaluation import trees
from tier_infer.errors import UsageError
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.evaluation.padchest import EMPTY, OTHERS

REAL = os.environ.get("TIER_PADCHEST_TABLE", "")


@pytest.mark.parametrize("packed", [True, False])
def test_findings_are_members_of_the_list(tmp_path: Path, packed: bool) -> None:
    cohort = open_cohort(f"padchest:{trees.padchest(tmp_path, packed).parent}")
    positive = [
        {name for name, value in zip(cohort.names, row, strict=True) if value}
        for row in cohort.truth
    ]
    assert positive == [
        {"laminar atelectasis", "COPD signs"},  # no "atelectasis"
        {"atelectasis", "pleural effusion"},  # "Cardiomegaly" is another string
        {"cardiomegaly"},  # behind an apostrophe and a comma
        {"normal"},
        set(),
    ]
    assert len(cohort.labels) == 57
    assert set(np.unique(cohort.truth)) == {0.0, 1.0}
    assert cohort.left_out == {OTHERS: 1, EMPTY: 2}
    assert [case.image_path for case in cohort.cases] == [
        "0/a1.png", "0/a2.png", "54/b2.png", "54/gone.png", "54/b5.png",
    ]  # fmt: skip
    there = [(cohort.root / case.place).is_file() for case in cohort.cases]
    assert there == [True, True, True, False, True]
    first, second, third, *_ = cohort.cases
    assert first.patient == trees.LONG_ID
    assert second.patient != first.patient  # they differ in the sixtieth digit
    assert third.patient == ""
    assert [case.view for case in cohort.cases] == [
        "frontal", "lateral", "", "frontal", "frontal",
    ]  # fmt: skip
    assert [case.study for case in cohort.cases] == ["s1", "s1", "s3", "s6", "s7"]
    assert [case.line for case in cohort.cases] == [2, 3, 5, 8, 9]
    assert cohort.groups["Projection"] == ("PA", "L", "COSTAL", "AP", "PA")


@pytest.mark.parametrize("folder", [".", "images-224", "images-224/{ImageDir}"])
def test_images_may_lie_otherwise(tmp_path: Path, folder: str) -> None:
    stock, other = tmp_path / "stock", tmp_path / "other"
    stock.mkdir()
    other.mkdir()
    trees.padchest(stock)
    table = trees.padchest(other, folder=folder)
    cohort = open_cohort(f"padchest:{table}")
    there = [(cohort.root / case.place).is_file() for case in cohort.cases]
    assert there == [True, True, True, False, True]
    assert cohort.sha256 == open_cohort(f"padchest:{stock}").sha256


@pytest.mark.parametrize("folder", ["images-224", "images-224/{ImageDir}"])
def test_an_empty_folder_of_the_release_does_not_hide_the_images(
    tmp_path: Path, folder: str
) -> None:
    table = trees.padchest(tmp_path, folder=folder)
    (tmp_path / "0").mkdir()
    cohort = open_cohort(f"padchest:{table}")
    assert (cohort.root / cohort.cases[0].place).is_file()


def test_images_far_down_in_the_table_are_found(tmp_path: Path) -> None:
    """Of a release that is fetched in part, no image of the first hundred rows may be there."""
    rows = [list(trees.PADCHEST_ROWS[0]) for _ in range(121)]
    for n, row in enumerate(rows):
        row[1], row[2] = f"{n}.png", "0" if n < 120 else "7"
    trees.table(tmp_path / trees.PADCHEST_TABLE, (trees.PADCHEST_HEAD, *rows))
    trees.picture(tmp_path / "images-224/7/120.png")
    cohort = open_cohort(f"padchest:{tmp_path}")
    assert (cohort.root / cohort.cases[120].place).is_file()


@pytest.mark.parametrize("other", ["images-512", "images-512/{ImageDir}", ".", "images-224/0"])
def test_images_in_two_places_are_not_chosen_from(tmp_path: Path, other: str) -> None:
    trees.padchest(tmp_path, folder="images-224")
    trees.picture(tmp_path / other.replace("{ImageDir}", "0") / "a2.png", bits=16)
    with pytest.raises(UsageError, match=r"images of PadChest lie in .* and in .*images-"):
        open_cohort(f"padchest:{tmp_path}")


def test_the_physician_is_one_however_it_is_spelled(tmp_path: Path) -> None:
    """Rows of the other kind stay out, and nobody's row is lost to a blank."""
    cohort = open_cohort(f"padchest:{_with(tmp_path, 'MethodLabel', ' physician')}")
    assert (len(cohort), cohort.left_out) == (5, {OTHERS: 1, EMPTY: 2})


def test_two_rows_of_one_file_are_refused(tmp_path: Path) -> None:
    """An ImageID that stands in two ImageDirs, where the images lie in one folder."""
    table = _with(tmp_path, "ImageID", "b2.png")
    trees.picture(tmp_path / "images-224/b2.png", bits=16)
    with pytest.raises(UsageError, match="lines 3 and 5 name the same image"):
        open_cohort(f"padchest:{table}")


def _with(tmp_path: Path, column: str, value: str) -> Path:
    rows = [list(row) for row in (trees.PADCHEST_HEAD, *trees.PADCHEST_ROWS)]
    rows[2][trees.PADCHEST_HEAD.index(column)] = value
    return trees.table(tmp_path / trees.PADCHEST_TABLE, rows)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("Labels", "cardiomegaly", "line 3: Labels is no list of names"),
        ("Labels", "['a', 1]", "line 3: Labels is no list of names"),
        ("Labels", "[" * 5000, "line 3: Labels is no list of names"),
        ("Labels", "['a'" + " " * 20_000 + "]", "line 3: Labels is no list of names"),
        ("Labels", "[__import__('os')]", "line 3: Labels is no list of names"),
        ("ImageID", "../../a.png", "line 3: an image's path must be"),
        ("ImageDir", "/etc", "line 3: an image's path must be"),
        ("ImageID", "a1.png", "lines 2 and 3 name the same image"),
    ],
)
def test_an_odd_row_is_refused_by_line(tmp_path: Path, column: str, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        open_cohort(f"padchest:{_with(tmp_path, column, value)}")
    assert trees.LONG_ID[:-1] not in str(caught.value)


def test_there_are_no_splits(tmp_path: Path) -> None:
    trees.padchest(tmp_path)
    assert open_cohort(f"padchest:{tmp_path}", "physician").split == "physician"
    with pytest.raises(UsageError, match="no row with split 'test'; it has physician"):
        open_cohort(f"padchest:{tmp_path}", "test")


def test_a_folder_without_the_table_or_half_of_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no PADCHEST_chest_x_ray"):
        open_cohort(f"padchest:{tmp_path}")
    trees.padchest(tmp_path, packed=True)
    (tmp_path / trees.PADCHEST_TABLE).write_text("interrupted\n")
    with pytest.raises(UsageError, match=r"not as long as .* unpacked"):
        open_cohort(f"padchest:{tmp_path}")


@pytest.mark.skipif(not REAL, reason="TIER_PADCHEST_TABLE names no copy of PadChest's own table")
def test_the_published_table_gives_the_counts_of_the_paper() -> None:
    published = json.loads((DATA / "padchest57_counts.json").read_text())
    cohort = open_cohort(f"padchest:{REAL}")
    assert len(cohort) == published["physician_rows"]
    assert cohort.left_out == {OTHERS: 121_808}
    found = dict(zip(cohort.names, cohort.truth.sum(axis=0).tolist(), strict=True))
    assert found == published["counts"]
    assert Counter(cohort.groups["Projection"]) == {
        "PA": 23_961, "L": 12_608, "AP_horizontal": 1_896, "AP": 575, "COSTAL": 13,
    }  # fmt: skip
