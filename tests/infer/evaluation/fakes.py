"""A scorer of known scores and cohorts of small pictures: figures known by construction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tier_infer.evaluation.cohort import Case, Cohort, cohort_of
from tier_infer.evaluation.scores import HEAD, ScoreTable
from tier_infer.geometry import GEOMETRIES
from tier_infer.scoring import Presets
from tier_infer.tables import csv_text

LABELS = ("edema", "effusion")
NAN = float("nan")
SIZE = 128  # what small-112 crops without resizing
ZERO, STEP = 30, 2  # grey of image 0, and how much lighter every next one is
MOST = 100  # images that differ in grey


class GreyScorer:
    """Knows an image by its grey in the middle: score [i, l] is `table[i, l]` for image i."""

    def __init__(
        self,
        table: NDArray[np.float32],
        labels: Sequence[str] = LABELS,
        stop_at: int | None = None,
        **identity: Any,
    ) -> None:
        self.table, self.labels, self.stop_at = table, tuple(labels), stop_at
        views = ("AP", "PA", "LATERAL", "unknown")
        self.presets = Presets(GEOMETRIES["small-112"], "minmax", views)
        self.identity = {
            "side": "fake", "name": "fake", "checkpoints": ["c" * 64], "scoring": "margin",
            "label_sets": {"lungs": {"prompts_sha256": "p" * 64}}, "exported": True,
            "engine": "none", "device": "cpu", "precision": "fp32", **identity,
        }  # fmt: skip
        self.seen = 0

    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen += len(pixels)
        if self.stop_at is not None and self.seen > self.stop_at:
            raise KeyboardInterrupt
        middle = pixels[:, 56, 56].astype(int)
        return self.table[(middle - ZERO + STEP // 2) // STEP]


def picture(path: Path, number: int) -> None:
    """A slope of grey, since a blank picture is refused; a square in its middle says `number`."""
    pixels = np.tile(np.linspace(20, 235, SIZE).astype(np.uint8), (SIZE, 1))
    pixels[48:80, 48:80] = ZERO + STEP * number
    Image.fromarray(pixels).save(path)


def cohort(
    folder: Path,
    truth: Sequence[Sequence[float]],
    patients: Sequence[str] | None = None,
    studies: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    first: int = 0,
    columns: Sequence[str] = LABELS,
    groups: Mapping[str, tuple[str, ...]] | None = None,
    draw: bool = True,
) -> Cohort:
    """N images `first`, `first` + 1, …; one patient each where none are named."""
    n = len(truth)
    names = names or [f"{first + i:03d}.png" for i in range(n)]
    patients = patients or [f"p{first + i}" for i in range(n)]
    studies, views = studies or [""] * n, views or [""] * n
    rows = zip(names, patients, studies, views, strict=True)
    cases = [Case(name, name, p, s, v, i + 2) for i, (name, p, s, v) in enumerate(rows)]
    if draw:
        for i, name in enumerate(names):
            picture(folder / name, first + i)
    split = "test" if first == 0 else "valid"
    return cohort_of(
        "manifest", f"made/{split}.csv", folder, split, cases, columns,
        np.array(truth, np.float32), groups=groups,
    )  # fmt: skip


def table_of(cohort: Cohort, z: NDArray[np.float32], labels: Sequence[str] = LABELS) -> ScoreTable:
    """As if all images had been scored; a row of NaN failed."""
    scored = ~np.isnan(z).any(axis=1)
    status = tuple("scored" if s else "failed" for s in scored)
    reason = tuple("" if s else "damaged" for s in scored)
    paths = tuple(case.image_path for case in cohort.cases)
    pixels = tuple(f"{i:016x}" if s else "" for i, s in enumerate(scored))
    return ScoreTable(tuple(labels), paths, status, reason, pixels, z.astype(np.float32))


def random_truth(n: int, seed: int, columns: int = len(LABELS)) -> NDArray[np.float32]:
    """Of both classes in every column."""
    truth = (np.random.default_rng(seed).random((n, columns)) < 0.4).astype(np.float32)
    truth[0], truth[1] = 1, 0
    return truth


def random_scores(truth: NDArray[np.float32], seed: int, help: float = 0.5) -> NDArray[np.float32]:
    """Noise, and `help` more for positives; a tie here and there."""
    noise = np.random.default_rng(seed).normal(size=truth.shape)
    return np.round(noise + help * np.nan_to_num(truth), 2).astype(np.float32)


def failing(cohort: Cohort, rows: Sequence[int]) -> Cohort:
    """These images do not exist."""
    cases = [
        replace(case, place=f"gone-{case.place}") if i in rows else case
        for i, case in enumerate(cohort.cases)
    ]
    return replace(cohort, cases=tuple(cases))


N, V = 40, 24  # images of `halves`
TRUTH = random_truth(N + V, 1)
Z = random_scores(TRUTH, 2, 1.0)
SEX = tuple("FM"[i % 2] for i in range(N))


def halves(folder: Path) -> tuple[Cohort, Cohort]:
    """Test and validation, in which image 3 is missing; patients of two images each."""
    patients = [f"PATIENT{i // 2}" for i in range(N + V)]
    studies = [f"STUDY{i}" for i in range(N + V)]
    sex = {"sex": SEX}
    test = cohort(folder, TRUTH[:N].tolist(), patients[:N], studies[:N], groups=sex)
    valid = cohort(folder, TRUTH[N:].tolist(), patients[N:], studies[N:], first=N)
    return test, failing(valid, [3])


def write_scores(folder: Path, table: ScoreTable, plan: dict[str, Any] | None = None) -> Path:
    """As another evaluation would."""
    folder.mkdir()
    rows: list[tuple[object, ...]] = [(*HEAD, *table.labels)]
    for i, path in enumerate(table.paths):
        z = table.z[i].tolist() if table.status[i] == "scored" else ()
        rows.append((path, table.status[i], table.reason[i], table.pixels[i], *z))
    (folder / "scores.csv").write_text(csv_text(rows))
    if plan is not None:
        (folder / "plan.json").write_text(json.dumps(plan))
    return folder
