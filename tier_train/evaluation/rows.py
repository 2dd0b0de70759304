"""The rows of the paper's tables: which checkpoints, asked how, counted how.

Two protocols, and no table holds both: `ours` treats all alike as the paper does (every image, one
label set, margins); `own` gives each the scoring, prompts and images that its authors report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tier_infer.errors import IntegrityError, UsageError
from tier_train.checkpoint import load_checkpoint
from tier_train.evaluation.scorers import Asked
from tier_train.supervised_cnn import load_supervised

OURS, OWN = "ours", "own"
SUPERVISED, RADIOLOGISTS = "supervised", "radiologists"
TITLES = {
    "regularized": "TIER, regularized",
    "unregularized": "TIER, unregularized twin",
    "chexzero": "CheXzero",
    "medclip": "MedCLIP",
    "biovil": "BioViL",
    SUPERVISED: "supervised CNN",
    RADIOLOGISTS: "radiologists, mean of them",
}
MODELS = ("regularized", "unregularized", "chexzero", "medclip", "biovil")
SOURCES = {  # --option → the imports that it takes
    "chexzero": ("chexzero",),
    "medclip": ("medclip",),
    "biovil": ("biovil", "biovil-t"),
}
NEEDS = {
    "regularized": "--regularized CKPT, of `tier-train run`",
    "unregularized": "--unregularized CKPT, of `tier-train run --unregularized`",
    "chexzero": "--chexzero CKPT, of `tier-train import chexzero`",
    "medclip": "--medclip CKPT, of `tier-train import medclip`",
    "biovil": "--biovil CKPT, of `tier-train import biovil`",
    SUPERVISED: "--supervised FILE, of `tier-train supervised`",
}


@dataclass(frozen=True)
class Row:
    name: str  # the option that names its files
    protocol: str  # OURS or OWN
    scoring: str | None  # None: margin, or the head of a supervised network
    queries: str | None  # label set; None for a head
    unit: str

    @property
    def folder(self) -> str:
        return self.name if self.protocol == OURS else f"{self.name}-own"

    def asked(self, labels: list[str], device: str) -> Asked:
        return Asked(self.scoring, self.queries, labels, device)


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    kind: str  # of the dataset
    queries: str  # of our protocol; its labels are those of every row
    rows: tuple[Row, ...]
    decisions: bool = False  # whether MCC and F1 belong to it


def _ours(queries: str, names: Sequence[str]) -> tuple[Row, ...]:
    return tuple(
        Row(name, OURS, None, None if name == SUPERVISED else queries, "per_image")
        for name in names
    )


TABLES = {
    "table1": Table(
        "table1",
        "Table 1: five findings of CheXpert's test set",
        "chexpert",
        "chexpert",
        (
            *_ours("chexpert", (*MODELS, SUPERVISED)),
            Row("chexzero", OWN, "softmax", "chexzero", "first_frontal"),
            Row("medclip", OWN, "prompt-mean", "medclip", "per_image"),
        ),
        decisions=True,
    ),
    "table2": Table(
        "table2",
        "Table 2: 57 findings of PadChest",
        "padchest",
        "padchest",
        (
            *_ours("padchest", MODELS[:3]),
            Row("chexzero", OWN, "softmax", "padchest_chexzero", "per_image"),
        ),
    ),
    "covid": Table(
        "covid",
        "COVID-19 against other pneumonia, COVID-QU-Ex",
        "covid",
        "covid",
        _ours("covid", MODELS),
    ),
}


def published() -> dict[str, Any]:
    """Table → protocol → `source`, `means` by row, `labels` by row and label, and counts."""
    text = Path(__file__).with_name("published.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def check_files(name: str, paths: Sequence[Path]) -> None:
    """Before an hour of scoring: UsageError where `--{name}` is given another model's files."""
    if name == SUPERVISED:
        if len(paths) > 1:
            raise UsageError("--supervised takes one network; its logits are of no ensemble")
        load_supervised(paths[0])
        return
    for path in paths:
        checkpoint = load_checkpoint(path)
        source = checkpoint.training.get("source")
        if name in SOURCES:
            if source not in SOURCES[name]:
                raise UsageError(f"--{name} {path} is another model; it takes {NEEDS[name]}")
            continue
        if source not in (None, "tier"):
            raise UsageError(f"--{name} {path} is {source}, imported; name it with --{source}")
        penalised = checkpoint.recipe.lambda_patch > 0 or checkpoint.recipe.lambda_token > 0
        if source is None and penalised != (name == "regularized"):
            did, other = ("with", "regularized") if penalised else ("without", "unregularized")
            raise UsageError(f"--{name} {path} was trained {did} the penalty: --{other} takes it")


def readable(name: str, paths: Sequence[Path]) -> None:
    """`check_files`, with the option in front of what is wrong with a file."""
    try:
        check_files(name, paths)
    except IntegrityError as error:
        raise IntegrityError(f"--{name}: {error}") from None
