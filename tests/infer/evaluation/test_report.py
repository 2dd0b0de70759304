"""python -m pytest tests/infer/evaluation/test_report.py -- JSON, CSV and Markdown say the same."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.infer.evaluation.fakes import GreyScorer, cohort, random_scores, random_truth
from tier_infer.evaluation import run
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.markdown import markdown
from tier_infer.evaluation.report import COLUMNS, csv_rows, write_report
from tier_infer.evaluation.run import Plan, evaluate

N, V = 60, 30
TRUTH = random_truth(N + V, 1)
Z = random_scores(TRUTH, 2, 1.0)
Report = dict[str, Any]


def decisions(folder: Path, images: Cohort) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Two readers, each wrong on every k-th image, and a note."""
    found = {}
    for name, every in (("bc4", 3), ("bc6", 4)):
        found[name] = images.truth.copy()
        found[name][::every] = 1 - found[name][::every]
    return found, ("bc4: 60 of 60",)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """With every section; names of a dataset may hold anything."""
    folder = tmp_path_factory.mktemp("images")
    groups = {"sex": tuple("F|"[i % 2] for i in range(N))}
    test = cohort(folder, TRUTH[:N].tolist(), groups=groups)
    test = replace(
        test, name="a|b\x1b[31m/\udcff.csv", left_out={"lateral | odd": 7}, notes=("a note",)
    )
    valid = cohort(folder, TRUTH[N:].tolist(), first=N)
    other = GreyScorer(-Z, checkpoints=["d" * 64])
    evaluate(test, other, Plan(draws=0), folder / "other")
    plan = Plan(
        draws=40, group_by="sex", validation=valid, against=folder / "other", radiologists=folder
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "read_radiologists", decisions)
        return evaluate(test, GreyScorer(Z), plan, None).report


def test_every_section_is_in_every_file(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    figures = {row["figure"] for row in rows}
    assert figures >= {
        "auc", "auc sex=F", "auc there", "auc difference", "delong_p_holm", "mcc", "f1_threshold",
        "mcc reader bc4", "f1 mean_radiologist", "mcc difference", "brier", "ece", "platt_scale",
        "max_dz", "flips",
    }  # fmt: skip
    text = (tmp_path / "report.md").read_bytes().decode("utf-8", "surrogateescape")
    for title in ("Left out", "AUC", "MCC and F1", "MCC beside radiologists", "Against",
                  "Calibration", "AUC, sex = F", "Remarks"):  # fmt: skip
        assert f"## {title}" in text
    assert "a note" in text
    assert "bc4: 60 of 60" in text
    assert "| rows: lateral \\| odd" in text


def test_a_row_of_the_csv_is_the_figure_of_the_json(report: Report) -> None:
    rows = {(row[0], row[1]): row[2:] for row in csv_rows(report)}
    assert len(rows) == sum(1 for _ in csv_rows(report))  # no figure stands twice
    auc = report["auc"]["labels"][1]
    expected = (auc["auc"], *auc["interval"], auc["n"], auc["positives"])
    assert rows["effusion", "auc"] == expected
    mcc = report["radiologists"]["readers"][0]["mean"]["mcc"]
    assert rows["(mean)", "mcc reader bc4"] == (mcc["value"], *mcc["interval"], "", "")
    chosen = report["decisions"]["labels"][0]
    assert rows["edema", "f1_threshold"][0] == chosen["f1"]["threshold"]
    assert rows["edema", "f1_threshold"][3] == V
    compared = report["comparison"]["mean"]
    assert rows["(mean)", "auc difference"][0] == compared["difference"]


def test_tables_are_aligned_and_closed(report: Report) -> None:
    """In a terminal as in a browser; a bar in a name is no end of a cell, and no name moves the
    cursor."""
    text = markdown(report)
    assert "\x1b" not in text
    assert "# a\\|b\\x1b[31m/\udcff.csv" in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) > 8
    for block in blocks:
        assert len({len(line) for line in block}) == 1
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1


def test_figures_are_printed_as_papers_print_them(report: Report) -> None:
    lines = [line.split("|") for line in markdown(report).splitlines()]
    row = next(line for line in lines if line[1:2] and line[1].strip() == "edema")
    auc = report["auc"]["labels"][0]
    low, high = auc["interval"]
    assert [cell.strip() for cell in row[2:6]] == [
        str(auc["n"]), str(auc["positives"]), f"{auc['auc']:.3f}", f"{low:.3f} to {high:.3f}",
    ]  # fmt: skip


def test_what_could_not_be_computed_is_a_dash(report: Report) -> None:
    changed = json.loads(json.dumps(report))
    changed["auc"]["labels"][0] |= {"auc": None, "interval": None, "excluded": "one class only"}
    changed["decisions"]["labels"][0]["mcc"] |= {"threshold": None}
    text = markdown(changed)
    cells = [cell.strip() for cell in text.split("## AUC")[1].splitlines()[4].split("|")]
    assert cells[1:6] == ["edema", str(N), cells[3], "–", "–"]
    cells = [c.strip() for c in text.split("## MCC and F1")[1].splitlines()[4].split("|")]
    assert cells[4] == "never"  # no threshold was better than saying no to all
    assert "nan" not in text.lower()


def test_a_model_that_is_not_exported_says_so(report: Report) -> None:
    changed = json.loads(json.dumps(report))
    changed["model"] |= {"exported": False, "scoring": "softmax"}
    assert "softmax; not exported: runs in PyTorch only" in markdown(changed)


def test_twins_can_be_told_apart(report: Report) -> None:
    changed = json.loads(json.dumps(report))
    twin = {"recipes": ["paper"] * 2, "training": [{"data": "mimic", "sha256": ""}] * 2}
    twin["checkpoints"] = ["c" * 64, "e" * 64]
    changed["model"] |= twin | {"lambdas": [[0.1, 0.2]] * 2}
    changed["comparison"]["model"] |= twin | {"lambdas": [[0.0, 0.0], [0.0, 0.1]]}
    lines = [[cell.strip() for cell in line.split("|")] for line in markdown(changed).splitlines()]
    facts = {cells[1]: cells[2] for cells in lines if len(cells) == 4}
    assert facts["model"] == "paper, λ patch 0.1, token 0.2, 2 checkpoints (fake)"
    assert facts["trained on"] == facts["the other: trained on"] == "mimic"
    assert facts["the other: model"] == (
        "paper, λ patch 0.0, token 0.0, λ patch 0.0, token 0.1, 2 checkpoints (fake)"
    )


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (None, "| margin "),
        ({"kind": "top_k", "k": 5}, "| margin, patches pooled by top_k=5 "),
        ({"kind": "log_sum_exp", "temperature": 0.1}, "pooled by log_sum_exp=0.1 "),
        ("median", "| margin, patches pooled in another way "),
    ],
)
def test_the_pool_of_a_set_is_shown(report: Report, pool: Any, said: str) -> None:
    changed = json.loads(json.dumps(report))
    changed["model"]["label_sets"] = {"lungs": {"prompts_sha256": "p" * 64, "pool": pool}}
    line = next(x for x in markdown(changed).splitlines() if x.startswith("| scoring"))
    assert said in line


def test_an_interval_that_is_a_bound_is_marked(report: Report) -> None:
    changed = json.loads(json.dumps(report))
    changed["auc"]["labels"][0] |= {"interval": [0.2, 0.9], "interval_of": "bound"}
    assert "0.200 to 0.900 * |" in markdown(changed)


def test_what_an_evaluation_before_drew_is_removed(report: Report, tmp_path: Path) -> None:
    ours = ("roc.png", "roc-1.png", "roc-12.png", "reliability.png", "decisions-2.png")
    others = ("scores.csv", "plan.json", "roc-x.png", "film.png", "figure5.png", "roc.png.txt")
    for name in (*ours, *others):
        (tmp_path / name).write_bytes(b"before")
    write_report(report, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *others, "report.json", "report.csv", "report.md",
    }  # fmt: skip
    assert all((tmp_path / name).read_bytes() == b"before" for name in others)


def test_the_hashes_of_an_honest_claim_are_shown(report: Report) -> None:
    text = markdown(report)
    for digest in ("c" * 12, "d" * 12, "p" * 12, report["dataset"]["sha256"][:12]):
        assert digest in text
    assert np.isfinite(report["auc"]["mean"])
