"""python -m pytest tests/train/test_supervised_steps.py -- the supervised CNN: a step, the end."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.train.bright import read_rows, teach, write_bright
from tier_infer.errors import UsageError
from tier_train import supervised
from tier_train.data.dataset import Row
from tier_train.recipe import Recipe
from tier_train.supervised_cnn import SupervisedCnn, load_supervised, save_supervised
from tier_train.towers.image_encoder import ImageEncoder
from tier_train.validation import Diverged

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright(tmp_path_factory.mktemp("bright"))


def test_shuffled_labels_are_a_control(manifest: Path, tmp_path: Path) -> None:
    losses = set()
    for name in ("false", "true"):
        sets = (f"shuffle_captions={name}", "steps=1", "validate_every=1")
        teach(manifest, tmp_path / f"{name}.pt", *sets)
        losses.add(read_rows(tmp_path / f"{name}.metrics.csv")[0]["loss"])
    assert len(losses) == 2


def test_weights_that_are_no_numbers_end_training(manifest: Path, tmp_path: Path) -> None:
    recipe = teach(manifest, tmp_path / "cnn.pt", "steps=1").recipe
    model = SupervisedCnn(recipe, 1)
    torch.nn.init.constant_(model.image.trunk.conv1.weight, math.nan)
    part = supervised.Part(
        [Row("a", "val", "", {}, 2)], [np.zeros((128, 128), np.uint8)], np.ones((1, 1), np.float32)
    )
    with pytest.raises(Diverged, match="lower lr"):
        supervised.validate(model, part, recipe)


def test_the_loss_masks_what_is_unknown() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    truth = torch.tensor([[1, 0, 1, 1, 0, 0], [1] + [math.nan] * 5, [math.nan] * 6]).T
    each = [
        binary_cross_entropy_with_logits(logits[:, 0], truth[:, 0]),
        binary_cross_entropy_with_logits(logits[:1, 1], truth[:1, 1]),
    ]  # the third label is known nowhere and has no part
    found = supervised.masked(logits, truth, supervised.shares(truth))
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)


def test_micro_batches_give_the_same_gradient() -> None:
    truth = torch.tensor([[1.0, math.nan], [0, 1], [0, math.nan], [1, 0], [1, math.nan]])
    pixels = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    slopes, losses = [], []
    for size in (0, 2):
        torch.manual_seed(0)
        network = nn.Linear(4, 2)
        fabric: Any = SimpleNamespace(device="cpu", backward=Tensor.backward)
        recipe = Recipe(micro_batch=size)
        losses.append(supervised.backward(fabric, network, pixels, truth, recipe))
        slopes.append(network.weight.grad)
    torch.testing.assert_close(slopes[0], slopes[1])
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize(("batch", "micro"), [(8, 1), (7, 2)])
def test_an_image_alone_is_refused(manifest: Path, tmp_path: Path, batch: int, micro: int) -> None:
    sets = (f"batch_size={batch}", f"micro_batch={micro}")
    with pytest.raises(UsageError, match=f"micro_batch {micro} leaves an image"):
        teach(manifest, tmp_path / "cnn.pt", *sets)


def test_the_parts_of_a_batch_are_alike(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BatchNorm takes no single image, and 8 = 7 + 1."""
    seen = _inputs(monkeypatch)
    teach(manifest, tmp_path / "cnn.pt", "micro_batch=7", "steps=1")
    assert [len(x) for x in seen] == [4, 4]


def test_mixed_precision_does_not_round_the_pixels(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 256 greys bfloat16 knows 192."""
    seen: list[Tensor] = []
    for precision in ("fp32", "bf16"):
        with monkeypatch.context() as patch:
            inputs = _inputs(patch)
            teach(manifest, tmp_path / "cnn.pt", f"precision={precision}", "steps=1")
            seen.append(inputs[0])
    assert torch.equal(seen[0].bfloat16(), seen[1].bfloat16())


def _inputs(patch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the vision encoder gets in training."""
    seen: list[Tensor] = []
    forward = ImageEncoder.forward

    def watched(self: ImageEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            seen.append(x.detach())
        return forward(self, x)

    patch.setattr(ImageEncoder, "forward", watched)
    return seen


class Killed(BaseException):
    """kill -9, as far as Python can see it."""


def test_a_kill_never_leaves_files_of_two_runs(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every rename and removal of the second run's end."""
    names = ("exp.lr1", "exp.lr1.scores.csv", "exp.lr1.metrics.csv")  # a stem with a dot of its own
    for seed in (0, 1):
        teach(manifest, tmp_path / f"{seed}/exp.lr1", f"seed={seed}", "steps=1")
    found = load_supervised(tmp_path / "1/exp.lr1")
    save_supervised(tmp_path / "1/exp.lr1", found)  # what is read is pickled in other bytes
    old, new = ([(tmp_path / seed / name).read_bytes() for name in names] for seed in "01")
    assert all(a != b for a, b in zip(old, new, strict=True))
    met = set()
    for last in range(1, 30):
        folder = tmp_path / f"kill-{last}"
        shutil.copytree(tmp_path / "0", folder)
        for name, data in zip(names[1:], new[1:], strict=True):
            (folder / name).with_suffix(".part.csv").write_bytes(data)
        ticks = itertools.count(1)
        with monkeypatch.context() as patch:
            for call in ("replace", "unlink"):
                patch.setattr(Path, call, _mortal(getattr(Path, call), ticks, last))
            with contextlib.suppress(Killed):
                supervised._publish(folder / "exp.lr1", found)
        paths = [folder / name for name in names]
        there = [path.read_bytes() if path.exists() else None for path in paths]
        assert there[0] is not None
        run = old if there[0] == old[0] else new
        assert there[0] == run[0]
        assert all(data in (None, whole) for data, whole in zip(there, run, strict=True))
        met.add((run is new, sum(data is not None for data in there)))
    assert met >= {(False, 3), (False, 1), (True, 1), (True, 3)}


def _mortal(call: Any, ticks: Iterator[int], last: int) -> Any:
    def mortal(*args: Any, **rest: Any) -> Any:
        if next(ticks) >= last:  # also in a `finally`
            raise Killed
        return call(*args, **rest)

    return mortal
