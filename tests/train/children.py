"""Tiny trainings, here or in processes that a test may kill, forked from a server that has imported
torch once for all. Not a test file: test_train.py, test_resume.py and test_parallel.py use it.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lightning_fabric.strategies.ddp  # noqa: F401  imported by the server, not by every child
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from PIL import Image
from transformers import BertModel, BertTokenizer  # noqa: F401

from tier_train import record
from tier_train.checkpoint import Checkpoint, flat_state
from tier_train.data.manifest import read_manifest
from tier_train.phantoms.impressions import write_impression
from tier_train.phantoms.phantom import FINDINGS, draw_phantom
from tier_train.recipe import recipe_from
from tier_train.state import state_path
from tier_train.train import train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.train.children"])
TINY: dict[str, Any] = {
    "steps": 6, "batch_size": 8, "validate_every": 3, "vocab_size": 150, "embed_dim": 16,
    "text_width": 16, "text_layers": 1, "warmup": 0.5,
}  # fmt: skip

# Every kind of memory that a run has: dropout, states between validations, best checkpoints.
FULL: dict[str, Any] = {
    "steps": 8, "validate_every": 2, "save_every": 3, "keep_best": 2, "text_dropout": 0.2,
    "rotate": 5.0,
}  # fmt: skip


def make_folder(folder: Path, counts: dict[str, int], first: int = 0) -> Path:
    """Phantoms as PNG, which are read in no time, and their manifest; patients from `first`."""
    folder.mkdir()
    splits = [split for split, count in counts.items() for _ in range(count)]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "patient_id", "split", "intensity", "text", *FINDINGS])
        for i, split in enumerate(splits):
            phantom = draw_phantom(0, i)
            Image.fromarray((phantom.pixels >> 4).astype(np.uint8)).save(folder / f"{i}.png")
            text = write_impression(phantom.findings, np.random.default_rng([0, i, 1]))
            labels = [phantom.labels[name] for name in FINDINGS]
            writer.writerow([f"{i}.png", first + i, split, "mimic-jpg", text, *labels])
    return folder


def run(
    folder: Path, output: Path, changes: dict[str, Any], curves: bool = False, **options: Any
) -> Checkpoint:
    """A tiny training on the manifest in `folder`."""
    torch.set_num_threads(1)
    dataset = read_manifest(folder / "manifest.csv")
    options.setdefault("say", lambda line: None)
    options.setdefault("device", "cpu")
    drawn = record.draw_curves
    if not curves:  # a third of so short a run
        record.draw_curves = lambda *_: None
    try:
        return train(dataset, recipe_from(TINY | changes), output, **options)
    finally:
        record.draw_curves = drawn


def half_precision(scale: float) -> MixedPrecision:
    """Autocast in float16 with a gradient scaler that starts at `scale`, on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    return MixedPrecision("16-mixed", "cpu", scaler)


class Interrupt:
    """Ctrl-C when a line begins with these words; keeps the lines."""

    def __init__(self, words: str) -> None:
        self.words, self.lines = words, list[str]()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith(self.words):
            raise KeyboardInterrupt


def half_fabric(scale: float) -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1, plugins=half_precision(scale))
    fabric.launch()
    return fabric


def child(target: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseProcess:
    process = CONTEXT.Process(target=target, args=args, kwargs=kwargs, daemon=True)
    process.start()
    return process


def ranks(count: int, target: Callable[..., Any], *args: Any) -> list[int | None]:
    """`target(*args)` in `count` processes with the environment of torchrun → exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [child(_rank, rank, count, port, target, *args) for rank in range(count)]
    for process in processes:
        process.join(60)
        process.kill()
    return [process.exitcode for process in processes]


def _rank(rank: int, count: int, port: int, target: Callable[..., Any], *args: Any) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)
    target(*args)


def table(path: Path) -> list[dict[str, str]]:
    """A metrics file without its timings."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "pairs_per_s")} for row in rows]


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    ours, theirs = flat_state(one.model), flat_state(other.model)
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def assert_same(output: Path, whole: Path) -> None:
    """Metrics but for the timings, checkpoints to the byte; and nothing is left over."""
    assert table(output.with_name("x.metrics.csv")) == table(whole.with_name("x.metrics.csv"))
    assert output.read_bytes() == whole.read_bytes()
    assert ranking(output) == ranking(whole)
    assert names(output.parent) == names(whole.parent)


def ranking(output: Path) -> list[dict[str, str]]:
    with (output.parent / "x.best" / "ranking.csv").open() as file:
        return list(csv.DictReader(file))


def names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def saved_step(output: Path) -> int:
    table = torch.load(state_path(output), weights_only=True)
    return int(table["step"])


def assert_alike(row: dict[str, str], other: dict[str, str]) -> None:
    """Of two processes and of one: BatchNorm has seen half the rows."""
    assert row.keys() == other.keys()
    assert [row[k] for k in ("step", "epoch", "lr")] == [other[k] for k in ("step", "epoch", "lr")]
    assert row["loss"] != other["loss"]
    assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=0.05)
