"""python -m pytest tests/train/test_metrics_log.py -- what a run tells while and after it runs."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.children import make_folder, run
from tier_infer.errors import UsageError
from tier_train import record
from tier_train.metrics_log import FIRST, Metrics, Progress, coloured, draw_curves
from tier_train.phantoms.phantom import FINDINGS
from tier_train.recipe import Recipe, recipe_from
from tier_train.state import save_state
from tier_train.validation import Result

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("metrics") / "tiny", {"train": 24, "val": 12})


@pytest.fixture(scope="module")
def logged(folder: Path) -> Path:
    """A run that was interrupted when TensorBoard knew of step 3 and the state didn't; resumed."""

    def save(path: Path, table: dict[str, Any]) -> None:
        if table["step"] == 3:
            raise KeyboardInterrupt
        save_state(path, table)

    output, board = folder / "x.pt", folder / "board"
    changes = {"steps": 4, "validate_every": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "save_state", save)
        with pytest.raises(KeyboardInterrupt):
            run(folder, output, changes, tensorboard=board)
    before = EventAccumulator(str(board)).Reload()
    assert [event.step for event in before.Scalars("loss")] == [1, 2, 3]
    run(folder, output, changes, tensorboard=board, resume=True, curves=True)
    return folder


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "x.metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_columns(logged: Path) -> None:
    """Those of the first release in front, a label each, timings last."""
    rows = _rows(logged)
    columns = list(rows[0])
    assert columns[:10] == [
        "step", "epoch", "lr", "loss", "clip_loss", "patch_entropy", "token_entropy",
        "logit_scale", "val_auc", "alarm",
    ]  # fmt: skip
    assert columns[10:13] == ["val_loss", "patch_penalty", "token_penalty"]
    labels = [name.removeprefix("auc_") for name in columns[13:-2]]
    assert labels
    assert set(labels) <= set(FINDINGS)
    assert columns[-2:] == ["pairs_per_s", "seconds"]
    for row in rows:
        areas = [float(row[f"auc_{label}"]) for label in labels]
        assert float(row["val_auc"]) == pytest.approx(np.mean(areas))
        assert float(row["pairs_per_s"]) > 0
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds), "the clock of the first process goes on in the second"


def test_tensorboard_has_the_columns_once(logged: Path) -> None:
    board = EventAccumulator(str(logged / "board"), size_guidance={"images": 0}).Reload()
    rows = _rows(logged)
    assert set(board.Tags()["scalars"]) == set(rows[0]) - {"step", "alarm"}
    for column in ("loss", "val_loss", "patch_entropy", "logit_scale", "auc_edema"):
        events = board.Scalars(column)
        assert [event.step for event in events] == [1, 2, 3, 4], column
        values = [float(row[column]) for row in rows]
        assert [event.value for event in events] == pytest.approx(values)


def test_tensorboard_has_heatmaps(logged: Path) -> None:
    board = EventAccumulator(str(logged / "board"), size_guidance={"images": 0}).Reload()
    assert {f"heatmap/{name}" for name in FINDINGS} == set(board.Tags()["images"])
    events = board.Images("heatmap/edema")
    assert [event.step for event in events] == [1, 2, 3, 4]
    with Image.open(io.BytesIO(events[0].encoded_image_string)) as image:
        assert (image.size, image.mode) == ((4 * 112, 112), "RGB")


def test_the_curves_are_drawn(logged: Path) -> None:
    with Image.open(logged / "x.curves.png") as image:
        colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 50


def test_what_the_curves_show(tmp_path: Path) -> None:
    """ln P and ln B as lines, ordinary and missing values, one row."""
    recipe = Recipe(batch_size=32)
    metrics = Metrics(tmp_path / "m.csv", ["edema"], recipe, [])
    metrics.add(5, 0, 1e-3, [4.0, 3.0, 3.8, 2.0], 14.3, Result({}, math.nan), "")
    assert metrics.last["patch_penalty"] == 0.2 * 3.8
    assert math.isnan(metrics.last["auc_edema"])
    draw_curves(tmp_path / "c.png", metrics, 49, recipe)
    metrics.add(6, 0, 1e-3, [3.0, 2.0, 3.7, 2.0], 14.3, Result({"edema": 0.75}, 3.5), "alarm")
    draw_curves(tmp_path / "d.png", metrics, 49, recipe)
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "d.png").read_bytes()
    metrics.write()
    with (tmp_path / "m.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val_auc"] for row in rows] == ["nan", "0.75"]
    assert rows[1]["alarm"] == "alarm"
    assert tuple(rows[0])[: len(FIRST)] == FIRST


def test_without_matplotlib_a_sentence_and_no_curves(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*(n for n in sys.modules if n.startswith("matplotlib")), "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    lines: list[str] = []
    run(folder, tmp_path / "x.pt", {"steps": 1}, say=lines.append, curves=True)
    assert lines[-1].endswith("pip install 'tier-cxr[plots]'")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.metrics.csv", "x.pt", "x.recipe.toml"]


def test_without_tensorboard_the_install_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'tier-cxr\[tensorboard\]'"):
        run(folder, tmp_path / "x.pt", {"steps": 1}, tensorboard=tmp_path / "board")
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = Progress(recipe_from({"steps": 400}), 100, lambda line: None, shown=True)
    for _ in range(3):
        progress._bar.last_print_t = 0  # as if time had passed
        progress.step(torch.tensor([3.25, 1, 1, 1]))
    progress.close()
    drawn = screen.getvalue()
    assert "step 103/400 " in drawn
    assert "loss 3.250" in drawn
    assert "pairs/s" in drawn
    assert " left" in drawn
    assert "\n" not in drawn


@pytest.mark.parametrize(("screen", "shown"), [(io.StringIO(), True), (Terminal(), False)])
def test_a_pipe_and_other_processes_see_plain_lines(
    monkeypatch: pytest.MonkeyPatch, screen: Any, shown: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", screen)
    lines: list[str] = []
    progress = Progress(recipe_from({"steps": 4}), 0, lines.append, shown)
    progress.step(torch.ones(4))
    progress.say("a line")
    progress.close()
    assert (screen.getvalue(), lines) == ("", ["a line"])


def test_the_line_of_a_validation() -> None:
    metrics = Metrics(Path("unused"), [], Recipe(steps=400), [], seconds=50.0)
    metrics.add(100, 0, 1e-3, [4.0, 3.0, 3.8, 2.0], 14.3, Result({"edema": 0.5}, 3.5), "")
    assert metrics.line() == (
        "step 100/400  loss 4.000  clip 3.000  H_patch 3.800  H_token 2.000  val AUC 0.500  "
        "50 s, 150 s left"
    )


def test_a_heatmap_is_red_for_and_blue_against() -> None:
    crops = np.full((2, 14, 14), 100, np.uint8)
    cells = np.zeros((2, 7, 7), np.float32)
    cells[0, 0, 0], cells[1, 6, 6] = 1.0, -0.25
    picture = coloured(crops, cells)
    assert picture.shape == (14, 28, 3)
    assert picture[0, 0].tolist() == [193, 40, 40]  # 0.4 · 100 + 0.6 · (255, 0, 0)
    assert picture[13, 27].tolist() == [85, 85, 123]  # 0.85 · 100 + 0.15 · (0, 0, 255)
    assert picture[7, 7].tolist() == [100, 100, 100]
