"""python -m pytest tests/infer/evaluation/test_datasets.py -- KIND:PATH, granted or refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.infer.evaluation import trees
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Case, digest
from tier_infer.evaluation.datasets import KINDS, READERS, open_cohort


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stock")
    trees.chexpert(root / "chexpert/CheXpert-v1.0")
    trees.padchest(root / "padchest")
    trees.covid(root / "covid")
    trees.mimic(root / "mimic")
    trees.nih(root / "nih")
    trees.table(root / "manifest/labels.csv", [("image_path", "edema"), ("a.png", 1)])
    return root


def place(stock: Path, kind: str) -> Path:
    return stock / kind / ("labels.csv" if kind == "manifest" else "")


@pytest.mark.parametrize("kind", READERS)
def test_every_kind_opens_as_the_help_says(stock: Path, kind: str) -> None:
    assert f"{kind}:" in KINDS
    cohort = open_cohort(f"{kind}:{place(stock, kind)}")
    assert cohort.kind == kind
    assert len(cohort) == len(cohort.truth) > 0
    assert cohort.truth.dtype == np.float32
    assert str(stock) not in cohort.name
    assert all(len(cells) == len(cohort) for cells in cohort.groups.values())
    assert len({case.image_path for case in cohort.cases}) == len(cohort)
    half = cohort.part(np.arange(len(cohort)) % 2 == 0)
    assert half.sha256 != cohort.sha256 or len(cohort) == 1


@pytest.mark.parametrize("kind", READERS)
def test_ids_are_no_groups(stock: Path, kind: str) -> None:
    cohort = open_cohort(f"{kind}:{place(stock, kind)}")
    ids = {v for case in cohort.cases for v in (case.patient, case.study)} - {""}
    shown = {v for cells in cohort.groups.values() for v in cells}
    assert not ids & shown
    told = " ".join((*cohort.notes, *cohort.left_out, cohort.name, cohort.split))
    assert not any(re.search(rf"\b{re.escape(v)}\b", told) for v in ids if len(v) > 2)


def test_cohorts_that_differ_have_digests_that_differ() -> None:
    """Where one name ends and the next begins is part of it, and where labels end."""
    none = np.zeros((1, 0), np.float32)
    one = np.ones((1, 1), np.float32)

    def of(columns: tuple[str, ...], truth: NDArray[np.float32], *names: str) -> str:
        return digest([Case(names[0], "", *names[1:], 2)], columns, truth)

    found = [
        of(("edema",), one, "1.png", "", "", ""),
        of(("edema1",), one, ".png", "", "", ""),
        of(("edema",), one, "1.png", "a\0b", "", ""),
        of(("edema",), one, "1.png", "a", "b", ""),
        of(("edema",), one, "1.png", "a", "", "b"),
        of((), none, "1.png", "", "", ""),
        of(("",), none, "1.png", "", "", ""),
        digest([], ("edema",), one),
        digest([], ("edema",), one.reshape(1, 1)[:0]),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "labels.csv",
        "chexpert",
        "chexpert:",
        ":x",
        "CheXpert:x",
        "rsna:x",
        "manifest",
        "cache:x",
    ],
)
def test_another_kind_names_the_known(spec: str) -> None:
    with pytest.raises(UsageError, match=r"--dataset takes chexpert:ROOT .* or manifest:FILE\.csv"):
        open_cohort(spec)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("chexpert", "nowhere", "no folder or file"),
        ("padchest", "nowhere", "no folder or file"),
        ("covid", "nowhere", "no folder "),
        ("covid", "manifest/labels.csv", "no folder "),
        ("mimic", "manifest/labels.csv", "no folder "),
        ("nih", "nowhere", "no folder "),
        ("manifest", "manifest", "no file "),
        ("manifest", "nowhere.csv", "no file "),
    ],
)
def test_what_is_not_there_is_refused(stock: Path, kind: str, given: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_cohort(f"{kind}:{stock / given}")
