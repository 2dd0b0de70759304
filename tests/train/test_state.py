"""python -m pytest tests/train/test_state.py -- what an interrupted run leaves, and who goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.children import (
    FULL,
    TINY,
    Interrupt,
    assert_same,
    half_fabric,
    make_folder,
    names,
    ranking,
    run,
    same_weights,
    table,
)
from tier_infer.errors import IntegrityError, UsageError
from tier_train import train
from tier_train.best import Best
from tier_train.checkpoint import load_checkpoint
from tier_train.recipe import recipe_from
from tier_train.state import load_state, state_path

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("state") / "tiny", {"train": 24, "val": 12})


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run leaves."""
    output = tmp_path_factory.mktemp("whole") / "x.pt"
    run(folder, output, FULL)
    return output


def test_the_best_checkpoints(whole: Path) -> None:
    rows = table(whole.with_name("x.metrics.csv"))
    order = sorted(rows, key=lambda row: (-float(row["val_auc"]), int(row["step"])))
    ranked = ranking(whole)
    assert [row["step"] for row in ranked] == [row["step"] for row in order[:2]]
    for row in ranked:
        path = whole.with_name("x.best") / row["file"]
        assert row["file"] == f"step-{int(row['step']):08d}.pt"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        training = load_checkpoint(path).training
        assert (str(training["step"]), str(training["val_loss"])) == (row["step"], row["val_loss"])
    best = whole.with_name("x.best") / ranked[0]["file"]
    assert best.read_bytes() == whole.read_bytes()
    assert len(list(best.parent.glob("*.pt"))) == 2


@pytest.fixture
def stopped(folder: Path, tmp_path: Path) -> Path:
    """Interrupted after step 4, whose state is saved."""
    output = tmp_path / "x.pt"
    say = Interrupt("step 4/")
    with pytest.raises(KeyboardInterrupt):
        run(folder, output, FULL, say=say)
    assert say.lines[-1] == "interrupted in step 5; --resume continues after step 4"
    return output


def test_an_interrupted_run_goes_on(folder: Path, stopped: Path, whole: Path) -> None:
    say = Interrupt("nothing")
    run(folder, stopped, FULL, resume=True, say=say)
    assert "resuming after step 4" in say.lines
    assert_same(stopped, whole)


def test_the_gradient_scaler_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts too high: steps are skipped until it has come down."""
    monkeypatch.setattr(train, "launch", lambda device, precision: half_fabric(2.0**16))
    for output in (tmp_path / "whole.pt", tmp_path / "x.pt"):
        say = Interrupt("step 4/" if output.stem == "x" else "nothing")
        with contextlib.suppress(KeyboardInterrupt):
            run(folder, output, FULL, say=say)
    scaler = torch.load(state_path(tmp_path / "x.pt"), weights_only=True)["scaler"]
    assert scaler["scale"] < 2.0**16
    run(folder, tmp_path / "x.pt", FULL, resume=True)
    assert table(tmp_path / "x.metrics.csv") == table(tmp_path / "whole.metrics.csv")


def test_start_weights_are_not_needed_again(folder: Path, whole: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copy(whole, tmp_path / "weights.pt"))
    changes = FULL | {"image_init": "checkpoint", "image_file": str(weights)}
    for output in (tmp_path / "whole" / "x.pt", tmp_path / "other" / "x.pt"):
        say = Interrupt("step 4/" if "other" in output.parts else "nothing")
        with contextlib.suppress(KeyboardInterrupt):
            run(folder, output, changes, say=say)
    weights.unlink()
    training = run(folder, output, changes, resume=True).training
    assert_same(output, tmp_path / "whole" / "x.pt")
    assert training["starts"] == {"weights.pt": hashlib.sha256(whole.read_bytes()).hexdigest()}


def test_an_interruption_before_the_first_state(folder: Path, tmp_path: Path) -> None:
    say = Interrupt("tiny/manifest.csv: ")
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "x.pt", FULL, say=say)
    assert names(tmp_path) == []


def test_a_complete_run_is_returned(folder: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole.parent, tmp_path / "copy")
    output, say = tmp_path / "copy" / "x.pt", Interrupt("nothing")
    before = output.stat().st_mtime_ns
    again = run(folder, output, FULL, resume=True, say=say)
    assert say.lines[-1] == f"{output} is complete, there is nothing to resume"
    assert same_weights(again, load_checkpoint(whole))
    assert output.stat().st_mtime_ns == before


def test_resume_without_a_state_starts_with_the_first_step(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    """Though a checkpoint of another recipe has the name."""
    shutil.copytree(whole.parent, tmp_path / "copy")
    output, say = tmp_path / "copy" / "x.pt", Interrupt("nothing")
    run(folder, output, TINY | {"steps": 1}, resume=True, say=say)
    assert any("there is no state" in line for line in say.lines)
    assert load_checkpoint(output).training["step"] == 1
    assert any(
        line.endswith("x.best holds the checkpoints of an earlier run") for line in say.lines
    )


def test_starting_anew_says_so_and_leaves_no_trace_of_the_old(
    folder: Path, stopped: Path, whole: Path
) -> None:
    say = Interrupt("nothing")
    run(folder, stopped, FULL, say=say)
    assert any("interrupted run; it is started anew" in line for line in say.lines)
    assert_same(stopped, whole)


def test_a_new_start_that_saved_nothing_leaves_the_old_state(
    folder: Path, stopped: Path, whole: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, stopped, FULL, say=Interrupt("tiny/manifest.csv: "))
    run(folder, stopped, FULL, resume=True)
    assert_same(stopped, whole)


def test_the_files_of_an_earlier_run_stay_until_this_one_is_complete(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole.parent, tmp_path / "copy")
    before = {
        path: path.read_bytes() for path in (tmp_path / "copy").rglob("*.*") if path.is_file()
    }
    output, changes = tmp_path / "copy" / "x.pt", FULL | {"seed": 1}
    with pytest.raises(KeyboardInterrupt):
        run(folder, output, changes, say=Interrupt("step 6/"))
    assert all(path.read_bytes() == content for path, content in before.items())
    run(folder, output, changes, resume=True)
    assert all(path.read_bytes() != before[path] for path in (tmp_path / "copy").glob("x.*.csv"))
    fresh = tmp_path / "fresh" / "x.pt"
    run(folder, fresh, changes)
    assert_same(output, fresh)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 2e-3}, "its lr is 0.001, here it is 0.002"),
        ({"seed": 1}, "its seed is 0, here it is 1"),
        ({"steps": 9}, "its steps is 8, here it is 9"),
        ({"intensity": "minmax"}, "its intensity is 'mimic-jpg', here it is 'minmax'"),
    ],
)
def test_the_state_of_another_run_is_refused(
    folder: Path, stopped: Path, changes: dict[str, Any], words: str
) -> None:
    before = state_path(stopped).read_bytes()
    with pytest.raises(UsageError, match=words):
        run(folder, stopped, FULL | changes, resume=True)
    assert state_path(stopped).read_bytes() == before


def test_the_state_of_other_data_is_refused(stopped: Path, folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "tiny")
    lines = (other / "manifest.csv").read_text().splitlines()
    (other / "manifest.csv").write_text("\n".join([lines[0], *lines[2:], lines[1]]))
    with pytest.raises(UsageError, match="its manifest_sha256 is"):
        run(other, stopped, FULL, resume=True)


def test_a_damaged_state_is_refused(stopped: Path, folder: Path) -> None:
    path = state_path(stopped)
    good = path.read_bytes()
    for bad, words in (
        (good[: len(good) // 2], "no complete state"),
        (good[:-400_000] + bytes([good[-400_000] ^ 1]) + good[-399_999:], "damaged"),
        (b"no zip", "no complete state"),
    ):
        path.write_bytes(bad)
        with pytest.raises(IntegrityError, match=words):
            run(folder, stopped, FULL, resume=True)
    torch.save({"format": "tier-cxr-state/1"}, path)
    with pytest.raises(IntegrityError, match="not a training state of this version"):
        load_state(path, {})


def test_what_a_killed_process_was_writing_is_swept(folder: Path, tmp_path: Path) -> None:
    """And what another run in the same folder is writing is not."""
    ours = (
        ".x.pt.7.tmp",
        ".x.state.pt.7.tmp",
        ".frozen-text-a.f16.7.tmp",
        ".x.metrics.part.csv.7.tmp",
        ".x.curves.png.7.tmp",
    )
    others = (".y.pt.7.tmp", ".x.y.state.pt.7.tmp", ".x.pt.tmp", ".x.state.pt.7.tmp.bak")
    for name in (*ours, *others):
        (tmp_path / name).touch()
    (tmp_path / "x.best.part").mkdir()
    (tmp_path / "x.best.part" / ".step-00000002.pt.7.tmp").touch()
    run(folder, tmp_path / "x.pt", {"steps": 1})
    assert [name for name in names(tmp_path) if name.startswith(".")] == sorted(others)
    assert not (tmp_path / "x.best.part").exists()


class Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("evil",))


def test_a_state_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("x.state.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(IntegrityError, match="pickled code"):
        load_state(Path("x.state.pt"), {})
    assert names(tmp_path) == ["x.state.pt"]


@pytest.mark.parametrize("change", ["missing", "another"])
def test_a_best_checkpoint_must_be_the_one_that_was_ranked(
    folder: Path, stopped: Path, change: str
) -> None:
    path = min(stopped.with_name("x.best.part").glob("step-*.pt"))
    path.unlink() if change == "missing" else path.write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"step-.*\.pt is missing or not the one"):
        run(folder, stopped, FULL, resume=True)


def testranking_by_the_label_free_loss(tmp_path: Path) -> None:
    recipe = recipe_from({"keep_best": 2, "select_by": "val_loss"})
    best = Best(tmp_path / "x.pt", recipe, [])
    for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5), (4, 2.0)):
        entry = {"step": step, "epoch": 0, "val_auc": float("nan"), "val_loss": loss}
        best.offer(entry, lambda path, loss=loss: path.write_bytes(str(loss).encode()))  # type: ignore[misc]
    assert [entry["step"] for entry in best.ranking] == [2, 4], "of equals the earlier first"
    assert len(list((tmp_path / "x.best.part").iterdir())) == 4, "until the state is on disk"
    best.prune()
    best.publish(lambda line: None)
    assert names(tmp_path / "x.best") == ["ranking.csv", "step-00000002.pt", "step-00000004.pt"]
