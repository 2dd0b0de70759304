"""scores.csv: what a model said of every image of a cohort, written as it is computed.

    image_path,status,reason,pixels,<label>,<label>,…

One row per image in the cohort's order. `pixels` is the digest of the crop that the network saw, so
that two models can be shown to have seen the same. plan.json beside it says what was asked of whom;
a run that was interrupted goes on where the rows end, to the same bytes, and only under the same
plan.
"""

from __future__ import annotations

import array
import contextlib
import csv
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tier_infer.embeddings import BATCH
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort, described, files_digest
from tier_infer.files import write_atomic
from tier_infer.reader import Reader
from tier_infer.scoring import Crop, ImageResult, Presets, crops_of
from tier_infer.tables import csv_text

HEAD = ("image_path", "status", "reason", "pixels")
PLAN, SCORES = "plan.json", "scores.csv"
DIGITS = 16  # of a crop's digest


class Scorer(Protocol):
    """A model with its labels: a bundle, or checkpoints in PyTorch."""

    labels: tuple[str, ...]  # L ids, `set:label` where not of the default set
    presets: Presets
    identity: dict[str, Any]  # everything that the scores depend on, for plan.json

    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W] → float32 [N, L]; higher means more likely."""
        ...


@dataclass(frozen=True)
class ScoreTable:
    labels: tuple[str, ...]  # L
    paths: tuple[str, ...]  # N
    status: tuple[str, ...]  # scored, not_evaluated or failed
    reason: tuple[str, ...]  # stable code; flags of a scored image, separated by spaces
    pixels: tuple[str, ...]  # digest of the crop; "" where there is none
    z: NDArray[np.float32]  # [N, L], NaN where not scored

    @property
    def scored(self) -> NDArray[np.bool_]:
        return np.array([status == "scored" for status in self.status], bool)


def plan_of(cohort: Cohort, scorer: Scorer) -> dict[str, Any]:
    """What decides every row of scores.csv. Of the image files it knows sizes and times."""
    return {
        "schema": "tier-evaluate-plan/1",
        "dataset": described(cohort) | {"files": files_digest(cohort)},
        "geometry": scorer.presets.geometry.name,
        "intensity": scorer.presets.intensity,
        "labels": list(scorer.labels),
        "model": scorer.identity,
    }


def score_cohort(
    cohort: Cohort, scorer: Scorer, folder: Path, tell: Callable[[int, int], None]
) -> ScoreTable:
    """Scores what scores.csv in `folder` does not hold yet, and returns all of it.

    `tell(done, total)` at the start and after every block. UsageError where the folder holds
    another plan's scores.
    """
    plan = plan_of(cohort, scorer)
    _check_plan(folder, plan)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SCORES
    done = _keep_whole_blocks(path, cohort, scorer.labels)
    if not done:  # the plan first: rows without one would belong to nobody
        write_atomic(folder / PLAN, (json.dumps(plan, indent=1) + "\n").encode())
        write_atomic(path, csv_text([(*HEAD, *scorer.labels)]).encode())
    tell(done, len(cohort))
    waiting = cohort.cases[done:]
    places = (str(cohort.root / case.place) for case in waiting)
    with path.open("ab") as file:
        for block in _blocks(places, scorer) if waiting else ():
            cases = cohort.cases[done : done + len(block)]
            rows = [_row(c.image_path, *scored) for c, scored in zip(cases, block, strict=True)]
            file.write(csv_text(rows).encode("utf-8", "surrogateescape"))
            file.flush()  # what a killed process leaves; a lost machine may leave less
            done += len(block)
            tell(done, len(cohort))
        os.fsync(file.fileno())
    return read_scores(path)


def _blocks(
    places: Iterable[str], scorer: Scorer
) -> Iterator[list[tuple[ImageResult, NDArray[np.float32] | None]]]:
    with Reader() as reader:
        for block in crops_of(places, scorer.presets, reader):
            yield _scored(block, scorer)


def _scored(
    block: list[tuple[ImageResult, Crop | None]], scorer: Scorer
) -> list[tuple[ImageResult, NDArray[np.float32] | None]]:
    crops = [crop for _, crop in block if crop is not None]
    z = iter(scorer.scores(np.stack(crops)) if crops else ())
    rows: list[tuple[ImageResult, NDArray[np.float32] | None]] = []
    for result, crop in block:
        if result.reason == "unreadable" and not os.path.exists(result.path):
            result.reason = "missing"  # a dataset that is not whole, rather than a damaged one
        row = None if crop is None else next(z)
        if row is not None and not np.isfinite(row).all():
            result.refuse("failed", "not_finite", "the model's output is not finite")
            row = None
        rows.append((result, row))
    return rows


def _row(name: str, result: ImageResult, z: NDArray[np.float32] | None) -> tuple[str, ...]:
    words = " ".join(result.flags) if z is not None else str(result.reason)
    digest = (result.digest or "")[:DIGITS] if z is not None else ""
    return (name, result.status, words, digest, *(() if z is None else map(_digits, z)))


def _digits(value: np.float32) -> str:
    return f"{value:.9g}"  # as many as float32 has


def _check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """UsageError where `folder` holds anything else than a part of this plan."""
    if not folder.is_dir():
        if folder.exists():
            raise UsageError(f"{folder} is a file; name a folder for the results")
        return
    unfinished = re.compile(r"\..*\.tmp")  # what a process killed in write_atomic leaves
    if all(unfinished.fullmatch(entry.name) for entry in folder.iterdir()):
        return
    try:
        before = json.loads((folder / PLAN).read_text("utf-8"))
    except (OSError, ValueError):
        raise UsageError(
            f"{folder} holds files that no evaluation wrote; name an empty folder"
        ) from None
    if before != plan:
        found = before if isinstance(before, dict) else {}
        if _but_files(found) == _but_files(plan):
            raise UsageError(
                f"{folder} holds scores from before images of {plan['dataset']['name']} changed, "
                "came or went; name another folder, or remove this one to score all again"
            )
        other = next(key for key in {**plan, **found} if plan.get(key) != found.get(key))
        raise UsageError(
            f"{folder} holds scores of another evaluation, its {other} differs; name another folder"
        )


def _but_files(plan: dict[str, Any]) -> dict[str, Any]:
    dataset = plan.get("dataset")
    known = dataset if isinstance(dataset, dict) else {}
    return {**plan, "dataset": {key: known[key] for key in known if key != "files"}}


def _keep_whole_blocks(path: Path, cohort: Cohort, labels: tuple[str, ...]) -> int:
    """Images whose rows stand. The rest is cut off: a row that a killed process left half written,
    and the rows of a block that is not whole, since a network may round differently in a smaller
    batch and the file would not be the same to the last bit."""
    if not path.is_file():
        return 0
    done = kept = whole = 0  # rows, rows of whole blocks, bytes of these
    with path.open("rb") as file:
        lines = _Lines(file)
        with contextlib.suppress(csv.Error):  # an open quote: cut within a name
            rows = csv.reader(lines, strict=True)
            if tuple(next(rows, ())) != (*HEAD, *labels) or not lines.ended:
                return 0
            whole = lines.taken
            for row in rows:
                if not lines.ended:
                    break
                if done == len(cohort) or row[:1] != [cohort.cases[done].image_path]:
                    raise UsageError(f"{path} lists other images than its plan; name a new folder")
                done += 1
                if done % BATCH == 0 or done == len(cohort):
                    kept, whole = done, lines.taken
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return kept


class _Lines:
    """Lines of a binary file as text, and how far it was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.taken = 0  # bytes
        self.ended = True  # whether the last line was a whole one

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._file.readline()
        if not raw:
            raise StopIteration
        self.taken += len(raw)
        self.ended = raw.endswith(b"\n")
        return raw.decode("utf-8", "surrogateescape")


def read_scores(path: Path) -> ScoreTable:
    """Of the file or its folder. UsageError for a file that is none of ours, for one that is not
    finished, and for scores that aren't finite numbers."""
    if path.is_dir():
        path = path / SCORES
    try:
        with path.open("rb") as file:
            return _read(path, _Lines(file))
    except OSError as error:
        raise UsageError(f"{path} can't be opened: {error.strerror}") from None
    except csv.Error:
        raise UsageError(f"{path} is no CSV of an evaluation, or its end is missing") from None


def _read(path: Path, lines: _Lines) -> ScoreTable:
    """Row by row: 40,000 images and 57 labels take their numbers' room, not that of their text."""
    rows = csv.reader(lines, strict=True)
    head = next(rows, [])
    if tuple(head[: len(HEAD)]) != HEAD or len(head) == len(HEAD):
        raise UsageError(
            f"{path} is no scores.csv of an evaluation, whose columns are {', '.join(HEAD)} and "
            "labels; `evaluate … -o FOLDER` writes one"
        )
    labels = tuple(head[len(HEAD) :])
    texts: list[tuple[str, ...]] = []
    z = array.array("f")
    none = [math.nan] * len(labels)
    for row in rows:
        scored = len(row) > 1 and row[1] == "scored"
        if len(row) != len(HEAD) + (len(labels) if scored else 0) or not lines.ended:
            raise UsageError(f"{path} line {rows.line_num} is not a row of these columns")
        try:
            values = [float(cell) for cell in row[len(HEAD) :]] if scored else none
        except ValueError:
            raise UsageError(f"{path} line {rows.line_num}: a score is no number") from None
        if scored and not all(map(math.isfinite, values)):
            raise UsageError(f"{path} line {rows.line_num}: a score is not finite")
        z.extend(values)
        texts.append((row[0], sys.intern(row[1]), sys.intern(row[2]), row[3]))
    columns = tuple(zip(*texts, strict=True)) or ((), (), (), ())
    paths, status, reason, pixels = columns
    if len(set(paths)) != len(paths):
        raise UsageError(f"{path} lists an image twice")
    table = np.array(z, np.float32).reshape(len(paths), len(labels))
    return ScoreTable(labels, paths, status, reason, pixels, table)
