"""python -m pytest tests/infer/evaluation/test_radiologists.py -- decisions beside the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.infer.evaluation import trees
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.evaluation.radiologists import read_radiologists

STUDY = "CheXpert-v1.0/test/{}/study{}"


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    trees.chexpert(tmp_path / "data")
    return open_cohort(f"chexpert:{tmp_path / 'data'}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """bc4 decides on a study that the cohort lacks, lacks one of its own, and has the two columns
    the other way round than the cohort."""
    head = ("Study", "Lung Lesion", "Lung Opacity", "Edema", "Something Else")
    bc4 = [
        (STUDY.format("patient64542", 1), 1, 0, 0, 1),
        (STUDY.format("patient64541", 1), 0, 1, 1, 1),
        (STUDY.format("patient60000", 1), 1, 1, 1, 1),
    ]
    bc6 = [(STUDY.format("patient64543", 2), "", "0.0", "-1.0", 1)]
    trees.table(tmp_path / "rads/bc4.csv", [head, *bc4])
    trees.table(tmp_path / "rads/bc6.csv", [head, *bc6])
    (tmp_path / "rads/._bc4.csv").write_bytes(b"\0left by a file manager")
    return tmp_path / "rads"


def test_decisions_are_matched_by_study_and_by_name(folder: Path, cohort: Cohort) -> None:
    found, _ = read_radiologists(folder, cohort)
    assert list(found) == ["bc4", "bc6"]
    assert {table.shape for table in found.values()} == {(4, 14)}
    columns = [cohort.labels.index(label) for label in ("lung_opacity", "lung_lesion", "edema")]
    nan = np.nan
    np.testing.assert_array_equal(
        found["bc4"][:, columns], [[1, 0, 1], [1, 0, 1], [0, 1, 0], [nan, nan, nan]]
    )
    np.testing.assert_array_equal(found["bc6"][3, columns], [0, nan, nan])
    assert np.isnan(found["bc4"][:, cohort.labels.index("fracture")]).all()


def test_what_stands_on_one_side_only_is_counted(folder: Path, cohort: Cohort) -> None:
    assert read_radiologists(folder, cohort)[1] == (
        "bc4: 2 of 3 studies of the cohort; 1 of the file are not in it",
        "bc6: 1 of 3 studies of the cohort; 0 of the file are not in it",
    )


def test_a_study_of_blanks_is_not_decided_on(folder: Path, cohort: Cohort) -> None:
    """Nor one with decisions on labels alone that the cohort lacks."""
    rows: list[tuple[object, ...]] = [("Study", "Edema", "Something Else")]
    rows += [(STUDY.format("patient64541", 1), "", 1), (STUDY.format("patient64542", 1), -1, ""),
             (STUDY.format("patient64543", 2), 1, "")]  # fmt: skip
    trees.table(folder / "bc4.csv", rows)
    _, notes = read_radiologists(folder, cohort)
    assert notes[0].startswith("bc4: 1 of 3 studies of the cohort; 0 ")


def test_the_truth_is_no_radiologist(folder: Path, cohort: Cohort) -> None:
    """groundtruth.csv beside the decisions would be a reader who is never wrong."""
    rows: list[tuple[object, ...]] = [("Study", "Edema", "Cardiomegaly")]
    rows += [(STUDY.format("patient64541", 1), 1, 0), (STUDY.format("patient64542", 1), 0, 1),
             (STUDY.format("patient64543", 2), 0, 1)]  # fmt: skip
    trees.table(folder / "groundtruth.csv", rows)
    with pytest.raises(UsageError, match=r"groundtruth\.csv is the truth of data/test\.csv itself"):
        read_radiologists(folder, cohort)
    trees.table(folder / "groundtruth.csv", [*rows[:2], (rows[2][0], 1, 1), rows[3]])
    assert "groundtruth" in read_radiologists(folder, cohort)[0]


def test_nothing_to_decide_on_is_refused(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no CSV of a radiologist's decisions"):
        read_radiologists(tmp_path, cohort)
    (folder / "bc4.csv").write_text(f"Study,Edema\n{STUDY.format('patient60000', 1)},1\n")
    with pytest.raises(UsageError, match=r"bc4\.csv decides on no study and label"):
        read_radiologists(folder, cohort)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Image,Edema\na,1\n", "needs the columns Study"),
        ("Study,Edema\na/b,2\n", "line 2: a label is not"),
        ("Study,Edema,edema\na/b,1,0\n", "two columns for edema"),
        ("Study,Edema\nx/a/b,1\ny/a/b,1\n", "line 3: the study stood in a line before"),
    ],
)
def test_an_odd_table_is_refused(folder: Path, cohort: Cohort, text: str, words: str) -> None:
    (folder / "bc4.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_radiologists(folder, cohort)
