"""python -m pytest tests/infer/evaluation/test_chexpert.py -- CheXpert in every packaging."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.infer.evaluation import trees
from tier_infer.errors import UsageError
from tier_infer.evaluation.chexlocalize import chexlocalize_masks, decode_runs
from tier_infer.evaluation.chexpert import NO_IMAGE
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.datasets import open_cohort

NAN = np.nan
EDEMA, HEART, PNEUMONIA = [1, 1, 0, 0], [0, 0, 1, NAN], [NAN] * 4
SECRETS = [image.split("/")[0] for image, *_ in trees.CHEXPERT_IMAGES]


def check(cohort: Cohort) -> None:
    np.testing.assert_array_equal(cohort.truth_of("edema"), EDEMA)
    np.testing.assert_array_equal(cohort.truth_of("cardiomegaly"), HEART)
    np.testing.assert_array_equal(cohort.truth_of("pneumonia"), PNEUMONIA)
    assert [case.patient for case in cohort.cases] == [
        "patient64541", "patient64541", "patient64542", "patient64543",
    ]  # fmt: skip
    assert [case.study[-6:] for case in cohort.cases] == ["study1"] * 3 + ["study2"]
    assert [case.view for case in cohort.cases] == ["frontal", "lateral", "frontal", "frontal"]
    assert [case.line for case in cohort.cases] == [2, 3, 4, 5]
    assert all((cohort.root / case.place).is_file() for case in cohort.cases)
    assert cohort.names == trees.CHEXPERT_LABELS
    assert cohort.notes == ("1 uncertain labels (-1) are unknown here",)


@pytest.mark.parametrize(
    ("prefix", "where", "name", "folder", "written", "given", "split"),
    [
        ("CheXpert-v1.0/", "CheXpert-v1.0", "test.csv", "test", "test", "CheXpert-v1.0", None),
        ("CheXpert-v1.0/", "CheXpert-v1.0", "test.csv", "test", "test", ".", None),
        ("CheXpert-v1.0-small/", "CheXpert-v1.0-small", "valid.csv", "valid", "valid", ".", "val"),
        ("CheXpert-v1.0/", "elsewhere", "train.csv", "train", "train", "elsewhere", "train"),
        ("", "data", "test.csv", "test", "test", "data/test.csv", None),
        ("", "CheXpert", "val_labels.csv", "val", "val", "CheXpert", "valid"),
        ("CheXpert-v1.0/", "CheXpert", "test_labels.csv", "test", "test", ".", "test"),
        ("CheXpert-v1.0/", "CheXpert", "val_labels.csv", "val", "valid", ".", "validate"),
    ],
)
def test_a_packaging_is_read(
    tmp_path: Path, prefix: str, where: str, name: str, folder: str, written: str, given: str,
    split: str | None,
) -> None:  # fmt: skip
    trees.chexpert(tmp_path / where, prefix, name, folder, written)
    cohort = open_cohort(f"chexpert:{tmp_path / given}", split)
    check(cohort)
    assert (cohort.kind, cohort.name) == ("chexpert", f"{where}/{name}")
    assert cohort.split == {"valid": "val", "val": "val"}.get(written, written)
    first = trees.CHEXPERT_IMAGES[0][0]
    assert cohort.cases[0].image_path == f"{prefix}{written}/{first}"
    if not name.endswith("_labels.csv"):
        assert cohort.groups["Sex"] == ("Female", "Female", "Male", "Unknown")


def test_a_table_in_the_working_folder_finds_images_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.chexpert(tmp_path / "tables", "", "test.csv", "test", images=tmp_path)
    monkeypatch.chdir(tmp_path / "tables")
    check(open_cohort("chexpert:test.csv"))


def test_study_labels_are_joined_to_every_image(tmp_path: Path) -> None:
    trees.chexpert_studies(tmp_path)
    cohort = open_cohort(f"chexpert:{tmp_path}")
    assert [case.image_path for case in cohort.cases] == [
        "CheXpert-v1.0/test/patient64542/study1/view1_frontal.jpg",
        "CheXpert-v1.0/test/patient64541/study1/view1_frontal.jpg",
        "CheXpert-v1.0/test/patient64541/study1/view2_lateral.jpg",
    ]
    np.testing.assert_array_equal(cohort.truth, [[0, 1], [1, 0], [1, 0]])
    assert [case.view for case in cohort.cases] == ["frontal", "frontal", "lateral"]
    assert [case.line for case in cohort.cases] == [2, 4, 4]
    assert cohort.left_out == {NO_IMAGE: 1}
    assert all((cohort.root / case.place).is_file() for case in cohort.cases)
    assert cohort.split == "test"
    with pytest.raises(UsageError, match="no row with split 'val'; it has test"):
        open_cohort(f"chexpert:{tmp_path}", "valid")


def test_the_label_repository_may_lie_beside_the_small_release(tmp_path: Path) -> None:
    table = trees.chexpert_studies(tmp_path, "CheXpert-v1.0-small")
    repository = tmp_path / "cheXpert-test-set-labels"
    repository.mkdir()
    table.rename(repository / table.name)
    assert len(open_cohort(f"chexpert:{tmp_path}")) == 3


def test_one_digest_for_all_spellings_of_a_split(tmp_path: Path) -> None:
    trees.chexpert(tmp_path, name="valid.csv", folder="valid", written="valid")
    spec = f"chexpert:{tmp_path}"
    found = {open_cohort(spec, split).sha256 for split in ("val", "valid", "validate", " Valid ")}
    assert len(found) == 1


def test_every_row_finds_its_own_prefix(tmp_path: Path) -> None:
    """Tables are put together of releases; the first row's prefix is not the others'."""
    table = trees.chexpert(tmp_path / "data")
    lines = table.read_text().splitlines()
    lines[2] = lines[2].replace("CheXpert-v1.0/", "")
    lines[3] = lines[3].replace("CheXpert-v1.0/", "CheXpert-v1.0-small/")
    table.write_text("\n".join(lines) + "\n")
    check(open_cohort(f"chexpert:{table}"))


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0-small/", "", "CheXpert-v1.0/./"])
def test_one_file_under_two_names_is_refused(tmp_path: Path, prefix: str) -> None:
    table = trees.chexpert(tmp_path / "data")
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1].replace("CheXpert-v1.0/", prefix, 1)]) + "\n")
    with pytest.raises(UsageError, match="lines 2 and 6 name the same image"):
        open_cohort(f"chexpert:{table}")


def test_missing_images_stay_cases(tmp_path: Path) -> None:
    table = trees.chexpert(tmp_path)
    (tmp_path / "test" / trees.CHEXPERT_IMAGES[0][0]).unlink()
    cohort = open_cohort(f"chexpert:{table}")
    assert len(cohort) == 4
    assert not (cohort.root / cohort.cases[0].place).exists()


def test_two_tables_of_a_split_are_not_chosen_from(tmp_path: Path) -> None:
    trees.chexpert(tmp_path / "CheXpert-v1.0")
    trees.chexpert(tmp_path / "CheXpert-v1.0-small")
    with pytest.raises(UsageError, match=r"2 tables of split test: .*name the one that is meant"):
        open_cohort(f"chexpert:{tmp_path}")
    assert len(open_cohort(f"chexpert:{tmp_path / 'CheXpert-v1.0-small'}")) == 4


ONE, TWO = (f"test/{image}" for image, *_ in trees.CHEXPERT_IMAGES[:2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"Path,Edema\n{ONE},1\n../test/patient64542/a.jpg,0\n", "line 3: an image's path must be"),
        (f"Path,Edema\n{ONE},1\n/data/{TWO},0\n", "line 3: an image's path must be relative"),
        (f"Path,Edema\n{ONE},1\n{ONE},0\n", "lines 2 and 3 name the same image"),
        ("Study,Edema\nC/test/patient64541/study1,1\nC/test/patient64541/study1,1\n", "same study"),
        (f"Path,Edema\n{ONE},1\ntrain/patient64541/study9/v.jpg,0\n", "stands in two splits"),
        (f"Path,Edema\n{ONE},2\n", "line 2: a label is not"),
        ("Study,Edema\npatient64541/study1,1\n", "line 2: Study is not like"),
        ("image,Edema\nx,1\n", "needs the columns Path"),
        (f"Path,Edema,edema\n{ONE},1,0\n", "no distinct names"),
        ("Path,Edema\ntest/patient1/study1/none.jpg,1\n", "none of the first 1 images"),
    ],
)
def test_a_table_that_can_mislead_is_refused(tmp_path: Path, text: str, words: str) -> None:
    trees.chexpert(tmp_path)
    (tmp_path / "test.csv").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        open_cohort(f"chexpert:{tmp_path / 'test.csv'}")
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no table of CheXpert: train\.csv"):
        open_cohort(f"chexpert:{tmp_path}")
    table = trees.chexpert(tmp_path)
    for place in (tmp_path, table):
        with pytest.raises(UsageError, match="no row with split 'val'; it has test"):
            open_cohort(f"chexpert:{place}", "val")


# CheXlocalize's masks. The codes are written out by hand: 100 is 00011|00100, so `T` (4, more
# follow: 36 + 48) and `3`; 20 is 10100, whose sixteen would be a sign, so `d` (52 + 48) and `0`;
# -10 is 10110, `F` (22 + 48), the fourth run 10 less the second; -1 is 11111, `O` (31 + 48).


@pytest.mark.parametrize(
    ("counts", "size", "runs"),
    [
        ("132", (2, 3), [1, 3, 2]),
        ("06", (3, 2), [0, 6]),
        ("T3", (10, 10), [100]),
        ("5d03FO", (8, 5), [5, 20, 3, 10, 2]),
    ],
)
def test_runs_are_decoded_by_columns(counts: str, size: tuple[int, int], runs: list[int]) -> None:
    bits = [i % 2 == 1 for i, run in enumerate(runs) for _ in range(run)]
    expected = [[bits[x * size[0] + y] for x in range(size[1])] for y in range(size[0])]
    np.testing.assert_array_equal(decode_runs(counts, *size), expected)


@pytest.mark.parametrize(
    ("counts", "height", "width"),
    [("132", 2, 2), ("1", 0, 0), ("132", -2, -3), ("T", 10, 10), ("1é2", 2, 3), ("\x7f", 1, 1),
     ("TTTTTTTTTT3", 2, 3), ("O7", 2, 3), ("", 1, 1), ("6", 2**20, 2**20)],
)  # fmt: skip
def test_what_is_no_code_is_refused(counts: str, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=r"code|runs|size|ascii"):
        decode_runs(counts, height, width)


def test_masks_are_found_by_image_and_label(tmp_path: Path) -> None:
    trees.chexpert(tmp_path, "CheXpert-v1.0/", "val_labels.csv", "val", "val")
    cohort = open_cohort(f"chexpert:{tmp_path}", "val")
    path = tmp_path / "gt_segmentations_val.json"
    drawn, empty = {"size": [2, 3], "counts": "132"}, {"size": [2, 3], "counts": "6"}
    masks = {"Edema": drawn, "Airspace Opacity": drawn, "Atelectasis": empty}
    broken = {"Edema": {"size": [2, 3], "counts": "7"}, "Consolidation": {"size": 5, "counts": 1}}
    names = [image.replace("/", "_")[:-4] for image, *_ in trees.CHEXPERT_IMAGES]
    path.write_text(json.dumps({names[0]: masks, names[1]: broken}))
    mask = chexlocalize_masks(path)
    first, second, third, _ = cohort.cases
    found = mask(first, "edema")
    assert found is not None
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 1, 0]])
    assert mask(first, "lung_opacity") is not None
    assert mask(first, "atelectasis") is None  # nothing drawn
    assert mask(third, "edema") is None
    for label in ("edema", "consolidation"):
        with pytest.raises(UsageError, match=f"a mask of {label} can't be decoded") as caught:
            mask(second, label)
        assert "patient" not in str(caught.value)
    for text in ("{", "[]", '{"a": {"Edema": 5}}'):
        path.write_text(text)
        with pytest.raises(UsageError, match="no JSON of masks"):
            chexlocalize_masks(path)
