"""python -m pytest tests/infer/evaluation/test_mimic_labels.py -- MIMIC-CXR-JPG's labels, no
reports. What damaged tables give stands in tests/train/test_mimic_tables.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.infer.evaluation import trees
from tier_infer.errors import UsageError
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.evaluation.mimic import NO_LABELS, NO_SPLIT

NAN = np.nan


@pytest.mark.parametrize(("packed", "files"), [(True, True), (False, False)])
def test_the_test_split_is_read(tmp_path: Path, packed: bool, files: bool) -> None:
    cohort = open_cohort(f"mimic:{trees.mimic(tmp_path, packed, files)}")
    assert cohort.split == "test"
    assert [case.image_path for case in cohort.cases] == ["aa-1.jpg", "aa-2.jpg", "bb-1.jpg"]
    np.testing.assert_array_equal(cohort.truth_of("edema"), [1, 1, NAN])
    np.testing.assert_array_equal(cohort.truth_of("pneumonia"), [NAN, NAN, 0])
    assert [case.view for case in cohort.cases] == ["frontal", "lateral", "frontal"]
    assert [case.patient for case in cohort.cases] == ["10000032", "10000032", "10000764"]
    assert cohort.cases[0].study == cohort.cases[1].study != cohort.cases[2].study
    assert [case.line for case in cohort.cases] == [2, 3, 4]
    assert all((cohort.root / case.place).is_file() for case in cohort.cases)
    assert cohort.left_out == {NO_LABELS: 1, NO_SPLIT: 1}


def test_the_publishers_validate_is_val(tmp_path: Path) -> None:
    trees.mimic(tmp_path)
    for split in ("val", "valid", "validate"):
        cohort = open_cohort(f"mimic:{tmp_path}", split)
        assert ([case.image_path for case in cohort.cases], cohort.split) == (["dd-1.jpg"], "val")
    with pytest.raises(UsageError, match="no row with split 'all'; it has test, train, val"):
        open_cohort(f"mimic:{tmp_path}", "all")


def test_another_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no mimic-cxr-2\.\*-chexpert\.csv"):
        open_cohort(f"mimic:{tmp_path}")
