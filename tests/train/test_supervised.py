"""python -m pytest tests/train/test_supervised.py -- the supervised CNN: loss, labels, choice."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from tests.train.bright import TINY, read_rows, teach, write_bright, write_rows
from tier_infer.errors import UsageError
from tier_train import supervised
from tier_train.data.dataset import Dataset, Row
from tier_train.data.datasets import open_dataset
from tier_train.recipe import Recipe, recipe_from
from tier_train.recipe_file import load_recipe
from tier_train.supervised_cnn import SupervisedCnn, load_supervised
from tier_train.supervised_scores import label_auc

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright(tmp_path_factory.mktemp("bright"))


def test_one_seed_gives_one_network(manifest: Path, tmp_path: Path) -> None:
    first = teach(manifest, tmp_path / "a.pt").model.state_dict()
    again = teach(manifest, tmp_path / "b.pt").model.state_dict()
    other = teach(manifest, tmp_path / "c.pt", "seed=1").model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["head.1.weight"], other["head.1.weight"])
    assert (tmp_path / "a.scores.csv").read_bytes() == (tmp_path / "b.scores.csv").read_bytes()


@pytest.mark.parametrize(("select_by", "step"), [("auc", 3), ("val_loss", 2)])
def test_the_weights_of_the_best_step_are_kept(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select_by: str, step: int
) -> None:
    """Loss and AUC after steps 1 to 6; of equal ones the earlier counts."""
    told = [(0.7, 0.5), (0.3, 0.8), (0.4, 0.9), (0.5, 0.9), (0.6, 0.8), (0.6, math.nan)]
    seen: list[dict[str, Tensor]] = []

    def validate(model: SupervisedCnn, *_: Any) -> tuple[float, float]:
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
        return told[len(seen) - 1]

    monkeypatch.setattr(supervised, "validate", validate)
    found = teach(manifest, tmp_path / "cnn.pt", f"select_by={select_by}", "validate_every=1")
    assert found.training["kept_step"] == step
    state = load_supervised(tmp_path / "cnn.pt").model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in seen[step - 1].items())
    best = [row["best"] for row in read_rows(tmp_path / "cnn.metrics.csv")]
    assert best == (list("111000") if select_by == "auc" else list("110000"))


def test_the_last_step_is_kept_when_nothing_can_choose(manifest: Path, tmp_path: Path) -> None:
    rows = [row for row in read_rows(manifest) if row["split"] != "val"]
    for row in rows:
        row["image_path"] = f"{manifest.parent}/{row['image_path']}"
    write_rows(tmp_path / "manifest.csv", rows)
    found = teach(tmp_path / "manifest.csv", tmp_path / "cnn.pt", "validate_every=2")
    assert found.training["kept_step"] == 6


def test_the_start_is_that_of_run(manifest: Path, tmp_path: Path) -> None:
    """A file of weights, at a rate that moves nothing. The file's folder is not remembered."""
    from tier_train.checkpoint import Checkpoint, save_checkpoint
    from tier_train.model import DualEncoder
    from tier_train.towers.wordpiece import WordPiece, train_vocabulary

    words = WordPiece(train_vocabulary(["No edema."], 64), 16)
    recipe = recipe_from({"embed_dim": 16, "text_width": 16, "text_layers": 1})
    model = DualEncoder(recipe, words.vocab_size)
    start = Checkpoint(model, words, recipe, "minmax", ("frontal",), {}, "")
    save_checkpoint(tmp_path / "start.pt", start)
    sets = (f"image_file={tmp_path}/start.pt", "image_init=checkpoint", "lr=1e-9", "steps=1")
    found = teach(manifest, tmp_path / "cnn.pt", *sets)
    state = found.model.image.state_dict()
    for key, value in model.image.state_dict().items():
        if "running" not in key and "tracked" not in key:
            torch.testing.assert_close(state[key], value, rtol=0, atol=1e-7)
    assert found.recipe.image_file == "start.pt"
    assert list(found.training["starts"]) == ["start.pt"]


def test_the_schedule_moves_the_weights(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def rate(step: int, recipe: Recipe) -> float:
        asked.append(step)
        return 1e-20 * step

    monkeypatch.setattr(supervised, "learning_rate", rate)
    found = teach(manifest, tmp_path / "cnn.pt", "steps=3", "seed=7")
    assert sorted(set(asked)) == [1, 2, 3]
    assert float(read_rows(tmp_path / "cnn.metrics.csv")[-1]["lr"]) == pytest.approx(3e-20)
    torch.manual_seed(7)
    start = dict(SupervisedCnn(found.recipe, 2).named_parameters())
    for key, value in found.model.named_parameters():
        torch.testing.assert_close(value, start[key], rtol=0, atol=1e-18)


def test_the_head_is_the_papers() -> None:
    """Dropout 0.1 on the global embedding, one hidden layer as wide, BatchNorm, ReLU."""
    model = SupervisedCnn(recipe_from({}), 5)
    shapes = {key: tuple(value.shape) for key, value in model.head.state_dict().items()}
    assert shapes["1.weight"] == (128, 128)
    assert shapes["2.running_mean"] == (128,)
    assert shapes["4.weight"] == (5, 128)
    torch.manual_seed(0)
    dropped = model.train().head[0](torch.ones(1000, 128))
    assert sorted({round(v, 4) for v in dropped.unique().tolist()}) == [0, round(1 / 0.9, 4)]
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    hidden = model.head[:4](torch.randn(64, 128)).detach()
    assert float(hidden.min()) == 0
    assert float(hidden.mean()) == pytest.approx(1 / (2 * math.pi) ** 0.5, abs=0.05)


def test_patients_of_training_choose_no_weights(manifest: Path, tmp_path: Path) -> None:
    rows = [row | {"split": "val"} for row in read_rows(manifest) if row["split"] == "train"]
    for row in rows:
        row["image_path"] = f"{manifest.parent}/{row['image_path']}"
    write_rows(tmp_path / "manifest.csv", rows)
    recipe = load_recipe("small", [*TINY, "steps=1"])
    datasets = [
        open_dataset(f"manifest:{path}", recipe) for path in (manifest, tmp_path / "manifest.csv")
    ]
    with pytest.raises(UsageError, match="patients of the training rows"):
        supervised.train_supervised(
            datasets[0], recipe, tmp_path / "cnn.pt", validation=datasets[1], say=lambda _: None
        )


def _dataset(columns: tuple[str, ...], *rows: Row) -> Dataset:
    return Dataset(Path("m.csv"), "m", rows, columns, "minmax", ("frontal",), "0" * 64)


FIVE = ("Pleural Effusion", "Edema", "Consolidation", "Cardiomegaly", "Atelectasis")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ((*FIVE, "Fracture", "No Finding"), [*sorted(c.lower() for c in FIVE)]),
        ((*FIVE[1:], "Fracture", "No Finding"), [*(c.lower() for c in FIVE[1:]), "fracture"]),
        (("Nodule",), ["nodule"]),
    ],
)
def test_the_outputs(columns: tuple[str, ...], expected: list[str]) -> None:
    found = supervised.outputs(_dataset(columns))
    assert [label.replace("_", " ") for label in found] == expected


def test_a_label_of_one_class_gets_no_output(manifest: Path, tmp_path: Path) -> None:
    rows = read_rows(manifest)
    for row in rows:
        row["image_path"] = f"{manifest.parent}/{row['image_path']}"
        if row["split"] == "train" and row["view"] == "PA":
            row["Edema"] = "0"  # laterals keep theirs
    write_rows(tmp_path / "manifest.csv", rows)
    said: list[str] = []
    found = teach(tmp_path / "manifest.csv", tmp_path / "cnn.pt", say=said.append)
    assert found.labels == ("nodule",)
    assert any("no output for edema" in line for line in said)


def test_one_class_has_no_auc_and_patients_are_resampled() -> None:
    rows = [Row("a", "test", "", {}, i, patient=f"p{i // 4}") for i in range(8)]
    scores = np.arange(8, dtype=np.float32)
    assert math.isnan(label_auc("x", rows, np.ones(8, np.float32), scores).auc)
    truth = np.array([0, 1, 0, 1, 0, 1, 0, 1], np.float32)
    patients = label_auc("x", rows, truth, scores)
    alone = [dataclasses.replace(row, patient="") for row in rows]
    images = label_auc("x", alone, truth, scores)
    assert patients.auc == images.auc == roc_auc_score(truth, scores)
    assert (patients.positives, patients.negatives) == (4, 4)
    # by hand: a patient twice has 2·2 pairs of each of its pairs, 0.75; both together 0.625
    assert (patients.low, patients.high) == (0.625, 0.75)
    assert images.low < patients.low


def test_val_is_scored_where_there_is_no_test_split(manifest: Path, tmp_path: Path) -> None:
    rows = [row for row in read_rows(manifest) if row["split"] != "test"]
    for row in rows:
        row["image_path"] = f"{manifest.parent}/{row['image_path']}"
    write_rows(tmp_path / "manifest.csv", rows)
    found = teach(tmp_path / "manifest.csv", tmp_path / "cnn.pt")
    assert {row["split"] for row in read_rows(tmp_path / "cnn.scores.csv")} == {"val"}
    digest = hashlib.sha256((tmp_path / "manifest.csv").read_bytes()).hexdigest()
    frontal = hashlib.sha256(f"{digest} frontal".encode()).hexdigest()
    facts = load_supervised(tmp_path / "cnn.pt").training
    assert facts == found.training
    assert facts["scored_split"] == "val"
    assert facts["validation_data"] == facts["data"]
    assert facts["validation_sha256"] in (digest, frontal)
