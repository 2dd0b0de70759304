"""python -m pytest tests/train/evaluation/test_reproduce_runs.py -- kept, resumed, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from tests.train.evaluation.paper_runs import chexpert, of, reproduce, rows_given
from tests.train.evaluation.paper_trees import (
    write_covid,
)
from tier_infer.evaluation.scores import read_scores
from tier_train.cli import main


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "1"], "--draws or --seed"),
        ([], "--validation"),
        (["--validation", "valid"], "--radiologists"),
    ],
)
def test_rows_of_another_run_are_not_laid_beside(
    folder: Path, everything: tuple[Result, dict[str, Any]], more: list[str], said: str
) -> None:
    before = {p: p.read_bytes() for p in (folder / "all").rglob("*") if p.is_file()}
    result = reproduce(folder, "table1", "all", *chexpert(folder), *rows_given("biovil"), *more)
    assert result.exit_code == 2
    assert f"regularized was evaluated before and its {said} differs" in result.stderr
    assert all(p.read_bytes() == text for p, text in before.items())


@pytest.mark.parametrize("name", ["notes.txt", "table1.csv", "table1.json", "table1.md"])
def test_files_of_others_are_not_overwritten(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    asked = [*chexpert(folder), *rows_given("biovil")]
    result = reproduce(folder, "table1", str(tmp_path), *asked)
    assert result.exit_code == 2
    assert "name another folder" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_the_number_of_checkpoints_and_few_cases_are_remarked(
    folder: Path, everything: tuple[Result, dict[str, Any]]
) -> None:
    told = everything[0].stdout
    assert "TIER, regularized: 2 checkpoints, the published figure is an ensemble's of 5" in told
    assert "twin: 1 checkpoint, the published figure is an ensemble's of 5" in told
    few = folder / "few"
    write_covid(few)
    asked = ["--dataset", f"covid:{few}", *rows_given("regularized"), "--regularized", "@second.pt"]
    result = reproduce(folder, "covid", "few-rows", *asked)
    assert result.exit_code == 0, result.output
    assert "2 checkpoints, the published figure is of one model" in result.stdout
    report = json.loads((folder / "few-rows/regularized/report.json").read_text())
    assert report["remarks"]
    for remark in report["remarks"]:
        assert f"TIER, regularized: {remark}" in result.stdout


def test_an_ensemble_is_told_how_to_name_its_files(folder: Path) -> None:
    told = CliRunner().invoke(main, ["reproduce", "-h"]).stdout
    assert "repeat the option for each file of an ensemble" in " ".join(told.split())


def test_published_figures_of_a_row_that_did_not_run_still_stand(folder: Path) -> None:
    data = ["--dataset", f"covid:{folder / 'covid'}"]
    result = reproduce(folder, "covid", "twin-alone", *data, *rows_given("unregularized"))
    assert result.exit_code == 0, result.output
    line = next(x for x in result.stdout.splitlines() if x.startswith("| TIER, regularized (not"))
    assert line.endswith("| – / 0.7590 | – / 0.7590 |")


def test_the_last_rows_missing_are_named(folder: Path) -> None:
    result = reproduce(folder, "table1", "some", *chexpert(folder), *rows_given("unregularized"))
    assert result.exit_code == 0, result.output
    for name in ("chexzero", "medclip", "biovil", "supervised", "regularized"):
        assert f"not run: needs --{name} " in result.stdout
    assert result.stdout.count("not run: needs --validation SPLIT") == 2
    found = of(json.loads((folder / "some/table1.json").read_text()))
    assert found["chexzero"]["needs"].startswith("--chexzero CKPT")
    assert found["chexzero"]["mean"] == {
        "value": None,
        "interval": None,
        "published": 0.898,
        "of": 0,
    }
    needed = found["radiologists"]["needs"]
    assert "--validation SPLIT" in needed
    assert "--radiologists DIR" in needed
    assert sorted(p.name for p in (folder / "some").iterdir() if p.is_dir()) == ["unregularized"]


def test_an_interrupted_table_goes_on_to_the_same_bytes(
    folder: Path, everything: tuple[Result, dict[str, Any]]
) -> None:
    asked = [*chexpert(folder), *rows_given("chexzero", "biovil")]
    assert reproduce(folder, "table1", "whole", *asked).exit_code == 0
    shutil.copytree(folder / "whole", folder / "cut")
    scores = folder / "cut/chexzero/scores.csv"
    lines = scores.read_bytes().splitlines(keepends=True)
    scores.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    shutil.rmtree(folder / "cut/biovil")
    result = reproduce(folder, "table1", "cut", *asked)
    assert result.exit_code == 0
    assert result.stderr.count("52 of 52 images were scored before") == 1  # chexzero-own alone
    files = [p for p in (folder / "whole").rglob("*") if p.is_file()]
    assert len(files) > 3 * 4
    for path in files:
        other = folder / "cut" / path.relative_to(folder / "whole")
        assert path.read_bytes() == other.read_bytes(), path.name


def test_covid_stands_beside_the_papers_figure(folder: Path) -> None:
    data = ["--dataset", f"covid:{folder / 'covid'}"]
    result = reproduce(folder, "covid", "covid-rows", *data, *rows_given("regularized"))
    assert result.exit_code == 0, result.output
    row = of(json.loads((folder / "covid-rows/covid.json").read_text()))["regularized"]
    z = read_scores(folder / "covid-rows/regularized").z[:, 0]
    area = roc_auc_score([1] * 4 + [0] * 4, z)
    assert row["auc"]["covid_19"]["value"] == pytest.approx(area, abs=1e-12)
    assert row["auc"]["covid_19"]["published"] == 0.759


def test_a_missing_film_is_counted_and_the_rest_reported(folder: Path) -> None:
    tree = folder / "holes"
    write_covid(tree)
    broken = tree / "Infection Segmentation Data/Test/Non-COVID/images/2.png"
    broken.write_bytes(b"no picture")
    asked = ["--dataset", f"covid:{tree}", *rows_given("regularized")]
    result = reproduce(folder, "covid", "holes-rows", *asked)
    assert result.exit_code == 8
    assert "1 images have no score" in result.stdout


@pytest.mark.parametrize(
    ("table", "arguments", "code", "said"),
    [
        ("table1", [], 2, "not run: needs --dataset chexpert:ROOT, and at least one of --regular"),
        ("covid", ["D", "--validation=val"], 2, "covid has no MCC and F1"),
        ("table1", ["D"], 2, "not run: needs at least one of --regularized CKPT"),
        ("table1", ["--regularized", "@regularized.pt"], 2, "needs --dataset chexpert:ROOT"),
        ("table2", ["D", "--regularized", "@regularized.pt"], 2, "--dataset padchest:ROOT"),
        ("table2", ["--medclip", "@medclip.pt"], 2, "table2 has no row for --medclip"),
        ("table1", ["D", "--regularized", "@unregularized.pt"], 2, "without the penalty"),
        ("table1", ["D", "--unregularized", "@regularized.pt"], 2, "with the penalty"),
        ("table1", ["D", "--regularized", "@chexzero.pt"], 2, "name it with --chexzero"),
        ("table1", ["D", "--biovil", "@medclip.pt"], 2, "takes --biovil CKPT"),
        ("table1", ["D", "--chexzero", "@supervised.pt"], 4, "--chexzero: "),
        ("table1", ["D", "--supervised", "@biovil.pt"], 4, "is not a supervised network"),
        ("table1", ["D", "--supervised", "@supervised.pt", "--supervised", "@supervised.pt"], 2,
         "takes one network"),
        ("table1", ["D", "--biovil", "@biovil.pt", "--radiologists", "@chexpert/readers"], 2,
         "add --validation SPLIT"),
        ("table1", ["D", "--biovil", "@biovil.pt", "--validation", "test"], 2, "share"),
        ("table1", ["D", "--biovil", "@biovil.pt", "--device", "cuda"], 6, "no CUDA device"),
        ("table3", [], 2, "'table3' is not one of"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_before_any_score(
    folder: Path, table: str, arguments: list[str], code: int, said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = [word for a in arguments for word in (chexpert(folder) if a == "D" else [a])]
    result = reproduce(folder, table, "refused", *asked)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert not (folder / "refused").exists()
