"""python -m pytest tests/infer/evaluation/test_units.py -- what each protocol counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.infer.evaluation.fakes import NAN, cohort, table_of
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.units import units_of

#        name      patient study view       edema  effusion
ROWS = [
    ("s1/2.png", "p1", "s1", "frontal", 1, 0),
    ("s1/1.png", "p1", "s1", "frontal", 1, 1),
    ("s1/3.png", "p1", "s1", "lateral", 0, 0),
    ("s2/1.png", "p1", "s2", "lateral", 1, 1),
    ("s1b/1.png", "p2", "s1", "", 0, NAN),  # the study's name of another patient
    ("alone/1.png", "", "", "", NAN, 1),
    ("alone/2.png", "", "", "frontal", 0, 0),
]
Z = np.arange(14, dtype=np.float32).reshape(7, 2)


@pytest.fixture
def images(tmp_path: Path) -> Cohort:
    names, patients, studies, views, *truth = zip(*ROWS, strict=True)
    rows = np.array(truth, np.float32).T
    return cohort(tmp_path, rows.tolist(), patients, studies, views, names, draw=False)


def test_per_image_counts_laterals_too(images: Cohort) -> None:
    units = units_of(images, table_of(images, Z), "per_image")
    np.testing.assert_array_equal(units.z, Z)
    np.testing.assert_array_equal(units.truth, images.truth)
    assert units.patients == ("p1", "p1", "p1", "p1", "p2", "", "")
    assert units.left_out == {}


def test_first_frontal_is_the_first_by_path(images: Cohort) -> None:
    units = units_of(images, table_of(images, Z), "first_frontal")
    assert units.members == ((1,), (4,), (5,), (6,))
    assert units.left_out == {
        "lateral images": 2,
        "studies without a frontal image": 1,
        "further frontal images of a study": 1,
    }


def test_a_first_image_that_failed_is_not_replaced(images: Cohort) -> None:
    z = Z.copy()
    z[1] = NAN
    units = units_of(images, table_of(images, z), "first_frontal")
    assert units.members == ((4,), (5,), (6,))
    assert units.left_out["studies whose first frontal image is not scored"] == 1


def test_a_study_is_the_mean_of_its_frontal_images(images: Cohort) -> None:
    units = units_of(images, table_of(images, Z), "study_mean")
    assert units.members == ((0, 1), (4,), (5,), (6,))
    np.testing.assert_array_equal(units.z[0], [1, 2])
    np.testing.assert_array_equal(units.truth[0], [1, NAN])  # they disagree on effusion
    np.testing.assert_array_equal(units.truth[1:], images.truth[4:])
    assert units.left_out["labels of studies whose images disagree"] == 1


def test_a_study_goes_by_the_images_that_were_scored(images: Cohort) -> None:
    z = Z.copy()
    z[0] = z[4] = NAN
    units = units_of(images, table_of(images, z), "study_mean")
    assert units.members == ((1,), (5,), (6,))
    np.testing.assert_array_equal(units.z[0], Z[1])
    np.testing.assert_array_equal(units.truth[0], [1, 1])
    assert units.left_out["studies without a scored frontal image"] == 1


def test_one_known_answer_is_the_studys(tmp_path: Path) -> None:
    truth = [[1, NAN], [NAN, NAN]]
    images = cohort(tmp_path, truth, ["p", "p"], ["s", "s"], draw=False)
    units = units_of(images, table_of(images, Z[:2]), "study_mean")
    np.testing.assert_array_equal(units.truth, [[1, NAN]])
    assert units.left_out == {}


def test_values_of_images_become_values_of_units(images: Cohort) -> None:
    units = units_of(images, table_of(images, Z), "study_mean")
    values = np.array([[1], [0], [1], [1], [NAN], [0], [1]], np.float32)
    np.testing.assert_array_equal(units.of_cases(values), [[NAN], [NAN], [0], [1]])


def test_a_part_keeps_rows_together(images: Cohort) -> None:
    units = units_of(images, table_of(images, Z), "per_image")
    part = units.part(units.truth[:, 0] == 1)
    assert part.members == ((0,), (1,), (3,))
    assert part.patients == ("p1", "p1", "p1")
    np.testing.assert_array_equal(part.z, Z[[0, 1, 3]])


@pytest.mark.parametrize("protocol", ["per_image", "first_frontal", "study_mean"])
def test_where_nothing_is_scored_there_are_no_units(images: Cohort, protocol: str) -> None:
    units = units_of(images, table_of(images, np.full_like(Z, NAN)), protocol)
    assert len(units) == 0
    assert units.z.shape == units.truth.shape == (0, 2)


def test_scores_of_other_images_and_unknown_protocols_are_refused(images: Cohort) -> None:
    table = table_of(images, Z)
    with pytest.raises(UsageError, match="other images"):
        units_of(images.part(np.arange(7) < 6), table, "per_image")
    with pytest.raises(UsageError, match="'median' is unknown; allowed: per_image, first"):
        units_of(images, table, "median")
