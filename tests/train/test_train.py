"""python -m pytest tests/train/test_train.py -- the loop: one seed, one checkpoint; its parts."""

from __future__ import annotations

import csv
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.children import TINY, make_folder, run, same_weights, table
from tier_infer.errors import DeviceError, UsageError
from tier_infer.geometry import GEOMETRIES, center_crop
from tier_train.checkpoint import Checkpoint, flat_state, load_checkpoint
from tier_train.data.manifest import read_manifest
from tier_train.data.pictures import load_pictures
from tier_train.loss import tier_loss
from tier_train.model import DualEncoder
from tier_train.phantoms.phantom import FINDINGS
from tier_train.recipe import Recipe, recipe_from
from tier_train.schedule import build_optimizer, learning_rate
from tier_train.validation import refuse_shared_patients

torch.set_num_threads(1)
Fit = tuple[Checkpoint, list[dict[str, str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("train") / "tiny", {"train": 40, "val": 20})


@pytest.fixture(scope="module")
def fit(folder: Path) -> Callable[..., Fit]:
    def fitted(name: str, **changes: Any) -> Fit:
        output = folder / f"{name}.pt"
        run(folder, output, changes)
        return load_checkpoint(output), table(folder / f"{name}.metrics.csv")

    return fitted


@pytest.fixture(scope="module")
def first(fit: Callable[..., Fit]) -> Fit:
    return fit("first")


def test_the_checkpoint_and_its_metrics(first: Fit, folder: Path) -> None:
    checkpoint, rows = first
    assert [row["step"] for row in rows] == ["3", "6"]
    assert checkpoint.intensity == "mimic-jpg"
    assert checkpoint.recipe == recipe_from(TINY)
    training = checkpoint.training
    assert (training["train_pairs"], training["val_pairs"], training["step"]) == (40, 20, 6)
    areas = training["val_auc"]
    assert set(areas) <= set(FINDINGS)
    assert float(rows[-1]["val_auc"]) == pytest.approx(np.mean(list(areas.values())))
    assert {k.removeprefix("auc_"): float(v) for k, v in rows[-1].items() if "auc_" in k[:4]} == (
        areas
    )
    for row in rows:
        terms = (float(row[k]) for k in ("clip_loss", "patch_entropy", "token_entropy"))
        assert float(row["loss"]) == pytest.approx(np.dot([1, 0.2, 0.1], list(terms)), abs=1e-5)
        assert 3.4 < float(row["patch_entropy"]) <= math.log(49) + 1e-6
        assert float(row["patch_penalty"]) == 0.2 * float(row["patch_entropy"])
        assert float(row["token_penalty"]) == 0.1 * float(row["token_entropy"])
    assert float(rows[-1]["lr"]) == pytest.approx(0, abs=1e-12)
    assert not list(folder.glob("first.state*")), "the state goes when the run is complete"
    assert not list(folder.glob("*.part*"))


def test_one_seed_gives_one_checkpoint(first: Fit, fit: Callable[..., Fit]) -> None:
    (ours, rows), (theirs, again) = first, fit("second")
    assert ours.tokenizer.state() == theirs.tokenizer.state()
    assert rows == again
    assert same_weights(ours, theirs)


def test_another_seed_gives_another_checkpoint(first: Fit, fit: Callable[..., Fit]) -> None:
    (ours, rows), (theirs, others) = first, fit("third", seed=1)
    key = "trunk.conv1.weight"
    assert not torch.equal(flat_state(ours.model)[key], flat_state(theirs.model)[key])
    assert rows[0]["loss"] != others[0]["loss"]


def test_weights_move_and_batch_norms_count(first: Fit) -> None:
    state = flat_state(first[0].model)
    assert state["proj.1.num_batches_tracked"] == TINY["steps"]
    assert state["proj.3.bias"].abs().max() > 0


def test_the_validation_loss_is_that_of_the_final_weights(first: Fit, folder: Path) -> None:
    """Centre crops, evaluation mode, whole batches, every row with text at most once."""
    checkpoint, rows = first
    model, dataset = checkpoint.model.eval(), read_manifest(folder / "manifest.csv")
    geometry = GEOMETRIES["small-112"]
    pairs, pictures = load_pictures(dataset, dataset.split("val"), "mimic-jpg", geometry)
    order = np.random.default_rng(0).permutation(len(pairs))
    losses = []
    for chosen in (order[:8], order[8:16]):  # of 20 rows
        crops = np.stack([center_crop(pictures[i], 112) for i in chosen])
        ids, mask = checkpoint.tokenizer([pairs[i].text for i in chosen])
        with torch.no_grad():
            image_e, patch_e = model.encode_image(torch.from_numpy(crops))
            token_e = model.encode_text(ids, mask)
            loss = tier_loss(
                image_e, token_e[:, 0], patch_e, token_e, mask.bool(), model.logit_scale,
                checkpoint.recipe,
            )  # fmt: skip
        losses.append(float(loss.total))
    assert float(rows[-1]["val_loss"]) == pytest.approx(np.mean(losses), abs=1e-6)


def test_epochs_decide_the_steps_and_each_is_validated(fit: Callable[..., Fit]) -> None:
    checkpoint, rows = fit("epochs", epochs=2, validate_every=0, schedule="constant")
    assert [(row["step"], row["epoch"]) for row in rows] == [("5", "0"), ("10", "1")]
    assert {row["lr"] for row in rows} == {"0.001"}
    assert (checkpoint.recipe.steps, checkpoint.recipe.validate_every) == (10, 5)


def test_the_text_above_frozen_layers_may_come_from_a_table(
    fit: Callable[..., Fit], folder: Path
) -> None:
    frozen = {"text_layers": 2, "text_frozen": 1}
    plain, cached = fit("plain", **frozen), fit("cached", **frozen, cache_frozen_text=True)
    for key in ("loss", "val_loss", "token_entropy"):
        ours, theirs = (np.array([float(r[key]) for r in rows]) for _, rows in (plain, cached))
        assert ours == pytest.approx(theirs, rel=2e-3), "kept as float16"
    (path,) = folder.glob("frozen-text-*.f16")
    texts = {row.text for row in read_manifest(folder / "manifest.csv").split("train")}
    _, mask = cached[0].tokenizer(sorted(texts))
    width = TINY["text_width"]
    assert path.stat().st_size == int(mask.sum()) * width * 2 + 32, "training's texts, no others"
    state, before = flat_state(cached[0].model), flat_state(plain[0].model)
    for key, value in state.items():
        fixed = key.startswith(("text.embeddings", "text.encoder.layer.0."))
        assert not fixed or torch.equal(value, before[key]), key


def test_frozen_layers_keep_their_weights(fit: Callable[..., Fit]) -> None:
    changes = {"text_layers": 2, "text_frozen": 1, "schedule": "constant"}
    one, two = (flat_state(fit("one", **changes, steps=n)[0].model) for n in (1, 2))
    fixed = "text.embeddings.word_embeddings", "text.encoder.layer.0.output.dense"
    assert all(torch.equal(one[f"{key}.weight"], two[f"{key}.weight"]) for key in fixed)
    for key in ("text.encoder.layer.1.output.dense", "text_head.dense_to_hidden"):
        assert not torch.equal(one[f"{key}.weight"], two[f"{key}.weight"])


def test_a_step_in_bfloat16_is_finite(fit: Callable[..., Fit]) -> None:
    checkpoint, rows = fit("bf16", precision="bf16", steps=2, validate_every=1)
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    assert all(v.dtype != torch.bfloat16 for v in flat_state(checkpoint.model).values())


def test_a_run_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    """Two logs can be told apart, and a label that the asked set has no prompts for is named."""
    lines: list[str] = []
    changes = {"steps": 1, "lambda_patch": 0.25, "prompts": "pneumonia"}
    run(folder, tmp_path / "x.pt", changes, say=lines.append)
    assert "lambda_patch 0.25, lambda_token 0.1, 1 steps of" in "".join(lines)
    (line,) = (line for line in lines if "set pneumonia has no prompts for" in line)
    assert "edema" in line


def test_another_dataset_may_be_validated_on(folder: Path, tmp_path: Path) -> None:
    other = read_manifest(make_folder(tmp_path / "other", {"val": 12}, 40) / "manifest.csv")
    lines: list[str] = []
    other = replace(other, intensity="minmax")
    checkpoint = run(folder, tmp_path / "x.pt", {"steps": 1}, validation=other, say=lines.append)
    assert checkpoint.training["val_pairs"] == 12
    assert checkpoint.training["validation_data"].startswith("other/")
    (line,) = (line for line in lines if "validation is scored" in line)
    assert "under mimic-jpg too, though other/manifest.csv names its own" in line
    assert not any("can't be checked" in line for line in lines)


def test_a_patient_is_not_trained_and_validated_on(folder: Path, tmp_path: Path) -> None:
    """Patients 0 to 39 train; here 38 to 43 are validated on. No message names one."""
    other = read_manifest(make_folder(tmp_path / "other", {"val": 6}, 38) / "manifest.csv")
    words = r"2 patients of the training rows .* of other/manifest.csv, too, the first in line 2;"
    with pytest.raises(UsageError, match=words) as caught:
        run(folder, tmp_path / "x.pt", {}, validation=other)
    assert not re.search("3[89]", str(caught.value))
    rows = other.rows
    for unknown in (
        replace(other, kind="mimic"),
        replace(other, rows=tuple(replace(row, patient="") for row in rows)),
    ):
        lines: list[str] = []
        refuse_shared_patients(
            read_manifest(folder / "manifest.csv"), rows, unknown, unknown.rows, lines.append
        )
        assert len(lines) == 1
        assert "other/manifest.csv shares patients with tiny/manifest.csv can't be" in lines[0]


@pytest.mark.parametrize(
    ("changes", "options", "error", "words"),
    [
        ({"batch_size": 41}, {}, UsageError, "40 training pairs are fewer than batch_size 41"),
        ({"precision": "fp16"}, {}, UsageError, "precision is 'fp16', which a CPU has not"),
        ({}, {"device": "cuda"}, DeviceError, "device cuda: torch sees no CUDA device"),
        (
            {"batch_size": 32, "keep_best": 1, "select_by": "val_loss"},
            {},
            UsageError,
            "batch_size 32 validation rows with text, there are 20; .* select_by=auc",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_first_step(
    folder: Path,
    changes: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = set(folder.iterdir())
    with pytest.raises(error, match=words):
        run(folder, folder / "none.pt", changes, **options)
    assert set(folder.iterdir()) == before


def test_selecting_by_auc_needs_labels(folder: Path, tmp_path: Path) -> None:
    with (folder / "manifest.csv").open() as file:
        lines = [row[:5] for row in csv.reader(file)]
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.pt"))
    with (bare / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    with pytest.raises(UsageError, match=r"select_by auc needs .* select_by=val_loss"):
        run(bare, tmp_path / "x.pt", {"keep_best": 1})
    done = run(bare, tmp_path / "x.pt", {"keep_best": 1, "select_by": "val_loss", "steps": 1})
    assert done.training["val_auc"] == {}
    assert table(tmp_path / "x.metrics.csv")[0]["val_auc"] == "nan"


def test_a_run_without_validation_rows(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", {"train": 10})
    lines: list[str] = []
    checkpoint = run(folder, tmp_path / "x.pt", {"steps": 2}, say=lines.append)
    assert checkpoint.training["val_auc"] == {}
    (row,) = table(tmp_path / "x.metrics.csv")
    assert (row["val_auc"], row["val_loss"]) == ("nan", "nan")
    assert "tiny/manifest.csv: 10 train and 0 val pairs" in lines
    with pytest.raises(UsageError, match="select_by auc needs validation rows"):
        run(folder, tmp_path / "x.pt", {"keep_best": 1})


def test_several_processes_need_torchrun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"WORLD_SIZE is 2, but torchrun did not start"):
        run(folder, folder / "none.pt", {})


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    recipe = recipe_from({"steps": 100, "warmup": 0.1, "lr": 1e-3})
    rates = [learning_rate(step, recipe) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == max(rates) == pytest.approx(1e-3)
    assert rates[54] == pytest.approx(5e-4)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(np.diff(rates[:10]) > 0)
    assert all(np.diff(rates[9:]) < 0)
    assert learning_rate(1, recipe_from({"steps": 100, "warmup": 0.0, "lr": 1e-3})) == 1e-3
    assert learning_rate(1, recipe_from({"schedule": "constant", "lr": 1e-3})) == 1e-3


def test_adam_decays_in_the_gradient_and_adamw_beside_it() -> None:
    """Zero gradients: adamw shrinks a matrix by lr · decay, adam by its own normalised step."""
    for name, expected, bias in (("adamw", 1 - 0.01 * 0.1, 1.0), ("adam", 1 - 0.01, 1 - 0.01)):
        layer = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.ones_(layer.bias)
        recipe = recipe_from({"optimizer": name, "lr": 0.01, "weight_decay": 0.1})
        optimizer = build_optimizer(layer, recipe)
        layer.weight.grad, layer.bias.grad = torch.zeros(1, 1), torch.zeros(1)
        optimizer.step()
        assert layer.weight.item() == pytest.approx(expected, abs=1e-6)
        assert layer.bias.item() == pytest.approx(bias, abs=1e-6)


def test_frozen_weights_are_not_optimised() -> None:
    model = DualEncoder(recipe_from(TINY | {"text_frozen": 1}), 100)
    held = {
        id(p) for group in build_optimizer(model, Recipe()).param_groups for p in group["params"]
    }
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(held) < len(list(model.parameters()))
