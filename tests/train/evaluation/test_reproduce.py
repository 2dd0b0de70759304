"""python -m pytest tests/train/evaluation/test_reproduce.py -- the paper's tables, small."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score

from tests.train.evaluation.drawn import write_supervised, write_tiny
from tests.train.evaluation.paper_trees import (
    FIVE,
    READERS,
    truth,
    write_chexpert,
    write_covid,
    write_padchest,
)
from tier_infer.evaluation.scores import read_scores
from tier_infer.label_sets import column_id
from tier_train.cli import main
from tier_train.evaluation.assembled import highest
from tier_train.evaluation.rows import published

torch.set_num_threads(1)
IDS = tuple(map(column_id, FIVE))
OURS = ("regularized", "unregularized", "chexzero", "medclip", "biovil", "supervised")
IMPORTED = {"chexzero": "chexzero", "medclip": "medclip", "biovil": "chexpert"}  # → prompts
TEST = 16  # images, two to a study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The three trees, regularized.pt, second.pt of its kind, and a file for every other row."""
    folder = tmp_path_factory.mktemp("paper")
    write_chexpert(folder / "chexpert", TEST)
    write_padchest(folder / "padchest")
    write_covid(folder / "covid")
    write_tiny(folder / "regularized.pt", 0)
    write_tiny(folder / "second.pt", 1)
    write_tiny(folder / "unregularized.pt", 2, lambda_patch=0.0, lambda_token=0.0)
    for seed, (source, prompts) in enumerate(IMPORTED.items(), start=3):
        write_tiny(folder / f"{source}.pt", seed, source=source, prompts=prompts)
    write_supervised(folder / "supervised.pt", IDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield folder


def reproduce(folder: Path, table: str, output: str, *arguments: str) -> Result:
    """Arguments that begin with @ are files of the folder."""
    asked = [str(folder / a[1:]) if a.startswith("@") else a for a in arguments]
    fixed = ["-o", str(folder / output), "--draws", "20", "--threads", "1"]
    return CliRunner().invoke(main, ["reproduce", table, *fixed, *asked])


def rows_given(*names: str) -> list[str]:
    return [word for name in names for word in (f"--{name}", f"@{name}.pt")]


def chexpert(folder: Path) -> list[str]:
    return ["--dataset", f"chexpert:{folder / 'chexpert'}"]


@pytest.fixture(scope="module")
def everything(folder: Path) -> tuple[Result, dict[str, Any]]:
    decisions = ["--validation", "valid", "--radiologists", "@chexpert/readers"]
    ensemble = ["--regularized", "@second.pt"]
    asked = [*chexpert(folder), *decisions, *rows_given(*OURS), *ensemble]
    result = reproduce(folder, "table1", "all", *asked)
    assert result.exit_code == 0, result.output
    return result, json.loads((folder / "all/table1.json").read_text())


def of(found: dict[str, Any], protocol: int = 0) -> dict[str, Any]:
    return {row["row"]: row for row in found["protocols"][protocol]["rows"]}


def test_table_1_has_every_row_in_two_tables(everything: tuple[Result, dict[str, Any]]) -> None:
    found = everything[1]
    assert [p["name"] for p in found["protocols"]] == ["ours", "own"]
    assert tuple(of(found)) == (*OURS, "radiologists")
    assert tuple(of(found, 1)) == ("chexzero", "medclip")
    assert all(row["needs"] is None for p in found["protocols"] for row in p["rows"])
    assert {row["unit"] for row in of(found).values()} == {"per_image"}
    assert {row["units"] for row in of(found).values() if "units" in row} == {TEST}
    own = of(found, 1)["chexzero"]
    assert (own["unit"], own["units"], own["scoring"]) == ("first_frontal", TEST // 2, "softmax")
    assert of(found, 1)["medclip"]["scoring"] == "prompt-mean"
    assert {r["label_set"] for r in of(found).values() if r.get("scoring") == "margin"} == {
        "chexpert"
    }
    assert len(of(found)["regularized"]["checkpoints"]) == 2


def test_its_figures_are_those_of_the_rows_reports(
    folder: Path, everything: tuple[Result, dict[str, Any]]
) -> None:
    for protocol in everything[1]["protocols"]:
        for row in protocol["rows"]:
            if row["row"] == "radiologists":
                continue
            report = json.loads((folder / "all" / row["folder"] / "report.json").read_text())
            assert row["mean"]["value"] == report["auc"]["mean"]
            assert row["mean"]["interval"] == report["auc"]["mean_interval"]
            for cell in report["auc"]["labels"]:
                assert row["auc"][cell["label"]]["value"] == cell["auc"]
                assert row["auc"][cell["label"]]["interval"] == cell["interval"]
            for which in ("mcc", "f1") if protocol["decisions"] else ():
                assert row[which]["mean"] == report["decisions"]["mean"][which]
                for cell in report["decisions"]["labels"]:
                    assert row[which]["labels"][cell["label"]] == {
                        "value": cell[which]["value"],
                        "interval": cell[which]["interval"],
                    }


def test_its_areas_are_those_of_scikit_learn(
    folder: Path, everything: tuple[Result, dict[str, Any]]
) -> None:
    ours, own = of(everything[1])["chexzero"], of(everything[1], 1)["chexzero"]
    y = np.array([[truth(i // 2, k) for k in range(len(FIVE))] for i in range(TEST)])
    for row, kept in ((ours, slice(None)), (own, slice(0, None, 2))):  # a lateral is every second
        z = read_scores(folder / "all" / row["folder"]).z[kept]
        for k, label in enumerate(IDS):
            area = roc_auc_score(y[kept, k], z[:, k])
            assert row["auc"][label]["value"] == pytest.approx(area, abs=1e-12)


def test_radiologists_have_decisions_and_no_area(everything: tuple[Result, dict[str, Any]]) -> None:
    row = of(everything[1])["radiologists"]
    assert row["auc"] is None
    assert tuple(row["readers"]) == READERS
    studies = np.arange(TEST // 2).repeat(2)
    for k, label in enumerate(IDS):
        y = np.array([truth(int(study), k) for study in studies])
        read = [np.where(studies == wrong, 1 - y, y) for wrong in range(len(READERS))]
        for which, figure in (("mcc", matthews_corrcoef), ("f1", f1_score)):
            expected = np.mean([figure(y, decided) for decided in read])
            assert row[which]["labels"][label]["value"] == pytest.approx(expected, abs=1e-12)


def test_published_figures_stand_beside_with_their_source(
    everything: tuple[Result, dict[str, Any]],
) -> None:
    result, found = everything
    means = {name: row["mean"]["published"] for name, row in of(found).items() if row["mean"]}
    assert means == dict.fromkeys(OURS) | {
        "regularized": 0.9091,
        "unregularized": 0.9012,
        "chexzero": 0.898,
    }
    own = of(found, 1)["chexzero"]
    assert own["mean"]["published"] == 0.8892
    assert own["auc"]["pleural_effusion"]["published"] == 0.9317
    assert "arXiv 2212.06710" in found["protocols"][0]["published"]
    assert "16 units, the published figure has 668" in result.stdout
    line = next(x for x in result.stdout.splitlines() if x.startswith("| TIER, regularized |"))
    assert line.endswith("/ 0.9091 |")
    assert line.count(" / – |") == 5


def test_text_csv_and_json_say_the_same(
    folder: Path, everything: tuple[Result, dict[str, Any]]
) -> None:
    result, found = everything
    assert (folder / "all/table1.md").read_text() == result.stdout
    rows = list(csv.DictReader(io.StringIO((folder / "all/table1.csv").read_text())))
    assert rows
    by_name = {p["name"]: {r["row"]: r for r in p["rows"]} for p in found["protocols"]}
    for line in rows:
        row = by_name[line["protocol"]][line["row"]]
        if line["figure"] == "auc":
            cell = row["mean"] if line["label"] == "(mean)" else row["auc"][line["label"]]
        else:
            cells = row[line["figure"]]
            cell = cells["mean"] if line["label"] == "(mean)" else cells["labels"][line["label"]]
        assert float(line["value"]) == cell["value"]
        assert [float(line["low"]), float(line["high"])] == cell["interval"]
        assert line["published"] == ("" if cell.get("published") is None
                                     else str(cell["published"]))  # fmt: skip
        assert line["unit"] == row["unit"]
    again = reproduce(folder, "table1", "all", *chexpert(folder), *rows_given("biovil"), "--json")
    assert json.loads(again.stdout)["protocols"][0]["rows"][4]["row"] == "biovil"


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
    assert result.stderr.count("16 of 16 images were scored before") == 1  # chexzero-own alone
    files = [p for p in (folder / "whole").rglob("*") if p.is_file()]
    assert len(files) > 3 * 4
    for path in files:
        other = folder / "cut" / path.relative_to(folder / "whole")
        assert path.read_bytes() == other.read_bytes(), path.name


def test_table_2_gives_each_finding_and_who_won(folder: Path) -> None:
    data = ["--dataset", f"padchest:{folder / 'padchest'}"]
    given = rows_given("regularized", "unregularized", "chexzero")
    result = reproduce(folder, "table2", "padchest-rows", *data, *given)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "padchest-rows/table2.json").read_text())
    ours = found["protocols"][0]
    rows = of(found)
    assert len(ours["labels"]) == 57
    assert rows["regularized"]["auc"]["copd_signs"]["published"] == 0.75013
    won = ours["won"]
    assert won["published"] == {"regularized": 29, "unregularized": 18, "chexzero": 10}
    best = np.argmax([[rows[n]["auc"][k]["value"] for n in rows] for k in ours["labels"]], axis=1)
    assert sum(won["measured"].values()) >= 57 == len(best)
    for i, name in enumerate(rows):
        assert won["measured"][name] >= (best == i).sum()
    lines = result.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    assert lines[first + 1].startswith("| evaluations won, of 57 / 57 |")
    assert "57 of 57 labels have another number of positives than in the paper" in result.stdout
    own = of(found, 1)["chexzero"]
    assert (own["label_set"], own["scoring"]) == ("padchest_chexzero", "softmax")


def test_covid_stands_beside_the_papers_figure(folder: Path) -> None:
    data = ["--dataset", f"covid:{folder / 'covid'}"]
    result = reproduce(folder, "covid", "covid-rows", *data, *rows_given("regularized"))
    assert result.exit_code == 0, result.output
    row = of(json.loads((folder / "covid-rows/covid.json").read_text()))["regularized"]
    z = read_scores(folder / "covid-rows/regularized").z[:, 0]
    area = roc_auc_score([1] * 4 + [0] * 4, z)
    assert row["auc"]["covid_19"]["value"] == pytest.approx(area, abs=1e-12)
    assert row["auc"]["covid_19"]["published"] == 0.759


def test_a_tie_is_won_by_all_that_share_it() -> None:
    values = {"a": {"x": 0.5, "y": 0.9}, "b": {"x": 0.5, "y": 0.8}}
    assert highest(values, ["x", "y"]) == {"a": 2, "b": 1}
    assert highest(values, []) == {"a": 0, "b": 0}


def test_published_means_are_those_of_the_published_findings() -> None:
    table = published()["table2"]["ours"]
    for name, mean in table["means"].items():
        assert len(table["labels"][name]) == 57
        assert np.mean(list(table["labels"][name].values())) == pytest.approx(mean, abs=5e-5)
    own = published()["table1"]["own"]
    five = own["labels"]["chexzero"].values()
    assert np.mean(list(five)) == pytest.approx(own["means"]["chexzero"], abs=5e-5)


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
