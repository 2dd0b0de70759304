"""python -m pytest tests/train/evaluation/test_evaluate_cli.py -- its options in PyTorch."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from tests.data.make_source_scores import LABELS
from tests.train.evaluation.drawn import write_pictures, write_supervised, write_tiny
from tier_infer.evaluation.measure import won
from tier_infer.evaluation.scores import read_scores
from tier_infer.files import sha256_of
from tier_infer.label_sets import column_id
from tier_train.cli import main
from tier_train.evaluation.rows import published

torch.set_num_threads(1)
IDS = tuple(map(column_id, LABELS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """drawn/manifest.csv and tiny checkpoints a.pt, b.pt, other.pt (chexzero's prompts), cnn.pt."""
    folder = tmp_path_factory.mktemp("cli") / "drawn"
    write_pictures(folder)
    write_tiny(folder / "a.pt", 0)
    write_tiny(folder / "b.pt", 1)
    write_tiny(folder / "other.pt", 2, prompts="chexzero")
    write_tiny(folder / "equalised.pt", 3, intensity="mimic-jpg")
    write_tiny(folder / "seen.pt", 4, data="drawn/manifest.csv")
    write_tiny(folder / "same.pt", 5, digest=sha256_of(folder / "manifest.csv"))
    write_supervised(folder / "cnn.pt", ("edema", "atelectasis"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield folder


def evaluate(folder: Path, *arguments: str, kept: str = "") -> Result:
    """Arguments that end in .pt are files of the folder."""
    named = [str(folder / a) if a.endswith(".pt") else a for a in arguments]
    output = ["-o", str(folder / kept)] if kept else []
    data = ["--dataset", f"manifest:{folder / 'manifest.csv'}", "--draws", "0", "--threads", "1"]
    return CliRunner().invoke(main, ["evaluate", *data, *output, *named])


def test_the_printed_auc_is_that_of_the_written_scores(folder: Path) -> None:
    result = evaluate(folder, "a.pt", "b.pt", "--json", kept="ensemble")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    z = read_scores(folder / "ensemble").z
    for i, (name, found) in enumerate(zip(LABELS, report["auc"]["labels"], strict=True)):
        area = roc_auc_score([int(row[name]) for row in rows], z[:, i])
        assert found["label"] == IDS[i]
        assert found["auc"] == pytest.approx(area, abs=1e-12)
    singles = [read_scores(folder / name).z for name in "ab" if not evaluate(
        folder, f"{name}.pt", kept=name).exit_code]  # fmt: skip
    np.testing.assert_allclose(z, np.mean(singles, axis=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scoring", ["margin", "softmax", "prompt-mean", "prompt-max"])
def test_every_scoring_says_which_it_is(folder: Path, scoring: str) -> None:
    result = evaluate(folder, "a.pt", "--scoring", scoring, "--json")
    assert result.exit_code == 0, result.output
    model = json.loads(result.stdout)["model"]
    assert (model["scoring"], model["exported"]) == (scoring, scoring == "margin")


def test_a_supervised_file_is_known_by_its_content(folder: Path) -> None:
    result = evaluate(folder, "cnn.pt", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["model"]["scoring"] == "head"
    assert [row["label"] for row in report["auc"]["labels"]] == ["edema", "atelectasis"]
    one = evaluate(folder, "cnn.pt", "--labels", "atelectasis", "--json")
    assert json.loads(one.stdout)["auc"]["mean"] == report["auc"]["labels"][1]["auc"]


def test_prompt_options_reach_the_draw(folder: Path) -> None:
    drawn = ["--scoring=prompt-mean", "--queries=medclip", "--prompts-per-label=3"]
    for seed in (0, 1):
        assert not evaluate(
            folder, "a.pt", *drawn, f"--prompt-seed={seed}", kept=str(seed)
        ).exit_code
    models = [json.loads((folder / s / "plan.json").read_text())["model"] for s in "01"]
    assert [m["prompts"]["per_label"] for m in models] == [3, 3]
    assert [m["prompts"]["seed"] for m in models] == [0, 1]
    assert models[0]["label_sets"] != models[1]["label_sets"]
    assert not np.array_equal(read_scores(folder / "0").z, read_scores(folder / "1").z)


@pytest.mark.parametrize("name", ["seen.pt", "same.pt"], ids=["by name", "by digest"])
def test_training_on_the_same_data_is_said(folder: Path, name: str) -> None:
    result = evaluate(folder, name, "--json")
    said = "the table that is evaluated here: all of it, training images included"
    assert said in result.stderr
    notes = json.loads(result.stdout)["dataset"]["notes"]
    assert any(said in note for note in notes)
    test = evaluate(folder, name, "--split=test").stderr
    assert "split test; none of its images should have been trained on" in test
    assert "trained on" not in evaluate(folder, "a.pt").stderr


def test_labels_without_truth_are_named(folder: Path, tmp_path: Path) -> None:
    """In the words of a bundle's evaluation."""
    lines = (folder / "manifest.csv").read_text().splitlines()
    kept = [",".join([str(folder / cells[0]) if i else cells[0], *cells[1:-1]])
            for i, cells in enumerate(line.split(",") for line in lines)]  # fmt: skip
    (tmp_path / "manifest.csv").write_text("\n".join(kept))
    for name, lacking in (("a.pt", True), ("cnn.pt", False)):
        asked = ["evaluate", f"{folder / name}", "--dataset", f"manifest:{tmp_path}/manifest.csv",
                 "--draws", "0", "--threads", "1"]  # fmt: skip
        shown = CliRunner().invoke(main, asked).stdout
        said = f"no truth for 1 of the set's {len(IDS)} labels: {IDS[-1]}"
        assert (said in shown) is lacking
        assert said not in CliRunner().invoke(main, [*asked, "--labels", "edema"]).stdout


def test_twins_can_be_told_apart(folder: Path) -> None:
    write_tiny(folder / "plain.pt", 6, lambda_patch=0.0, lambda_token=0.0)
    write_tiny(folder / "penalised.pt", 6, lambda_patch=0.2, lambda_token=0.1)
    for name, said in (("plain.pt", "λ patch 0.0, token 0.0"),
                       ("penalised.pt", "λ patch 0.2, token 0.1")):  # fmt: skip
        assert f"{said}, 1 checkpoint (pytorch)" in evaluate(folder, name).stdout


def test_the_pool_is_said_and_is_another_scoring(folder: Path) -> None:
    assert evaluate(folder, "a.pt", kept="whole").exit_code == 0
    pooled = ["a.pt", "--queries=chexpert@top_k=2", "--against", str(folder / "whole")]
    report = json.loads(evaluate(folder, *pooled, "--json").stdout)
    assert report["comparison"]["same"]["scoring"] is False
    assert report["comparison"]["same"]["checkpoints"] is True
    assert all(row["max_dz"] is None for row in report["comparison"]["labels"])
    assert "margin, patches pooled by top_k=2" in evaluate(folder, *pooled).stdout


def test_published_findings_are_won_as_the_paper_counts() -> None:
    """Table 2 prints 29, 18 and 10 evaluations won, of AUCs to five decimals."""
    rows = published()["table2"]["ours"]["labels"]
    names = ("regularized", "unregularized", "chexzero")
    assert won([list(rows[name].values()) for name in names]) == ([29, 18, 10], 0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a.pt", "--prompt-seed=1"], 2, "--scoring margin asks all of them"),
        (["a.pt", "--scoring=softmax", "--prompts-per-label=3"], 2, "they go with prompt-mean"),
        (["a.pt", "--scoring=softmax", "--queries=medclip"], 2, "has no negative prompt"),
        (["a.pt", "--scoring=sum"], 2, "'sum' is not one of"),
        (["cnn.pt", "--scoring=margin"], 2, "scored by its head"),
        (["cnn.pt", "--queries=chexpert"], 2, "scored by its head"),
        (["cnn.pt", "cnn.pt"], 2, "evaluate it alone"),
        (["cnn.pt", "--labels=cardiomegaly"], 2, "no output of this supervised network"),
        (["a.pt", "cnn.pt"], 4, "is a supervised network"),
        (["a.pt", "equalised.pt"], 2, "can't be one ensemble"),
        (["a.pt", "other.pt"], 2, "name one with --queries"),
        (["a.pt", "--device=cuda"], 6, "torch sees no CUDA device"),
        (["a.pt", "--device=tpu"], 2, "allowed: cpu, cuda"),
        (["a.pt", "--labels=nodule"], 2, "not in label set chexpert"),
        (["a.pt", "--queries=chexpert@top_k=2", "--scoring=softmax"], 2, "pools scores of patches"),
        (["a.pt", "--threads=0"], 2, "--threads must be at least 1"),
        (["gone.pt"], 2, "does not exist"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = evaluate(folder, *arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_damaged_file_is_refused_whole(folder: Path) -> None:
    (folder / "cut.pt").write_bytes((folder / "a.pt").read_bytes()[:-1000])
    result = evaluate(folder, "cut.pt")
    assert result.exit_code == 4
    assert "no complete checkpoint" in result.stderr
