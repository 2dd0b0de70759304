"""python -m pytest tests/infer/evaluation/test_covid.py -- COVID-QU-Ex from its folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.infer.evaluation import trees
from tier_infer.errors import UsageError
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
    assert cohort.labels == ("covid_19", "pneumonia")
    np.testing.assert_array_equal(cohort.truth.sum(axis=0), [6, 4])
    np.testing.assert_array_equal(cohort.truth.sum(axis=1), np.ones(10))
    assert cohort.left_out == {NORMAL: 6}
    assert all((cohort.root / case.place).is_file() for case in cohort.cases)
    assert cohort.groups["split"] == ("train",) * 5 + ("val",) * 2 + ("test",) * 3
    assert [case.line for case in cohort.cases] == list(range(1, 11))
    assert cohort.cases[0].image_path == "Train/COVID-19/images/covid-19_0.png"
    assert "patients" in cohort.notes[0]


def test_masks_are_of_the_infection(tmp_path: Path) -> None:
    trees.covid(tmp_path)
    cohort = open_cohort(f"covid:{tmp_path}", "test")
    assert cohort.split == "test"
    assert cohort.masks == {"covid_19": ("", "Test/COVID-19/infection masks/covid-19_1.png", "")}
    assert (cohort.root / cohort.masks["covid_19"][1]).is_file()


def test_all_classes_on_request(tmp_path: Path) -> None:
    trees.covid(tmp_path)
    cohort = open_cohort(f"covid:{tmp_path},classes=all")
    assert cohort.labels == ("covid_19", "pneumonia", "no_finding")
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
    with pytest.raises(UsageError, match=f"has no row: 1 {NORMAL[:11]}"):
        open_cohort(f"covid:{tmp_path}")
