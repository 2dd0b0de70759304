"""python -m pytest tests/train/test_supervised_ids.py -- MIMIC's ids stay in MIMIC.

Of search and supervised, trained on a tree in its layout: no subject, study or image id stands in
what they print or in any file that they write. What the data leave out is said.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.train.bright import TINY, read_rows
from tests.train.mimic_tree import STUDIES, image_path, plain, write_tree
from tier_train.cli import main
from tier_train.supervised_cnn import load_supervised

torch.set_num_threads(1)
STUDIES_HERE = STUDIES + plain(36)
IDS = [
    value.encode()
    for study in STUDIES_HERE
    for value in (
        str(study.subject), str(study.number), *(study.dicom(i) for i in range(len(study.views)))
    )
]  # fmt: skip
LEFT_OUT = "left out, no report: 1 (first: line 4)"  # after the header and two views


@pytest.fixture(scope="module", autouse=True)
def environment() -> Any:
    """What the commands set for their process, so that it does not outlive this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("mimic") / "tree", STUDIES_HERE)


def _command(name: str, root: Path, output: Path, *more: str) -> list[str]:
    sets = [f"--set={item}" for item in (*TINY, *more)]
    rest = ["--validate-on", f"mimic:{root}", "--threads", "1", "-o", str(output)]
    return [name, "--data", f"mimic:{root}", *sets, *rest]


def _no_id(folder: Path, said: str) -> None:
    traces = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    traces |= {"what it said": said.encode(), "names": " ".join(traces).encode()}
    found = [(name, value) for name, data in traces.items() for value in IDS if value in data]
    assert not found


def test_supervised(root: Path, tmp_path: Path, runner: CliRunner) -> None:
    command = _command("supervised", root, tmp_path / "cnn.pt", "steps=1")
    result = runner.invoke(main, command)
    assert result.exit_code == 0, result.output
    _no_id(tmp_path, result.output)
    assert result.stderr.count(LEFT_OUT) == 2, "of --data and of --validate-on"
    # this tree has no test split by patients
    assert "validation images, by which the weights were chosen: optimistic" in result.stdout
    assert load_supervised(tmp_path / "cnn.pt").training["scored_split"] == "val"
    lines = {int(row["line"]) for row in read_rows(tmp_path / "cnn.scores.csv")}
    assert lines
    assert lines <= set(range(2, _images() + 2)), "lines of the metadata table"
    assert {row["image_path"] for row in read_rows(tmp_path / "cnn.scores.csv")} == {""}


def _images() -> int:
    return sum(len(study.views) for study in STUDIES_HERE)


def test_an_image_that_is_refused(tmp_path: Path, runner: CliRunner) -> None:
    studies = plain(12)
    root = write_tree(tmp_path / "tree", studies)
    image_path(root, studies[0]).write_bytes(b"\xff\xd8")
    (tmp_path / "out").mkdir()
    for name in ("supervised", "search"):
        command = _command(name, root, tmp_path / "out/new", "split_by=official", "batch_size=2")
        result = runner.invoke(main, command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "line 2 of the metadata table" in result.stderr
        _no_id(tmp_path / "out", result.output)


def test_search(root: Path, tmp_path: Path, runner: CliRunner) -> None:
    command = _command("search", root, tmp_path / "search", "split_by=official")
    result = runner.invoke(main, [*command, "--pairs", "1"])
    assert result.exit_code == 0, result.output
    _no_id(tmp_path, result.output)
    assert result.stderr.count(LEFT_OUT) == 2
    with (tmp_path / "search/search.csv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 3
