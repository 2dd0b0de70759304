"""python -m pytest tests/train/test_supervised_cli.py -- tier-train supervised, what it writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from tests.train.bright import TINY, read_rows, write_bright, write_rows
from tier_export.cli import main as export
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.checkpoint import load_checkpoint
from tier_train.cli import main
from tier_train.data.datasets import open_dataset
from tier_train.data.pictures import load_pictures
from tier_train.recipe import recipe_from
from tier_train.supervised_cnn import (
    Supervised,
    SupervisedCnn,
    load_supervised,
    predict,
    save_supervised,
)
from tier_train.supervised_scores import read_scores

torch.set_num_threads(1)
SETS = [f"--set={item}" for item in (*TINY, "steps=24", "validate_every=3", "lr=0.003")]


class Trained(NamedTuple):
    manifest: Path
    validation: Path
    folder: Path
    result: Result

    def table(self, name: str) -> list[dict[str, str]]:
        return read_rows(self.folder / name)


@pytest.fixture(scope="module", autouse=True)
def environment() -> Any:
    """What the commands set for their process, so that it does not outlive this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright(tmp_path_factory.mktemp("bright"))


@pytest.fixture(scope="module")
def trained(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """By the command, with every option that a run on a CPU can take."""
    folder = tmp_path_factory.mktemp("supervised")
    other = write_bright(tmp_path_factory.mktemp("other") / "data", 8, 10)
    data = ["--data", f"manifest:{manifest}", "--recipe", "small", *SETS, "--threads", "1"]
    rest = ["--validate-on", f"manifest:{other}", "--device", "cpu", "-o", f"{folder}/cnn.pt"]
    result = CliRunner().invoke(main, ["supervised", *data, *rest])
    assert result.exit_code == 0, result.output
    return Trained(manifest, other, folder, result)


def test_printed_aucs_can_be_recomputed_from_the_scores(trained: Trained) -> None:
    lines = trained.result.stdout.splitlines()
    for label in ("edema", "nodule"):
        known = [r for r in trained.table("cnn.scores.csv") if r["label"] == label and r["truth"]]
        truth, scores = [int(r["truth"]) for r in known], [float(r["score"]) for r in known]
        printed = next(line.split() for line in lines if line.startswith(label))
        area = roc_auc_score(truth, scores)
        assert float(printed[1]) == pytest.approx(area, abs=5e-4)
        low, high = float(printed[2]), float(printed[4])
        assert low <= area + 5e-4
        assert area <= high + 5e-4
        assert f"({sum(truth)} with, {len(truth) - sum(truth)} without)" in " ".join(printed)
    assert next(float(line.split()[1]) for line in lines if line.startswith("edema")) > 0.9
    assert "cnn.pt" in lines[-1]
    assert "cnn.scores.csv" in lines[-1]


def test_only_frontal_test_images_are_scored(trained: Trained) -> None:
    rows = [r for r in read_rows(trained.manifest) if r["split"] == "test" and r["view"] == "PA"]
    scores = trained.table("cnn.scores.csv")
    assert [r["image_path"] for r in scores[::2]] == [r["image_path"] for r in rows]
    assert {r["split"] for r in scores} == {"test"}
    assert [r["truth"] for r in scores] == [r[c] for r in rows for c in ("Edema", "Nodule")]
    assert "28 train and 9 val images" in trained.result.stderr
    assert "optimistic" not in trained.result.stdout


def test_the_best_validation_is_kept(trained: Trained) -> None:
    rows = trained.table("cnn.metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(3, 25, 3))
    areas = [float(row["val_auc"]) for row in rows]
    best = areas.index(max(areas))
    found = load_supervised(trained.folder / "cnn.pt")
    assert found.training["kept_step"] == int(rows[best]["step"])
    recipe = found.recipe
    dataset = open_dataset(f"manifest:{trained.validation}", recipe)
    val = [row for row in dataset.split("val") if row.view == "frontal"]
    val, pictures = load_pictures(dataset, val, "minmax", GEOMETRIES[recipe.geometry])
    logits = predict(found.model, pictures, GEOMETRIES[recipe.geometry])
    again = []
    for i, column in enumerate(("Edema", "Nodule")):
        known = [j for j, row in enumerate(val) if column in row.labels]
        again.append(roc_auc_score([val[j].labels[column] for j in known], logits[known, i]))
    assert np.mean(again) == pytest.approx(areas[best], abs=1e-6)


def test_scores_are_those_of_the_file(trained: Trained) -> None:
    found = load_supervised(trained.folder / "cnn.pt")
    assert found.labels == ("edema", "nodule")
    assert found.training["train_images"] == 28
    assert found.training["scored_split"] == "test"
    assert found.training["validation_data"] == "data/manifest.csv"
    dataset = open_dataset(f"manifest:{trained.manifest}", found.recipe)
    table = read_scores(trained.folder / "cnn.scores.csv")
    rows = {row.number: row for row in dataset.split("test")}
    geometry = GEOMETRIES[found.recipe.geometry]
    for i, label in enumerate(found.labels):
        lines, truth, scores = table[label]
        chosen, pictures = load_pictures(dataset, [rows[n] for n in lines], "minmax", geometry)
        assert truth.tolist() == [row.labels[label.capitalize()] for row in chosen]
        logits = predict(found.model, pictures, geometry)
        np.testing.assert_allclose(logits[:, i], scores, rtol=1e-5, atol=1e-6)


def test_files_of_the_other_kind_are_refused(trained: Trained, runner: CliRunner) -> None:
    path = trained.folder / "cnn.pt"
    with pytest.raises(IntegrityError, match="supervised network: it has no text"):
        load_checkpoint(path)
    result = runner.invoke(export, [str(path), "-o", str(trained.folder / "bundle")])
    assert result.exit_code == 4
    assert "supervised network" in result.stderr
    assert not (trained.folder / "bundle").exists()


def _damage(kind: str, table: dict[str, Any]) -> None:
    if kind == "another format":
        table["format"] = "tier-cxr-checkpoint/1"
    elif kind == "a field less":
        del table["views"]
    elif kind == "labels":
        table["labels"] = ["edema", "edema"]
    elif kind == "recipe":
        table["recipe"]["arch"] = "resnet51"
    elif kind == "shape":
        table["state"]["head.4.bias"] = torch.zeros(3)
    elif kind == "dtype":
        table["state"]["head.4.bias"] = table["state"]["head.4.bias"].double()
    else:
        table["state"]["head.4.bias"][0] = math.nan


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("another format", "not a supervised network of this version"),
        ("a field less", "not a supervised network of this version"),
        ("labels", "its field `labels`"),
        ("recipe", "its recipe is not one of this version"),
        ("shape", "weights do not fit"),
        ("dtype", "weights do not fit"),
        ("not finite", "not finite"),
    ],
)
def test_damaged_files_are_refused(trained: Trained, tmp_path: Path, kind: str, words: str) -> None:
    table = torch.load(trained.folder / "cnn.pt", weights_only=True)
    _damage(kind, table)
    torch.save(table, tmp_path / "bad.pt")
    with pytest.raises(IntegrityError, match=words):
        load_supervised(tmp_path / "bad.pt")


def test_no_file_and_no_zip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tier-train supervised"):
        load_supervised(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(IntegrityError):
        load_supervised(tmp_path / "text.pt")


def test_a_file_keeps_every_weight(tmp_path: Path) -> None:
    recipe = recipe_from({"embed_dim": 16})
    torch.manual_seed(0)
    model = SupervisedCnn(recipe, 3).eval()
    save_supervised(
        tmp_path / "cnn.pt",
        Supervised(model, ("a", "b", "c"), recipe, "minmax", ("frontal",), {"kept_step": 1}),
    )
    found = load_supervised(tmp_path / "cnn.pt")
    pixels = torch.arange(2 * 112 * 112).reshape(2, 112, 112) % 256
    with torch.no_grad():
        x = model.network_input(pixels.byte())
        assert torch.equal(found.model(x), model(x))
    assert len(found.sha256) == 64
    assert (found.labels, found.training) == (("a", "b", "c"), {"kept_step": 1})


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "csv:x"], 2, "--data takes"),
        (["--recipe", "smal"], 2, "recipe 'smal'"),
        (["--set", "lambda=1"], 2, "unknown"),
        (["--set", "batch_size=64"], 2, "28 training pairs are fewer than batch_size 64"),
        (["--validate-on", "chexpert:none.csv"], 2, "none.csv"),
        (["--device", "tpu"], 2, "tpu"),
        (["--threads", "0"], 2, "--threads must be at least 1"),
        (["-o", "."], 2, "-o . is a folder"),
        (["--resume"], 2, "--resume"),
    ],
)
def test_refusals(
    runner: CliRunner, manifest: Path, arguments: list[str], code: int, words: str
) -> None:
    data = [] if "--data" in arguments else ["--data", f"manifest:{manifest}"]
    result = runner.invoke(main, ["supervised", *data, *SETS, *arguments])
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(runner: CliRunner, manifest: Path) -> None:
    data = ["--data", f"manifest:{manifest}"]
    result = runner.invoke(main, ["supervised", *data, *SETS, "--device", "cuda"])
    assert result.exit_code == 6
    assert "cuda" in result.stderr


def test_without_labels_nothing_can_be_learnt(runner: CliRunner, tmp_path: Path) -> None:
    manifest = write_bright(tmp_path / "data", 8, 8)
    write_rows(manifest, [row | {"Edema": "", "Nodule": "1"} for row in read_rows(manifest)])
    result = runner.invoke(main, ["supervised", "--data", f"manifest:{manifest}", *SETS])
    assert result.exit_code == 2
    assert "no label is 1 in one and 0 in another" in result.stderr
    assert not list(tmp_path.glob("*.pt"))


def test_a_damaged_image_stops_or_is_left_out(runner: CliRunner, tmp_path: Path) -> None:
    manifest = write_bright(tmp_path / "data", 16, 8)
    (tmp_path / "data/images/train-0.png").write_bytes(b"\x89PNG")
    arguments = ["supervised", "--data", f"manifest:{manifest}", *SETS, "--set", "steps=1"]
    result = runner.invoke(main, [*arguments, "-o", f"{tmp_path}/cnn.pt"])
    assert result.exit_code == 2
    assert "--skip-bad" in result.stderr
    result = runner.invoke(main, [*arguments, "-o", f"{tmp_path}/cnn.pt", "--skip-bad"])
    assert result.exit_code == 0
    assert load_supervised(tmp_path / "cnn.pt").training["train_images"] == 13


def test_torchrun_is_refused(
    runner: CliRunner, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = runner.invoke(main, ["supervised", "--data", f"manifest:{manifest}", *SETS])
    assert result.exit_code == 2
    assert "one process" in result.stderr


def test_debug_shows_the_traceback(
    runner: CliRunner, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["supervised", "--data", f"manifest:{manifest}", "--threads", "0", "--debug"]
    monkeypatch.setattr("sys.argv", ["tier-train", *arguments])
    assert isinstance(runner.invoke(main, arguments).exception, UsageError)


def test_a_published_text_encoder_need_not_be_named(runner: CliRunner, manifest: Path) -> None:
    """The paper's recipe asks for image weights only."""
    result = runner.invoke(main, ["supervised", "--data", f"manifest:{manifest}", "--recipe=paper"])
    assert result.exit_code == 2
    assert "image_file" in result.stderr
