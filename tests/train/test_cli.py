"""python -m pytest tests/train/test_cli.py -- tier-train: exit codes, sentences, no traceback."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.trained import run
from tier_train.cli import main
from tier_train.phantoms.phantom import FINDINGS

TINY = [
    f"--set={item}"
    for item in (
        *("steps=2", "batch_size=8", "validate_every=1", "vocab_size=120"),
        *("embed_dim=16", "text_width=16", "text_layers=1"),
    )
]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the command itself, in its own process: forking beside torch's threads warns."""
    parent = tmp_path_factory.mktemp("cli")
    counts = ("--train", "12", "--val", "6", "--test", "2")
    run("tier-train", "data", "phantoms", "-o", "phantoms", *counts, cwd=parent)
    return parent / "phantoms"


@pytest.fixture
def inside(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the phantoms, as working directory."""
    for name in ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "false" if name.startswith("TOK") else "passive")
    shutil.copytree(phantoms, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _refused(result: Result) -> str:
    """A sentence and a code of the contract, not a crash."""
    assert result.exit_code not in (0, 1), result.exception
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return result.stderr


def test_run_in_an_empty_folder_names_the_next_command(runner: CliRunner, empty: Path) -> None:
    result = runner.invoke(main, ["run"])
    assert result.exit_code == 2
    assert "tier-train data phantoms" in _refused(result)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data", "x.csv"], r"--data takes manifest:FILE\.csv, .* got 'x\.csv'"),
        (["--data", "manifest:"], "--data takes manifest"),
        (["--data", "mimic:x.csv"], r"no folder x\.csv"),
        (["--data", "manifest:no.csv"], r"no file no\.csv"),
        (["--data", "manifest:."], "no file"),
        (["--recipe", "nope"], "demo, paper, released_code, small"),
        (["--set", "steps"], "key=value"),
        (["--set", "stesp=1"], "did you mean steps"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--threads", "many"], "not a valid integer"),
        (["--nope"], "No such option"),
    ],
)
def test_a_bad_option_is_a_sentence(
    runner: CliRunner, inside: Path, args: list[str], words: str
) -> None:
    result = runner.invoke(main, ["run", *args])
    assert result.exit_code == 2
    assert re.search(words, _refused(result))
    assert not (inside / "ckpt.pt").exists()


def test_run_writes_the_checkpoint_and_names_the_export(runner: CliRunner, inside: Path) -> None:
    result = runner.invoke(main, ["run", *TINY, "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert (inside / "ckpt.pt").is_file()
    assert (inside / "ckpt.metrics.csv").is_file()
    assert "tier-export --fp16 ckpt.pt" in result.stdout
    assert "step 2/2" in result.stderr
    assert not list(inside.glob(".*")), "no temporary file stays behind"


def test_unregularized_reaches_the_checkpoint(runner: CliRunner, inside: Path) -> None:
    from tier_train.checkpoint import load_checkpoint

    args = ["run", *TINY, "--unregularized", "-o", "out/twin.pt", "--data", "manifest:manifest.csv"]
    result = runner.invoke(main, args)
    assert result.exit_code == 0, result.output
    recipe = load_checkpoint(inside / "out" / "twin.pt").recipe
    assert (recipe.lambda_patch, recipe.lambda_token) == (0.0, 0.0)
    assert (inside / "out" / "twin.metrics.csv").is_file()


@pytest.mark.parametrize(
    "args",
    [
        ["--set=lr=1e30"],
        ["--set=logit_scale_init=1000"],
        ["--set=seed=-1"],
        ["--set=text_dropout=2"],
        ["--set=arch=resnet50"],
        ["--set=batch_size=13"],
        ["-o", "images"],
        ["-o", "manifest.csv/ckpt.pt"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_trained_is_a_sentence(
    runner: CliRunner, inside: Path, args: list[str]
) -> None:
    _refused(runner.invoke(main, ["run", *TINY, *args]))
    assert not (inside / "ckpt.pt").exists()


def test_an_output_that_cannot_be_written_is_refused_before_training(
    runner: CliRunner, inside: Path
) -> None:
    assert "step 1/2" not in runner.invoke(main, ["run", *TINY, "-o", "images"]).output


def test_a_broken_image_is_named_or_skipped(runner: CliRunner, inside: Path) -> None:
    broken = inside / "images" / "phantom-00003.dcm"
    broken.write_bytes(broken.read_bytes()[:700])
    assert "phantom-00003.dcm" in _refused(runner.invoke(main, ["run", *TINY]))
    result = runner.invoke(main, ["run", *TINY, "--skip-bad"])
    assert result.exit_code == 0, result.output
    assert "11 train and 6 val pairs" in result.stderr


def test_phantoms_are_a_dataset_and_a_study(phantoms: Path) -> None:
    with (phantoms / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train"] * 12 + ["val"] * 6 + ["test"] * 2
    assert {row["intensity"] for row in rows} == {"mimic-jpg"}
    assert len({row["patient_id"] for row in rows}) == 20
    assert set(FINDINGS) <= set(rows[0])
    images = {f"images/{path.name}" for path in (phantoms / "images").iterdir()}
    assert {row["image_path"] for row in rows} == images
    assert (phantoms / "study.dcm").read_bytes()[128:132] == b"DICM"


def test_phantoms_overwrite_nothing(runner: CliRunner, inside: Path) -> None:
    before = {p: p.read_bytes() for p in inside.rglob("*") if p.is_file()}
    result = runner.invoke(main, ["data", "phantoms", "-o", ".", "--seed", "1"])
    assert result.exit_code == 2
    assert "exists already" in _refused(result)
    assert before == {p: p.read_bytes() for p in inside.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "args", [["--train", "0"], ["--val", "-1"], ["--seed", "-1"], ["--train", "x"], []]
)
def test_impossible_phantoms_are_refused(runner: CliRunner, empty: Path, args: list[str]) -> None:
    output = ["-o", "new"] if args else []
    result = runner.invoke(main, ["data", "phantoms", *output, *args])
    assert result.exit_code == 2
    _refused(result)
    assert list(empty.iterdir()) == []


def test_phantoms_into_a_file_are_refused(runner: CliRunner, empty: Path) -> None:
    (empty / "file").write_text("mine", encoding="utf-8")
    _refused(runner.invoke(main, ["data", "phantoms", "-o", "file", "--train", "1"]))


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], ["run"], ["data"], ["data", "phantoms"]])
def test_help_works(runner: CliRunner, command: list[str], flag: str) -> None:
    result = runner.invoke(main, [*command, flag])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_help_shows_working_verbs_only(runner: CliRunner) -> None:
    def verbs(*command: str) -> list[str]:
        listing = runner.invoke(main, [*command, "-h"]).stdout.partition("Commands:\n")[2]
        return re.findall(r"^  (\w+)", listing, re.MULTILINE)

    assert verbs() == sorted(main.commands)
    for verb in (*verbs(), *(f"data {v}" for v in verbs("data"))):
        assert runner.invoke(main, [*verb.split(), "-h"]).exit_code == 0
    for verb in ("search", "supervised", "import", "evaluate", "figures", "reproduce"):
        assert (runner.invoke(main, [verb, "-h"]).exit_code == 0) == (verb in verbs())
    assert runner.invoke(main, ["--version"]).exit_code == 0
