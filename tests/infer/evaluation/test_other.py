"""python -m pytest tests/infer/evaluation/test_other.py -- another model's scores, read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.infer.evaluation.fakes import (
    LABELS,
    GreyScorer,
    cohort,
    random_scores,
    random_truth,
    table_of,
    write_scores,
)
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.other import match_labels, read_other
from tier_infer.evaluation.scores import plan_of

Floats = NDArray[np.float32]
N = 60
TRUTH = random_truth(N, 1)
Z = random_scores(TRUTH, 2, 1.0)
POOL = {"kind": "top_k", "k": 5}


@pytest.fixture
def images(tmp_path: Path) -> Cohort:
    return cohort(tmp_path, TRUTH.tolist(), draw=False)


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [(None, POOL, False), (POOL, POOL, True), (POOL, {"kind": "top_k", "k": 6}, False),
     (None, None, True)],
)  # fmt: skip
def test_pooled_scores_are_another_scoring(
    images: Cohort, tmp_path: Path, here: Any, there: Any, same: bool
) -> None:
    plans = []
    for pool in (here, there):
        row = {"prompts_sha256": "p" * 64} | ({"pool": pool} if pool else {})
        scorer = GreyScorer(Z, label_sets={f"set{len(plans)}": row | {"graph": len(plans)}})
        plans.append(plan_of(images, scorer))
    path = write_scores(tmp_path / "other", table_of(images, Z), plans[1])
    other = read_other(path, images, LABELS, plans[0])
    assert (other.same["scoring"], other.comparable) == (same, same)


def test_scores_of_other_images_are_refused_with_counts(images: Cohort, tmp_path: Path) -> None:
    other = images.part(np.arange(N) >= 4)
    table = table_of(other, Z[4:])
    table = replace(table, paths=("new.png", *table.paths[1:]))
    path = write_scores(tmp_path / "other", table)
    with pytest.raises(UsageError, match=r"5 of 60 images .* lists 1 that are not"):
        read_other(path, images, LABELS, {})


def test_scores_of_other_labels_are_refused(images: Cohort, tmp_path: Path) -> None:
    path = write_scores(tmp_path / "other", table_of(images, Z, ("nodule", "mass")))
    with pytest.raises(UsageError, match="scores of nodule, mass, none of which"):
        read_other(path, images, LABELS, {})


@pytest.mark.parametrize("plan", ["[]", "{", '{"model": 5}', '{"model": {"label_sets": [1]}}'])
def test_a_plan_of_another_program_is_no_obstacle(
    images: Cohort, tmp_path: Path, plan: str
) -> None:
    path = write_scores(tmp_path / "other", table_of(images, Z))
    (path / "plan.json").write_text(plan)
    other = read_other(path / "scores.csv", images, LABELS, plan_of(images, GreyScorer(Z)))
    assert other.same["prompts"] is None
    assert other.comparable


@pytest.mark.parametrize(
    ("here", "there", "pairs"),
    [
        (["edema", "mass"], ["mass", "edema"], [(0, 1), (1, 0)]),
        (["edema"], ["padchest:edema"], [(0, 0)]),
        (["padchest:edema"], ["edema", "chexpert:edema"], []),  # which of the two?
        (["edema", "padchest:edema"], ["edema"], [(0, 0)]),
        (["edema"], ["x:mass"], []),
        (["chexpert:edema", "mass"], ["edema", "mass", "x:mass"], [(0, 0), (1, 1)]),
    ],
)
def test_labels_match_by_name_then_by_id(
    here: list[str], there: list[str], pairs: list[tuple[int, int]]
) -> None:
    assert match_labels(here, there) == pairs
