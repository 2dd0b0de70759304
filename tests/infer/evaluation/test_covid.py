"""python -m pytest tests/infer/evaluation/test_covid.py -- COVID-QU-Ex from its folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.infer.evaluation import trees
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import NO_PATIENTS
from tier_infer.evaluation.covid import NORMAL
from tier_infer.evaluation.datasets import open_cohort

TREE = trees.COVID_TREE


@pytest.mark.parametrize(
    ("nested", "given"),
    [(f"{TREE}/{TREE}", "."), (f"{TREE}/{TREE}", TREE), (f"{TREE}/{TREE}", f"{TREE}/{TREE}"),
     (TREE, "."), ("", ".")],
)  # fmt: skip
def test_covid_is_held_against_other_pneumonia(tmp_path: Path, nested: str, given: str) -> None:
    trees.covid(tmp_path, nested)
    cohort = open_cohort(f"covid:{tmp_path / given}")
    assert cohort.labels == ("covid_19", "other_pneumonia")
    np.testing.assert_array_equal(cohort.truth.sum(axis=0), [6, 4])
    np.testing.assert_array_equal(cohort.truth.sum(axis=1), np.ones(10))
    assert cohort.left_out == {NORMAL: 6}
    assert all((cohort.root / case.place).is_file() for case in cohort.cases)
    assert cohort.groups["split"] == ("train",) * 5 + ("val",) * 2 + ("test",) * 3
    assert [case.line for case in cohort.cases] == list(range(1, 11))
    assert cohort.cases[0].image_path == "Train/COVID-19/images/covid-19_0.png"
    assert cohort.notes == (NO_PATIENTS,)


def test_masks_are_of_the_infection(tmp_path: Path) -> None:
    trees.covid(tmp_path)
    cohort = open_cohort(f"covid:{tmp_path}", "test")
    assert cohort.split == "test"
    assert cohort.masks == {"covid_19": ("", "Test/COVID-19/infection masks/covid-19_1.png", "")}
    assert (cohort.root / cohort.masks["covid_19"][1]).is_file()


def test_all_classes_on_request(tmp_path: Path) -> None:
    trees.covid(tmp_path)
    cohort = open_cohort(f"covid:{tmp_path},classes=all")
    assert cohort.labels == ("covid_19", "other_pneumonia", "no_finding")
    np.testing.assert_array_equal(cohort.truth.sum(axis=0), [6, 4, 6])
    assert cohort.left_out == {}


def test_the_other_tree_is_read_only_by_name(tmp_path: Path) -> None:
    other = "Lung Segmentation Data"
    trees.covid(tmp_path, f"{other}/{other}", infection=False)
    with pytest.raises(UsageError, match=f"name it: covid:.*{other}"):
        open_cohort(f"covid:{tmp_path}")
    cohort = open_cohort(f"covid:{tmp_path / other}")
    assert (len(cohort), cohort.masks) == (10, {})
    assert cohort.name == f"COVID-QU-Ex/{other}"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no Infection Segmentation Data"):
        open_cohort(f"covid:{tmp_path}")
    picture = tmp_path / "Train/Normal/images/a.png"
    trees.picture(picture)
    with pytest.raises(UsageError, match="no row with split 'test'; it has train"):
        open_cohort(f"covid:{tmp_path}", "test")
    with pytest.raises(UsageError, match="has no images in Train/COVID-19/images"):
        open_cohort(f"covid:{tmp_path}")


def test_a_split_without_a_class_is_refused(tmp_path: Path) -> None:
    """COVID-19 against nobody has no area; and what is left would be another comparison."""
    trees.covid(tmp_path, "")
    other = tmp_path / "Test/Non-COVID"
    (other / "images").rename(other / "image")
    for split in (None, "test"):
        with pytest.raises(UsageError, match="no images in Test/Non-COVID/images; fetch the split"):
            open_cohort(f"covid:{tmp_path}", split)
    assert len(open_cohort(f"covid:{tmp_path}", "train")) == 5
    other.rename(tmp_path / "Test/Non_COVID")
    with pytest.raises(UsageError, match="no images in Test/Non-COVID/images"):
        open_cohort(f"covid:{tmp_path}")


def test_normal_films_are_missed_only_where_they_are_asked(tmp_path: Path) -> None:
    trees.covid(tmp_path, "")
    shutil.rmtree(tmp_path / "Val/Normal")
    assert open_cohort(f"covid:{tmp_path}").left_out == {NORMAL: 5}
    with pytest.raises(UsageError, match="no images in Val/Normal/images"):
        open_cohort(f"covid:{tmp_path},classes=all")


def test_a_missing_split_is_told(tmp_path: Path) -> None:
    trees.covid(tmp_path, "")
    shutil.rmtree(tmp_path / "Train")
    cohort = open_cohort(f"covid:{tmp_path}")
    assert len(cohort) == 5
    assert cohort.notes[0].endswith("has no folder Train: its images are missing here")
    assert open_cohort(f"covid:{tmp_path}", "test").notes == (NO_PATIENTS,)
