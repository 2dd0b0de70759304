"""python -m pytest tests/train/test_record.py -- who goes on from a state, and with what."""

from __future__ import annotations

import contextlib
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.train.children import TINY, Interrupt, make_folder, names, run
from tier_infer.errors import UsageError
from tier_train import train
from tier_train.recipe import recipe_from
from tier_train.record import Record
from tier_train.start import unchanged
from tier_train.state import load_state, state_path

torch.set_num_threads(1)
SHORT: dict[str, Any] = {"steps": 2, "validate_every": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("record") / "tiny", {"train": 8})


def _stop(folder: Path, output: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, output, changes, say=Interrupt("step 1/"))


def test_losses_of_a_state_go_to_the_device(tmp_path: Path) -> None:
    """A GPU's next loss is stacked with them; `meta` stands for the GPU."""
    fabric = SimpleNamespace(global_rank=1, device=torch.device("meta"))
    learner: Any = SimpleNamespace(fabric=fabric, recipe=recipe_from(TINY))
    check: Any = SimpleNamespace(scored=[])
    state = {"recent": [torch.ones(4)]}
    record = Record(tmp_path / "x.pt", learner.recipe, learner, check, {}, {}, state, None, print)
    assert torch.stack([*record.recent, torch.ones(4, device="meta")]).shape == (2, 4)


def test_another_file_of_the_same_name_is_refused(folder: Path, tmp_path: Path) -> None:
    """Whether the run was interrupted or is complete."""
    output, weights = tmp_path / "x.pt", tmp_path / "weights.pt"
    run(folder, weights, SHORT | {"seed": 1})
    changes = SHORT | {"image_init": "checkpoint", "image_file": str(weights)}
    _stop(folder, output, changes)
    first = weights.read_bytes()
    for step in ("interrupted", "complete"):
        run(folder, weights, SHORT | {"seed": 2})
        with pytest.raises(
            UsageError, match=r"weights\.pt is not the file that the run .* started"
        ):
            run(folder, output, changes, resume=True)
        weights.write_bytes(first)
        run(folder, output, changes, resume=True)
        assert output.is_file(), step


def test_another_text_folder_of_the_same_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("a")
    recipe = recipe_from({"text_init": "cxr-bert", "text_folder": str(tmp_path / "bert")})
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # of "a"
    unchanged(recipe, {"bert/vocab.txt": digest})
    (tmp_path / "bert" / "vocab.txt").write_text("b")
    with pytest.raises(UsageError, match=r"vocab\.txt is not the file"):
        unchanged(recipe, {"bert/vocab.txt": digest})
    shutil.rmtree(tmp_path / "bert")
    unchanged(recipe, {"bert/vocab.txt": digest})  # a resumed run needs none of it


def test_another_number_of_processes_is_told(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.pt"
    _stop(folder, output, SHORT)
    table = torch.load(state_path(output), weights_only=True)
    assert table["processes"] == 1
    torch.save(table | {"processes": 4}, state_path(output))
    lines: list[str] = []
    run(folder, output, SHORT, resume=True, say=lines.append)
    assert "was 4 processes, now 1: the curve will differ" in lines


def test_outputs_with_a_dot_share_no_file(folder: Path, tmp_path: Path) -> None:
    for name in ("exp.lr1", "exp.lr2"):
        _stop(folder, tmp_path / name, SHORT)
    assert {"exp.lr1.state.pt", "exp.lr2.state.pt"} <= set(names(tmp_path))
    (tmp_path / ".exp.lr2.state.pt.7.tmp").touch()
    run(folder, tmp_path / "exp.lr1", SHORT | {"keep_best": 0}, resume=True)
    assert names(tmp_path) == [
        ".exp.lr2.state.pt.7.tmp", "exp.lr1", "exp.lr1.metrics.csv", "exp.lr1.recipe.toml",
        "exp.lr2.metrics.part.csv", "exp.lr2.state.pt",
    ]  # fmt: skip


def test_a_loaded_state_is_let_go(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds all weights, and their moments, a second time."""
    output = tmp_path / "x.pt"
    _stop(folder, output, SHORT)
    held: list[Any] = []

    def load(path: Path, expected: dict[str, Any]) -> Any:
        table = load_state(path, expected)
        assert table
        held.append(weakref.ref(table["model"]["logit_scale"]))
        return table

    seen: list[bool] = []

    def say(line: str) -> None:
        if line.startswith("step 2/"):
            seen.append(held[0]() is None)

    monkeypatch.setattr(train, "load_state", load)
    with contextlib.suppress(KeyboardInterrupt):
        run(folder, output, SHORT, resume=True, say=say)
    assert seen == [True]
