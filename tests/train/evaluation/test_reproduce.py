"""python -m pytest tests/train/evaluation/test_reproduce.py -- the paper's tables, small."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score

from tests.train.evaluation.paper_runs import IDS, OURS, TEST, chexpert, of, reproduce, rows_given
from tests.train.evaluation.paper_trees import (
    FIVE,
    READERS,
    truth,
)
from tier_infer.evaluation.scores import read_scores
from tier_train.evaluation.beside import highest, remarks
from tier_train.evaluation.rows import published


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
                section = report["radiologists"]["model"]
                assert row[which]["mean"] == section["mean"][which]
                for label in IDS:
                    cell = row[which]["labels"][label]
                    assert {k: cell[k] for k in ("value", "interval")} == section["labels"][label][
                        which
                    ]


def test_models_and_radiologists_stand_on_the_units_that_all_of_them_read(
    folder: Path, everything: tuple[Result, dict[str, Any]]
) -> None:
    read = slice(0, TEST - 2)  # one reader did not decide on the last study
    rows = of(everything[1])
    for name in ("chexzero", "biovil"):
        z = read_scores(folder / "all" / name).z[read]
        report = json.loads((folder / "all" / name / "report.json").read_text())
        for k, label in enumerate(IDS):
            y = np.array([truth(i // 2, k) for i in range(TEST)][read])
            chosen = report["decisions"]["labels"][k]
            for which, figure in (("mcc", matthews_corrcoef), ("f1", f1_score)):
                at = chosen[which]["threshold"]
                decided = np.zeros(len(y)) if at is None else z[:, k] > np.float32(at)
                cell = rows[name][which]["labels"][label]
                assert cell["value"] == pytest.approx(figure(y, decided), abs=1e-12)
                readers = rows["radiologists"][which]["labels"][label]
                for each in (cell, readers):
                    assert (each["n"], each["positives"]) == (TEST - 2, y.sum())
    assert "units that every radiologist decided" in everything[0].stdout


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
    studies = np.arange(TEST // 2 - 1).repeat(2)  # the last was not read by all
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
    assert "52 units, the published figure has 668" in result.stdout
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
    told = 0
    by_name = {p["name"]: {r["row"]: r for r in p["rows"]} for p in found["protocols"]}
    for line in rows:
        row = by_name[line["protocol"]].get(line["row"], {"unit": "per_image"})
        if line["figure"] == "auc difference":
            cell = found["protocols"][0]["difference"]
        elif line["figure"] == "auc":
            cell = row["mean"] if line["label"] == "(mean)" else row["auc"][line["label"]]
        else:
            cells = row[line["figure"]]
            cell = cells["mean"] if line["label"] == "(mean)" else cells["labels"][line["label"]]
        assert float(line["value"]) == cell["value"]
        ends = [float(line[side]) for side in ("low", "high") if line[side]]
        assert ends == (cell["interval"] or [])
        told += bool(ends)
        assert line["published"] == ("" if cell.get("published") is None
                                     else str(cell["published"]))  # fmt: skip
        assert line["unit"] == row["unit"]
    assert told > 20
    readers = ["--validation", "valid", "--radiologists", "@chexpert/readers"]
    asked = [*chexpert(folder), *readers, *rows_given("biovil"), "--json"]
    shutil.copytree(folder / "all", folder / "again")
    again = json.loads(reproduce(folder, "table1", "again", *asked).stdout)
    rows = again["protocols"][0]["rows"]
    assert rows[4]["row"] == "biovil"
    # The rows of before stay, and say so.
    assert [r.pop("before") for r in rows[:6]] == [True, True, True, True, False, True]
    for protocol in (*again["protocols"], *found["protocols"]):
        for row in protocol["rows"]:
            row.pop("before", None)
    assert again == found
    assert "evaluated before" in (folder / "again/table1.md").read_text()


def test_the_twins_differ_by_their_means_on_the_same_resamples(
    folder: Path, everything: tuple[Result, dict[str, Any]]
) -> None:
    result, found = everything
    cell, rows = found["protocols"][0]["difference"], of(found)
    apart = rows["regularized"]["mean"]["value"] - rows["unregularized"]["mean"]["value"]
    assert cell["value"] == pytest.approx(apart, abs=1e-12)
    assert cell["interval"][0] < cell["value"] < cell["interval"][1]
    assert cell["published"] == 0.0079
    assert f"regularized − unregularized: {apart:+.4f}".replace("+-", "-") in result.stdout


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
    assert len(best) == 57 >= sum(won["measured"].values()) > 0
    for i, name in enumerate(rows):
        assert won["measured"][name] <= (best == i).sum()
    lines = result.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    assert lines[first + 1].startswith("| evaluations won, of 57 / 57 |")
    assert "57 of 57 labels have another number of positives than in the paper" in result.stdout
    own = of(found, 1)["chexzero"]
    assert (own["label_set"], own["scoring"]) == ("padchest_chexzero", "softmax")


def test_evaluations_won_are_counted_over_the_rows_that_ran(folder: Path) -> None:
    data = ["--dataset", f"padchest:{folder / 'padchest'}"]
    result = reproduce(folder, "table2", "two", *data, *rows_given("regularized", "chexzero"))
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "two/table2.json").read_text())["protocols"][0]
    paper = published()["table2"]["ours"]["labels"]
    higher = sum(paper["regularized"][k] > paper["chexzero"][k] for k in found["labels"])
    assert found["won"]["published"] == {"regularized": higher, "chexzero": 57 - higher}
    assert higher > 29
    alone = reproduce(folder, "table2", "one", *data, *rows_given("chexzero"))
    assert "| evaluations won, of 57 / 57 |  | – / – | – / – | – / – |" in alone.stdout


def test_rows_on_other_images_are_remarked(folder: Path, tmp_path: Path) -> None:
    labels = ["x"]
    cell = {"value": 0.5, "positives": 3}
    row = {"row": "biovil", "unit": "per_image", "units": 16, "auc": {"x": cell}, "needs": None,
           "title": "A", "scored": "a", "cautions": [], "remarks": ["few"], "mean": {"of": 1},
           "images": {"failed": 0, "not_evaluated": 0}}  # fmt: skip
    paper: dict[str, Any] = {"means": {}}
    assert remarks([row, row | {"title": "B"}], labels, paper) == ["every row: few"]
    told = remarks([row, row | {"title": "B", "scored": "b", "units": 15}], labels, paper)
    assert "the rows stand on different images, some failed in one of them: A 16, B 15" in told


def test_a_tie_is_won_by_nobody() -> None:
    values = {"a": {"x": 0.5, "y": 0.9}, "b": {"x": 0.5, "y": 0.8}}
    assert highest(values, ["x", "y"]) == {"a": 1, "b": 0}
    assert highest(values, []) == {"a": 0, "b": 0}
    printed = {"a": {"x": 0.500004}, "b": {"x": 0.500003}, "c": {"x": 0.49999}}
    assert highest(printed, ["x"]) == {"a": 0, "b": 0, "c": 0}


def test_published_means_are_those_of_the_published_findings() -> None:
    table = published()["table2"]["ours"]
    for name, mean in table["means"].items():
        assert len(table["labels"][name]) == 57
        assert np.mean(list(table["labels"][name].values())) == pytest.approx(mean, abs=5e-5)
    own = published()["table1"]["own"]
    five = own["labels"]["chexzero"].values()
    assert np.mean(list(five)) == pytest.approx(own["means"]["chexzero"], abs=5e-5)
