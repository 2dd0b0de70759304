"""python -m pytest tests/export/test_verify_areas.py -- AUC by label, PyTorch and encoders."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from tests.export.resealed import verify
from tier_export.cohort_crops import cohort_crops, crops_from
from tier_export.crops import manifest_crops
from tier_export.members import members_of
from tier_infer.bundle import load_bundle
from tier_infer.engine import Engine
from tier_infer.errors import UsageError
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.geometry import to_crop
from tier_infer.label_sets import load_label_set
from tier_infer.reader import Reader
from tier_infer.scoring import presets_of, select_labels
from tier_train.checkpoint import load_checkpoint

COUNT = 60
Rows = list[dict[str, str]]


def write(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture(scope="module")
def rows(site: Path) -> Rows:
    """The first test rows of the site; edema unknown in some, cardiomegaly in one class."""
    with (site / "manifest.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["split"] == "test"][:COUNT]
    for number, row in enumerate(found):
        row["image_path"] = str(site / row["image_path"])
        row["patient_id"] = f"SECRET{number}"
        row["cardiomegaly"] = "0"
        row["edema"] = "" if number % 7 == 3 else row["edema"]
        del row["consolidation"]
    return found


@pytest.fixture(scope="module")
def crops(site: Path, rows: Rows) -> NDArray[np.uint8]:
    presets = presets_of(load_bundle(site / "bundle"))
    with Reader() as reader:
        reader.intensity = presets.intensity
        read = (reader.read(row["image_path"]).grey for row in rows)
        return np.stack([to_crop(grey, presets.geometry) for grey in read])


def expected(site: Path, rows: Rows, crops: NDArray[np.uint8]) -> dict[str, dict[str, float]]:
    """column → label → AUC by scikit-learn, of nothing but PyTorch and the runtime."""
    labels, bundle = load_label_set("chexpert"), load_bundle(site / "bundle")
    members = members_of([load_checkpoint(site / "ckpt.pt")])
    scores = {"PyTorch": members.encode(crops)[0] @ members.table(labels).T}
    for precision in ("fp32", "fp16"):
        seen = Engine(bundle, "cpu", precision).encode(crops)
        scores[precision] = select_labels(bundle, None).image_scores(seen)
    found: dict[str, dict[str, float]] = {}
    for column, z in scores.items():
        for place, label in enumerate(labels.labels):
            given = [row.get(label.id, "") for row in rows]
            known = [i for i, cell in enumerate(given) if cell]
            y = [int(given[i]) for i in known]
            if len(set(y)) == 2:
                area = roc_auc_score(y, z[known, place])
                found.setdefault(column, {})[label.id] = float(area)
    return found


@pytest.mark.parametrize("kind", ["", "manifest:"])
def test_the_areas_are_those_of_scikit_learn(
    site: Path, tmp_path: Path, rows: Rows, crops: NDArray[np.uint8], kind: str
) -> None:
    path = write(tmp_path / "films.csv", rows)
    args = (site / "bundle", "--against", site / "ckpt.pt", "--dataset", f"{kind}{path}")
    result = verify(*args, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    table = report["auc"]["chexpert"]
    assert table["columns"] == ["PyTorch", "fp32", "fp16"]
    wanted = expected(site, rows, crops)
    assert list(table["labels"]) == ["atelectasis", "cardiomegaly", "edema", "pleural_effusion"]
    for label, row in table["labels"].items():
        known = [given[label] for given in rows if given[label]]
        assert (row["n"], row["positives"]) == (len(known), known.count("1"))
        if label == "cardiomegaly":
            assert row["auc"] is None
        else:
            assert row["auc"] == pytest.approx({c: wanted[c][label] for c in wanted}, abs=1e-9)
        for precision in ("fp32", "fp16"):
            (first, *_) = report["proofs"][precision].values()
            figures = first["chexpert"]["labels"][label]
            assert row["max_dz"][precision] == figures["max_dz"]
            assert row["flips"][precision] == figures["flips"]
    mean = table["mean"]
    assert mean["labels"] == 3
    areas = {column: np.mean(list(each.values())) for column, each in wanted.items()}
    assert mean["auc"] == pytest.approx(areas, abs=1e-9)
    assert "SECRET" not in result.output


def test_the_table_on_the_screen(site: Path, tmp_path: Path, rows: Rows) -> None:
    path = write(tmp_path / "films.csv", rows)
    result = verify(site / "bundle", "--dataset", f"manifest:{path}")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (start,) = [n for n, line in enumerate(lines) if line.startswith("AUC, set chexpert")]
    assert lines[start].split()[3:] == ["n", "pos", "fp32", "fp16", "|dZ|", "fp16", "flips", "fp16"]
    table = {line.split()[0]: line.split() for line in lines[start + 1 : start + 6]}
    assert table["cardiomegaly"][1:5] == [str(COUNT), "0", "one", "class"]
    assert table["edema"][1] == str(sum(row["edema"] != "" for row in rows))
    assert table["mean"][:4] == ["mean", "of", "3", "labels"]
    assert 0 <= float(table["edema"][3]) <= 1
    assert f"measured on {COUNT} of {COUNT} images of {tmp_path.name}/films.csv" in result.stdout
    assert "SECRET" not in result.output
    assert max(map(len, lines)) <= 100


def test_phantoms_have_no_such_table(site: Path) -> None:
    result = verify(site / "bundle", "--json")
    assert json.loads(result.stdout)["auc"] == {}


def test_labels_without_truth(site: Path, tmp_path: Path, rows: Rows) -> None:
    bare = [{"image_path": row["image_path"], "fracture": "1"} for row in rows[:5]]
    result = verify(site / "bundle", "--dataset", f"manifest:{write(tmp_path / 'b.csv', bare)}")
    assert "AUC by label, set chexpert: no label with truth in the data" in result.stdout


def test_a_split_is_chosen(site: Path, tmp_path: Path, rows: Rows) -> None:
    mixed = [row | {"split": "val" if n < 20 else "test"} for n, row in enumerate(rows)]
    path = write(tmp_path / "films.csv", mixed)
    result = verify(site / "bundle", "--dataset", path, "--split", "val")
    assert "measured on 20 of 20 images" in result.stdout


@pytest.mark.parametrize("kind", ["", "manifest:"])
@pytest.mark.parametrize(
    ("splits", "count", "named"),
    [
        ({"train": 3, "val": 4, "test": 5}, 5, ", split test"),
        ({"train": 3, "VALID": 4}, 4, ", split val"),
        ({"train": 3, "": 2}, 5, ""),
    ],
)
def test_what_a_network_was_trained_on_is_not_measured(
    site: Path, tmp_path: Path, rows: Rows, kind: str, splits: dict[str, int], count: int,
    named: str,
) -> None:  # fmt: skip
    words = [word for word, n in splits.items() for _ in range(n)]
    chosen = [row | {"split": word} for row, word in zip(rows, words, strict=False)]
    path = write(tmp_path / "films.csv", chosen)
    crops, notes = crops_from(f"{kind}{path}", None, presets_of(load_bundle(site / "bundle")))
    assert crops.source == f"{count} of {count} images of {tmp_path.name}/films.csv{named}"
    assert (len(crops.pixels), notes) == (count, [])


def test_what_the_export_measured_on_is_found_again(site: Path, tmp_path: Path, rows: Rows) -> None:
    """However few are taken: the certificate's figures are compared on the same crops only."""
    path = write(tmp_path / "films.csv", rows[:11])
    presets = presets_of(load_bundle(site / "bundle"))
    there = manifest_crops(path, presets.geometry, presets.intensity, limit=4)
    here, _ = crops_from(str(path), None, presets, limit=4)
    np.testing.assert_array_equal(here.pixels, there.pixels)
    other = write(tmp_path / "voi.csv", [row | {"intensity": "voi"} for row in rows[:2]])
    with pytest.raises(UsageError, match="names intensity voi, the bundle "):
        crops_from(str(other), None, presets)


def test_what_the_reader_of_a_dataset_left_out_is_told(
    site: Path, tmp_path: Path, rows: Rows
) -> None:
    cohort = open_cohort(f"manifest:{write(tmp_path / 'films.csv', rows[:3])}")
    told = replace(cohort, left_out={"labelled by a machine": 7}, notes=("columns were swapped",))
    _, notes = cohort_crops(told, presets_of(load_bundle(site / "bundle")), 9)
    assert notes == ["left out: 7 labelled by a machine", "columns were swapped"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--split", "val"), "--split is one of a dataset; name it with --dataset"),
        (("--dataset", "nowhere.csv"), "nowhere.csv does not exist; name a manifest"),
        (("--dataset", "moon:here"), "got 'moon:here'"),
        (("--dataset", "{csv}", "--split", "later"), "has no row with split 'later'; it has test"),
        (("--dataset", "manifest:{csv}", "--split", "later"), "later"),
    ],
)
def test_what_is_not_there_is_refused(
    site: Path, tmp_path: Path, rows: Rows, args: Any, words: str
) -> None:
    path = write(tmp_path / "films.csv", rows[:3])
    result = verify(site / "bundle", *(str(a).replace("{csv}", str(path)) for a in args))
    assert result.exit_code == 2, result.output
    assert words in result.stderr


def test_what_was_not_used_is_counted(site: Path, tmp_path: Path, rows: Rows) -> None:
    """Laterals of a network that knows frontals, and files that nobody can read."""
    odd = [row | {"view": "lateral" if n < 4 else "PA"} for n, row in enumerate(rows)]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    odd[5]["image_path"], odd[6]["image_path"] = "broken.png", "nowhere.png"
    path = write(tmp_path / "films.csv", odd)
    result = verify(site / "bundle", "--dataset", f"manifest:{path}", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    views = load_bundle(site / "bundle").manifest.views
    laterals = 4 if "lateral" not in views else 0
    assert report["crops"]["count"] == COUNT - 2 - laterals
    notes = [note for note in report["notes"] if note.startswith("left out")]
    assert sum(int(note.split()[2]) for note in notes) == 2 + laterals
    assert "broken.png" not in result.output


def test_nothing_left_is_refused(site: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "films.csv", [{"image_path": "nowhere.png", "edema": "1"}])
    result = verify(site / "bundle", "--dataset", f"manifest:{path}")
    assert result.exit_code == 2, result.output
    assert "no image of" in result.stderr


def test_many_images_are_taken_evenly(site: Path, tmp_path: Path, rows: Rows) -> None:
    numbered = [row | {"edema": str(n % 2)} for n, row in enumerate(rows[:11])]
    cohort = open_cohort(f"manifest:{write(tmp_path / 'films.csv', numbered)}")
    found, notes = cohort_crops(cohort, presets_of(load_bundle(site / "bundle")), 6)
    assert found.truth["edema"].tolist() == [0.0] * 6  # rows 0, 2, 4, …, 10
    assert found.source.startswith("6 of 11 images of ")
    assert notes == []
