"""python -m pytest tests/train/test_search_cli.py -- tier-train search, its command."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tests.train.bright import TINY, read_rows, write_bright, write_rows
from tier_infer.errors import UsageError
from tier_train import search as module
from tier_train.checkpoint import load_checkpoint
from tier_train.cli import main
from tier_train.learner import Learner
from tier_train.recipe_file import load_recipe
from tier_train.search import Trial, ranked
from tier_train.validation import Diverged

torch.set_num_threads(1)
SETS = [f"--set={item}" for item in TINY]


class Killed(BaseException):
    """kill -9, as far as Python can see it."""


@pytest.fixture(scope="module", autouse=True)
def environment() -> Any:
    """What the command sets for its process, so that it does not outlive this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setattr("tier_train.train.collapse_alarm", lambda *_: "")  # 8 steps teach nothing
        yield


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright(tmp_path_factory.mktemp("bright"))


@pytest.fixture(scope="module")
def command(manifest: Path) -> list[str]:
    data = ["--data", f"manifest:{manifest}", "--recipe", "small", *SETS, "--threads", "1"]
    rest = ["--validate-on", f"manifest:{manifest}", "--device", "cpu", "--set", "save_every=2"]
    return ["search", *data, *rest, "--pairs", "2", "--epochs", "2"]


@pytest.fixture(scope="module")
def done(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("done") / "search"
    result = CliRunner().invoke(main, [*command, "-o", str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result


def _without_seconds(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(path)]


def test_the_command(done: tuple[Path, Result], manifest: Path) -> None:
    folder, result = done
    rows = read_rows(folder / "search.csv")
    best = next(row for row in rows if row["rank"] == "1")
    kept = load_checkpoint(folder / f"pair-0{best['pair']}.pt")
    assert [p.name for p in folder.glob("*.pt")] == [f"pair-0{best['pair']}.pt"]
    assert kept.recipe.lambda_patch == float(best["lambda_patch"])
    assert kept.recipe.lambda_token == float(best["lambda_token"])
    areas = kept.training["val_auc"]
    assert {name: float(best[f"auc_{name}"]) for name in ("edema", "nodule")} == areas
    assert float(best["val_auc"]) == pytest.approx(np.mean(list(areas.values())))
    with (folder / f"pair-0{best['pair']}.metrics.csv").open(encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["step"] == "8", "two epochs of 32 images in batches of 8"
    assert float(best["val_loss"]) == float(last["val_loss"])
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [
        "reference" if row["pair"] == "0" else row["pair"] for row in rows
    ]
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")
    words = shlex.split(lines[-1].partition("next: ")[2])
    assert words[:4] == ["tier-train", "run", "--data", f"manifest:{manifest}"]
    sets = [word.partition("--set=")[2] for word in words if word.startswith("--set=")]
    sets += [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    again = load_recipe("small", sets)
    assert (again.lambda_patch, again.lambda_token) == (
        float(best["lambda_patch"]),
        float(best["lambda_token"]),
    )
    assert again.batch_size == 8


def test_killed_within_a_pair_it_goes_on_from_the_last_state(
    done: tuple[Path, Result], command: list[str], tmp_path: Path, runner: CliRunner
) -> None:
    steps: list[int] = []
    step = Learner.step

    def mortal(self: Learner, batch: Any) -> Any:
        steps.append(batch.step)
        if len(steps) == 8 + 3:  # the second pair, after its state of step 2
            raise Killed
        return step(self, batch)

    arguments = [*command, "-o", f"{tmp_path}/search"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", mortal)
        with pytest.raises(Killed):
            runner.invoke(main, arguments)
        result = runner.invoke(main, arguments)
    assert result.exit_code == 0, result.output
    each = list(range(1, 9))
    assert steps == [*each, 1, 2, 3, *each[2:], *each], "what is done is not done again"
    whole = done[0]
    table = _without_seconds(tmp_path / "search/search.csv")
    assert table == _without_seconds(whole / "search.csv")
    names = {p.name for p in whole.iterdir()}
    assert {p.name for p in (tmp_path / "search").iterdir()} == names
    assert result.stdout == done[1].stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "csv:x"], "--data takes"),
        (["--recipe", "smal"], "recipe 'smal'"),
        (["--set", "lambda=1"], "unknown"),
        (["--set", "lambda_patch=1"], "--set lambda_patch=… has no effect"),
        (["--set", "steps=9"], "name it with --epochs"),
        (["--pairs", "0"], "--pairs"),
        (["--epochs", "0"], "--epochs"),
        (["--validate-on", "chexpert:none.csv"], "none.csv"),
        (["--device", "tpu"], "tpu"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["-o", "."], "holds no search"),
    ],
)
def test_refusals(
    runner: CliRunner,
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(manifest.parent)
    result = runner.invoke(main, ["search", *SETS, *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (manifest.parent / "search").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(
    runner: CliRunner, command: list[str], tmp_path: Path
) -> None:
    result = runner.invoke(main, [*command, "--device", "cuda", "-o", f"{tmp_path}/search"])
    assert result.exit_code == 6
    assert "cuda" in result.stderr


def test_a_damaged_image_stops_or_is_left_out(runner: CliRunner, tmp_path: Path) -> None:
    manifest = write_bright(tmp_path / "data", 9, 8)
    (tmp_path / "data/images/train-0.png").write_bytes(b"\x89PNG")
    command = ["search", "--data", f"manifest:{manifest}", *SETS, "--pairs", "1"]
    result = runner.invoke(main, [*command, "-o", f"{tmp_path}/stops"])
    assert (result.exit_code, "--skip-bad" in result.stderr) == (2, True)
    result = runner.invoke(main, [*command, "-o", f"{tmp_path}/goes", "--skip-bad"])
    assert result.exit_code == 0
    assert "8 train and 8 val pairs" in result.stderr
    assert "--skip-bad" in shlex.split(result.stdout.splitlines()[-1]), "or `next` is refused"


def test_all_pairs_diverged(
    runner: CliRunner, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> Any:
        raise Diverged("training diverged at step 1; lower lr")

    monkeypatch.setattr(module, "train", train)
    result = runner.invoke(main, [*command, "-o", f"{tmp_path}/search"])
    assert result.exit_code == 2
    assert "diverged with every pair" in result.stderr
    assert len(read_rows(tmp_path / "search/search.csv")) == 3


def test_a_pair_with_an_alarm_is_not_recommended(
    runner: CliRunner, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collapsed(*_: Any, **__: Any) -> list[Trial]:
        pairs = enumerate([(0.8, "flat"), (0.7, alarm), (0.9, "flat")])
        return ranked([Trial(i, 0.1, i / 10, area, {}, {}, why) for i, (area, why) in pairs])

    monkeypatch.setattr(module, "search", collapsed)
    arguments = [*command, "-o", str(tmp_path)]
    alarm = ""
    result = runner.invoke(main, arguments)
    assert result.exit_code == 0
    assert "--set=lambda_token=0.1 " in result.stdout.splitlines()[-1], "0.9 has an alarm"
    alarm = "flat"
    result = runner.invoke(main, arguments)
    assert (result.exit_code, "next:" in result.stdout) == (0, False)
    assert "none is recommended; pair 2: flat" in result.stderr


def test_without_matplotlib_the_table_is_whole(
    done: tuple[Path, Result], command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: Any) -> None:
        raise ImportError

    monkeypatch.setattr(module, "draw", draw)
    result = CliRunner().invoke(main, [*command, "-o", str(done[0])])
    assert result.exit_code == 0
    assert "no search.png: it needs its extra, pip install 'tier-cxr[plots]'" in result.stderr
    assert result.stdout == done[1].stdout


def test_torchrun_is_refused(
    runner: CliRunner, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = runner.invoke(main, [*command, "-o", f"{tmp_path}/search"])
    assert result.exit_code == 2
    assert "one process" in result.stderr


def test_labels_must_be_there(runner: CliRunner, tmp_path: Path) -> None:
    manifest = write_bright(tmp_path / "data", 8, 8)
    write_rows(manifest, [row | {"Edema": "", "Nodule": "1"} for row in read_rows(manifest)])
    result = runner.invoke(main, ["search", "--data", f"manifest:{manifest}", *SETS])
    assert result.exit_code == 2
    assert "--validate-on" in result.stderr


def test_debug_shows_the_traceback(
    runner: CliRunner, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*command, "--threads", "0", "--debug"]
    monkeypatch.setattr("sys.argv", ["tier-train", *arguments])
    assert isinstance(runner.invoke(main, arguments).exception, UsageError)
