"""python -m pytest tests/train/test_parallel.py -- several processes, chunks: one gradient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from tests.train.children import (
    TINY,
    half_precision,
    make_folder,
    ranks,
    run,
    same_weights,
    table,
)
from tier_infer.errors import DeviceError, UsageError
from tier_infer.geometry import GEOMETRIES, center_crop
from tier_train import parallel, record
from tier_train.checkpoint import load_checkpoint
from tier_train.data.manifest import read_manifest
from tier_train.data.pictures import load_pictures
from tier_train.loss import tier_loss
from tier_train.model import DualEncoder
from tier_train.parallel import backward, finish, launch, share, wrapped
from tier_train.recipe import Recipe, recipe_from
from tier_train.sampler import Pairs, seed_of
from tier_train.schedule import build_optimizer
from tier_train.state import save_state
from tier_train.towers.wordpiece import WordPiece, train_vocabulary
from tier_train.validation import Result, Validation

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parallel") / "tiny"
    return make_folder(path, {"train": 24, "val": 18})


SHARED: list[dict[str, Any]] = [{}, {"micro_batch": 2}, {"mask_padding": False}]


def _gradients(
    folder: Path, changes: dict[str, Any], fabric: Any, dropout: bool = False
) -> tuple[dict[str, Tensor], list[float]]:
    """Of the first 8 pairs, as the processes of this job compute them: name → gradient, and loss.

    BatchNorm in eval, no dropout, float64, so that 1e-6 tells a mistake from rounding.
    """
    torch.manual_seed(0)
    recipe = recipe_from(TINY | changes)
    model, pixels, ids, mask = _first_eight(folder, recipe)
    towers, _ = wrapped(fabric, model, build_optimizer(model, recipe), recipe, None)
    model.eval()
    model.words.train(dropout)
    part = share(fabric, recipe)
    loss = backward(fabric, towers, pixels[part], ids[part], mask[part], recipe, 1)
    named = model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}, loss.tolist()


def _first_eight(folder: Path, recipe: Recipe) -> tuple[DualEncoder, Tensor, Tensor, Tensor]:
    dataset, geometry = read_manifest(folder / "manifest.csv"), GEOMETRIES[recipe.geometry]
    rows, pictures = load_pictures(dataset, dataset.split("train")[:8], "mimic-jpg", geometry)
    texts = [row.text for row in rows]
    tokenizer = WordPiece(train_vocabulary(texts, 150), 32)
    crops = np.stack([center_crop(pictures[i], geometry.crop) for i in range(8)])
    pixels = torch.from_numpy(crops)
    return DualEncoder(recipe, tokenizer.vocab_size), pixels, *tokenizer(texts)


@pytest.fixture
def fabric(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One process on the CPU, in float64."""
    monkeypatch.setitem(parallel.PRECISION, "fp32", "64-true")
    torch.set_default_dtype(torch.float64)
    yield launch("cpu", "fp32")
    torch.set_default_dtype(torch.float32)


def _shared_gradients(folder: Path, place: Path) -> None:
    """In every rank."""
    parallel.PRECISION["fp32"] = "64-true"
    torch.set_default_dtype(torch.float64)
    fabric = launch("cpu", "fp32")
    for i, changes in enumerate(SHARED):
        slopes, loss = _gradients(folder, changes, fabric)
        torch.save({"slopes": slopes, "loss": loss}, place / f"{i}-{fabric.global_rank}.pt")
    torch.save(_validated(folder, fabric)._asdict(), place / f"result-{fabric.global_rank}.pt")
    finish(fabric)


def _validated(folder: Path, fabric: Any) -> Result:
    """Of an untrained network: 18 pictures in 4 blocks, 6 batches, for one or two processes."""
    torch.manual_seed(0)
    recipe, geometry = recipe_from(TINY | {"batch_size": 3}), GEOMETRIES["small-112"]
    dataset = read_manifest(folder / "manifest.csv")
    pairs = Pairs(*load_pictures(dataset, dataset.split("val"), "mimic-jpg", geometry))
    tokenizer = WordPiece(train_vocabulary([row.text for row in pairs.rows], 150), 32)
    model = DualEncoder(recipe, tokenizer.vocab_size)
    check = Validation(dataset, pairs, recipe, lambda line: None)
    check.block = 5
    return check(model, tokenizer, fabric)


def _assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert len(ours) > 30
    for name, slope in ours.items():
        assert float(slope.abs().max()) > 0 or name.endswith("key.bias"), name
        limit = 1e-6 * float(slope.abs().max()) + 1e-14  # a key's bias has no slope but rounding
        assert float((slope - theirs[name]).abs().max()) <= limit, name


@pytest.fixture(scope="module")
def shared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have written."""
    place = tmp_path_factory.mktemp("shared")
    assert ranks(2, _shared_gradients, folder, place) == [0, 0]
    return place


def test_two_processes_validate_as_one(folder: Path, fabric: Any, shared: Path) -> None:
    expected = _validated(folder, fabric)
    assert len(expected.areas) > 2
    for rank in range(2):
        found = torch.load(shared / f"result-{rank}.pt", weights_only=True)
        assert found["areas"] == expected.areas
        assert found["loss"] == pytest.approx(expected.loss, rel=1e-12)


def test_two_processes_have_the_gradient_of_one(folder: Path, fabric: Any, shared: Path) -> None:
    for i, changes in enumerate(SHARED):
        whole = {k: v for k, v in changes.items() if k != "micro_batch"}
        expected, loss = _gradients(folder, whole, fabric)
        for rank in range(2):
            found = torch.load(shared / f"{i}-{rank}.pt", weights_only=True)
            _assert_equal(expected, found["slopes"])
            assert found["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_chunks_have_the_gradient_of_the_whole_batch(folder: Path, fabric: Any, size: int) -> None:
    expected, loss = _gradients(folder, {}, fabric)
    found, again = _gradients(folder, {"micro_batch": size}, fabric)
    _assert_equal(expected, found)
    assert again == pytest.approx(loss, rel=1e-6)


def test_chunks_repeat_their_dropout(folder: Path, fabric: Any) -> None:
    """The two passes over a chunk must drop the same: checked against one pass with a graph."""
    changes = {"micro_batch": 3, "text_dropout": 0.3}
    found, loss = _gradients(folder, changes, fabric, dropout=True)
    torch.manual_seed(0)
    recipe = recipe_from(TINY | changes)
    model, pixels, ids, mask = _first_eight(folder, recipe)
    model.double().eval()
    model.words.train()
    parts = []
    for i, rows in enumerate((slice(0, 3), slice(3, 6), slice(6, 8))):
        image_e, patch_e = model.encode_image(pixels[rows])
        torch.manual_seed(seed_of(recipe.seed, 4, 1, 0, i))
        parts.append((image_e, patch_e, model.encode_text(ids[rows], mask[rows])))
    image_e, patch_e, token_e = (torch.cat(column) for column in zip(*parts, strict=True))
    total = tier_loss(
        image_e, token_e[:, 0], patch_e, token_e, mask.bool(), model.logit_scale, recipe
    ).total
    total.backward()  # type: ignore[no-untyped-call]
    assert loss[0] == pytest.approx(float(total.detach()), rel=1e-6)
    _assert_equal(
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, found
    )


def test_chunks_are_scaled_once(folder: Path) -> None:
    """fp16's gradient scaler, which Fabric gives to GPUs only, on a CPU."""
    fabric = Fabric(accelerator="cpu", devices=1, plugins=half_precision(1024.0))
    fabric.launch()
    whole, _ = _gradients(folder, {}, fabric)
    chunks, _ = _gradients(folder, {"micro_batch": 3}, fabric)
    for name in ("logit_scale", "image.proj.3.weight", "words.text_head.dense_to_output.weight"):
        assert float((whole[name] - chunks[name]).norm()) < 0.05 * float(whole[name].norm()), name
    exact, _ = _gradients(folder, {}, launch("cpu", "fp32"))
    assert float(whole["logit_scale"] / exact["logit_scale"]) == pytest.approx(1024, rel=0.05)


def test_batch_norm_counts_every_chunk_once(folder: Path, fabric: Any) -> None:
    torch.manual_seed(0)
    recipe = recipe_from(TINY | {"micro_batch": 3})
    model, pixels, ids, mask = _first_eight(folder, recipe)
    towers, _ = wrapped(fabric, model, build_optimizer(model, recipe), recipe, None)
    expected = torch.zeros(32)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 8)):
        stem = model.image.trunk.conv1(model.network_input(pixels[rows]))  # type: ignore[operator,union-attr]
        expected = 0.9 * expected + 0.1 * stem.detach().mean((0, 2, 3))
    model.train()
    backward(fabric, towers, pixels, ids, mask, recipe, 1)
    norm: Any = model.image.trunk.get_submodule("bn1")
    assert norm.num_batches_tracked == 3
    torch.testing.assert_close(norm.running_mean, expected)


def test_a_batch_must_be_divisible() -> None:
    three: Any = SimpleNamespace(world_size=3, global_rank=1)
    with pytest.raises(UsageError, match=r"batch_size 8 can't be shared by 3 .* batch_size=9"):
        share(three, recipe_from(TINY))
    assert share(three, recipe_from(TINY | {"batch_size": 9})) == slice(3, 6)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(DeviceError, match="2 processes on this machine and 1 CUDA devices"):
        launch("auto", "fp32")


def _stop(line: str) -> None:
    if line.startswith("step 3/"):
        raise KeyboardInterrupt


def test_one_process_starts_what_two_complete(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "x.pt", {}, say=_stop)
    assert (tmp_path / "x.state.pt").is_file()
    assert ranks(2, _resume, folder, tmp_path / "x.pt") == [0, 0]
    run(folder, tmp_path / "whole.pt", {})
    (first, last), expected = (
        table(tmp_path / "x.metrics.csv"),
        table(tmp_path / "whole.metrics.csv"),
    )
    assert first == expected[0]
    assert {k: last[k] for k in ("step", "epoch", "lr")} == {
        k: expected[1][k] for k in ("step", "epoch", "lr")
    }
    assert float(last["loss"]) == pytest.approx(float(expected[1]["loss"]), rel=0.05)
    training = load_checkpoint(tmp_path / "x.pt").training
    assert (training["processes"], training["step"]) == (2, 6)
    assert not list(tmp_path.glob("x.state*"))


def _resume(folder: Path, output: Path) -> None:
    run(folder, output, {}, resume=True)


CHUNKED = {"micro_batch": 2, "save_every": 2, "steps": 4, "schedule": "constant"}


def _keep_the_second(folder: Path, place: Path) -> None:
    """A run in two processes, and a copy of its state between two validations."""
    Validation.block = 3  # pictures, so that both processes embed some

    def save(path: Path, table: dict[str, Any]) -> None:
        save_state(path, table)
        if table["step"] == 2:
            save_state(place / "again.state.pt", table)

    record.save_state = save
    run(folder, place / "whole.pt", CHUNKED)


def _go_on(folder: Path, place: Path) -> None:
    Validation.block = 3
    run(folder, place / "again.pt", CHUNKED, resume=True)


def test_two_processes_validate_what_they_write(folder: Path, tmp_path: Path) -> None:
    """Each has its own BatchNorm statistics; the checkpoint, and so a resumed run, the first's."""
    assert ranks(2, _keep_the_second, folder, tmp_path) == [0, 0]
    written = load_checkpoint(tmp_path / "whole.pt")
    dataset, geometry = read_manifest(folder / "manifest.csv"), GEOMETRIES["small-112"]
    pairs = Pairs(*load_pictures(dataset, dataset.split("val"), "mimic-jpg", geometry))
    check = Validation(dataset, pairs, written.recipe, lambda line: None)
    found = check(written.model, written.tokenizer, launch("cpu", "fp32"))
    assert found.areas == written.training["val_auc"]
    assert found.loss == pytest.approx(written.training["val_loss"], abs=1e-6)
    assert ranks(2, _go_on, folder, tmp_path) == [0, 0]
    assert table(tmp_path / "again.metrics.csv") == table(tmp_path / "whole.metrics.csv")
    assert same_weights(load_checkpoint(tmp_path / "again.pt"), written)
