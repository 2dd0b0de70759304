"""python -m pytest tests/infer/evaluation/test_scores.py -- scores.csv: written, cut, resumed."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.infer.evaluation.fakes import GreyScorer, cohort, failing, picture, random_truth
from tier_infer.embeddings import BATCH
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.scores import HEAD, read_scores, score_cohort

N = 2 * BATCH + 5
Z = np.random.default_rng(7).normal(size=(N, 2)).astype(np.float32)


class BatchScorer(GreyScorer):
    """As networks do: the last bits depend on how many images are computed at once."""

    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return super().scores(pixels) + np.float32(len(pixels) * 1e-4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """One missing file; names that need quotes."""
    folder = tmp_path_factory.mktemp("images")
    names = [f"{i:03d}.png" for i in range(N)]
    names[3], names[BATCH + 1] = 'a, "b".png', "two\nlines.png"
    return failing(cohort(folder, random_truth(N, 0).tolist(), names=names), [5])


@pytest.fixture(scope="module")
def finished(images: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(images, BatchScorer(Z), folder)
    return folder


@pytest.fixture(scope="module")
def whole(finished: Path) -> bytes:
    return (finished / "scores.csv").read_bytes()


def run(images: Cohort, scorer: GreyScorer, folder: Path) -> Any:
    return score_cohort(images, scorer, folder, lambda done, total: None)


def test_every_image_has_its_row_and_every_bit_of_its_score(images: Cohort, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    table = score_cohort(images, GreyScorer(Z), tmp_path, lambda *x: said.append(x))
    assert table.paths == tuple(case.image_path for case in images.cases)
    known = np.arange(N) != 5
    np.testing.assert_array_equal(table.z[known], Z[known])
    assert np.isnan(table.z[5]).all()
    assert (table.status[5], table.reason[5], table.pixels[5]) == ("failed", "missing", "")
    np.testing.assert_array_equal(table.scored, known)
    assert len(set(table.pixels)) == N  # every picture differs, and "" is the missing one's
    assert said == [(0, N), (BATCH, N), (2 * BATCH, N), (N, N)]


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    images: Cohort, whole: bytes, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(images, BatchScorer(Z, stop_at=BATCH), tmp_path)
    assert 0 < (tmp_path / "scores.csv").stat().st_size < len(whole)
    second = BatchScorer(Z)
    run(images, second, tmp_path)
    assert second.seen == N - BATCH
    assert (tmp_path / "scores.csv").read_bytes() == whole
    third = BatchScorer(Z)
    run(images, third, tmp_path)
    assert third.seen == 0


@pytest.mark.parametrize("share", [0.001, 0.01, 0.4, 0.77, 0.999])
def test_a_file_cut_anywhere_goes_on_to_the_same_bytes(
    images: Cohort, finished: Path, whole: bytes, tmp_path: Path, share: float
) -> None:
    shutil.copy(finished / "plan.json", tmp_path)
    (tmp_path / "scores.csv").write_bytes(whole[: int(len(whole) * share)])
    run(images, BatchScorer(Z), tmp_path)
    assert (tmp_path / "scores.csv").read_bytes() == whole


def test_a_file_cut_within_a_quoted_name_or_after_a_row(
    images: Cohort, finished: Path, whole: bytes, tmp_path: Path
) -> None:
    """A line break inside the name is no end of a row; and a row may end where a file was cut."""
    for cut in (whole.index(b"two\n") + 4, whole.index(b"004") + 10, whole.index(b"\n020") + 1):
        shutil.copy(finished / "plan.json", tmp_path)
        (tmp_path / "scores.csv").write_bytes(whole[:cut])
        run(images, BatchScorer(Z), tmp_path)
        assert (tmp_path / "scores.csv").read_bytes() == whole


def test_a_process_killed_before_its_first_row_leaves_nothing_in_the_way(
    images: Cohort, whole: bytes, tmp_path: Path
) -> None:
    (tmp_path / ".plan.json.123.tmp").write_text("{")
    with pytest.raises(KeyboardInterrupt):
        run(images, BatchScorer(Z, stop_at=0), tmp_path)
    (tmp_path / "scores.csv").unlink()  # killed between the plan and the table
    run(images, BatchScorer(Z), tmp_path)
    assert (tmp_path / "scores.csv").read_bytes() == whole


@pytest.mark.parametrize(
    "change", [{"checkpoints": ["d" * 64]}, {"device": "cuda"}, {"precision": "fp16"}]
)
def test_a_folder_of_another_model_is_refused(
    images: Cohort, tmp_path: Path, change: dict[str, Any]
) -> None:
    small = images.part(np.arange(N) < 2)
    run(small, GreyScorer(Z), tmp_path)
    before = (tmp_path / "scores.csv").read_bytes()
    with pytest.raises(UsageError, match="another evaluation, its model differs"):
        run(small, GreyScorer(Z, **change), tmp_path)
    with pytest.raises(UsageError, match="its dataset differs"):
        run(images.part(np.arange(N) < 3), GreyScorer(Z), tmp_path)
    assert (tmp_path / "scores.csv").read_bytes() == before


@pytest.fixture
def few(tmp_path: Path) -> Cohort:
    (tmp_path / "few").mkdir()
    return cohort(tmp_path / "few", random_truth(4, 0).tolist())


BEFORE = "from before images of made/test.csv changed, came or went; name another folder, or remove"


@pytest.mark.parametrize("stop_at", [None, 0])
@pytest.mark.parametrize("change", ["other pixels", "touched", "gone", "another place"])
def test_scores_of_other_pictures_are_not_used_again(
    few: Cohort, tmp_path: Path, change: str, stop_at: int | None
) -> None:
    """Whether the run was finished or not: rows of both pictures in one table are nobody's."""
    folder, path = tmp_path / "out", few.root / "002.png"
    with contextlib.suppress(KeyboardInterrupt):
        run(few, GreyScorer(Z, stop_at=stop_at), folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    if change == "gone":
        path.unlink()
    elif change == "touched":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    elif change == "another place":
        few = failing(few, [2])
    else:
        picture(path, 9)
    scorer = GreyScorer(Z)
    with pytest.raises(UsageError, match=BEFORE):
        run(few, scorer, folder)
    assert scorer.seen == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_missing_picture_that_came_back_is_scored(few: Cohort, tmp_path: Path) -> None:
    path = few.root / "002.png"
    path.rename(tmp_path / "kept.png")
    assert run(few, GreyScorer(Z), tmp_path / "out").reason[2] == "missing"
    (tmp_path / "kept.png").rename(path)
    with pytest.raises(UsageError, match=BEFORE):
        run(few, GreyScorer(Z), tmp_path / "out")
    assert run(few, GreyScorer(Z), tmp_path / "new").scored.all()


def test_a_copy_that_keeps_the_times_goes_on(few: Cohort, tmp_path: Path) -> None:
    """Moved to another disk, or mounted elsewhere; a copy made anew is another set of files."""
    run(few, GreyScorer(Z), tmp_path / "out")
    shutil.copytree(few.root, tmp_path / "moved")  # keeps them
    shutil.copytree(few.root, tmp_path / "copied", copy_function=shutil.copyfile)
    scorer = GreyScorer(Z)
    run(replace(few, root=tmp_path / "moved"), scorer, tmp_path / "out")
    assert scorer.seen == 0
    with pytest.raises(UsageError, match=BEFORE):
        run(replace(few, root=tmp_path / "copied"), scorer, tmp_path / "out")


def test_a_relative_root_is_the_folder_of_the_day(
    few: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`manifest:few.csv` typed in two places is two datasets, however alike."""
    relative = replace(few, root=Path("few"))
    monkeypatch.chdir(tmp_path)
    run(relative, GreyScorer(Z), tmp_path / "out")
    (tmp_path / "elsewhere/few").mkdir(parents=True)
    cohort(tmp_path / "elsewhere/few", random_truth(4, 0).tolist(), first=50)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=BEFORE):
        run(relative, GreyScorer(Z), tmp_path / "out")


def test_a_folder_of_something_else_is_refused(images: Cohort, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="files that no evaluation wrote"):
        run(images, GreyScorer(Z), tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        run(images, GreyScorer(Z), tmp_path / "thesis.txt")


def test_rows_of_other_images_under_the_same_plan_are_refused(
    images: Cohort, tmp_path: Path
) -> None:
    small = images.part(np.arange(N) < 2)
    run(small, GreyScorer(Z), tmp_path)
    path = tmp_path / "scores.csv"
    path.write_bytes(path.read_bytes().replace(b"001.png", b"007.png"))
    with pytest.raises(UsageError, match="lists other images than its plan"):
        run(small, GreyScorer(Z), tmp_path)


def test_a_score_that_is_no_number_fails_its_image_alone(images: Cohort, tmp_path: Path) -> None:
    odd = Z.copy()
    odd[1, 1] = np.inf
    table = run(images.part(np.arange(N) < 3), GreyScorer(odd), tmp_path)
    assert table.status == ("scored", "failed", "scored")
    assert table.reason[1] == "not_finite"


ROW = "a.png,scored,,0123,0.5,-0.5\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no scores.csv"),
        ("image_path,label,score\na,b,1\n", "is no scores.csv"),
        (",".join(HEAD) + "\n", "is no scores.csv"),
        (f"{','.join(HEAD)},x,y\n{ROW}{ROW}", "lists an image twice"),
        (f"{','.join(HEAD)},x,y\na.png,scored,,0123,0.5\n", "line 2 is not a row"),
        (f"{','.join(HEAD)},x,y\n{ROW}b.png,failed,missing,,1,2\n", "line 3 is not a row"),
        (f"{','.join(HEAD)},x,y\n{ROW[:-2]}", "line 2 is not a row"),
        (f"{','.join(HEAD)},x,y\n" + ROW.replace("-0.5", "nan"), "line 2: a score is not finite"),
        (f"{','.join(HEAD)},x,y\n" + ROW.replace("-0.5", "high"), "line 2: a score is no number"),
        (f'{",".join(HEAD)},x,y\n"a.png', "its end is missing"),
    ],
)
def test_tables_that_no_evaluation_wrote_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_scores(tmp_path)


def test_the_file_is_a_table_for_any_program(whole: bytes) -> None:
    rows = list(csv.DictReader(whole.decode().splitlines(keepends=True)))
    assert len(rows) == N
    assert set(rows[0]) == {*HEAD, "edema", "effusion"}
    assert float(rows[0]["edema"]) == pytest.approx(Z[0, 0] + BATCH * 1e-4 - 1e-4, abs=2e-4)


def test_no_scores_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be opened"):
        read_scores(tmp_path)
