"""python -m pytest tests/train/test_checkpoint_fields.py -- a checkpoint with one thing wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tier_infer.errors import IntegrityError
from tier_train.checkpoint import FORMAT, flat_state, load_checkpoint
from tier_train.model import DualEncoder
from tier_train.recipe import recipe_from
from tier_train.towers.wordpiece import SPECIAL

torch.set_num_threads(1)
VOCAB = [*SPECIAL, "edema"]
BIAS = "text_head.dense_to_output.bias"  # float32 [8]
Table = dict[str, Any]


@pytest.fixture(scope="module")
def sound() -> Table:
    recipe = recipe_from({"text_width": 16, "text_layers": 1, "embed_dim": 8})
    return {
        "format": FORMAT,
        "state": flat_state(DualEncoder(recipe, len(VOCAB))),
        "recipe": asdict(recipe),
        "tokenizer": {"vocab": VOCAB, "max_tokens": 32, "lower_case": True},
        "intensity": "minmax",
        "views": ["frontal"],
        "training": {},
        "alarm": "",
    }


def _set(*keys: Any) -> Callable[[Table], None]:
    """The last of `keys` is the value."""

    def change(table: Table) -> None:
        for key in keys[:-2]:
            table = table[key]
        table[keys[-2]] = keys[-1]

    return change


def _drop(*keys: str) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        for key in keys[:-1]:
            table = table[key]
        del table[keys[-1]]

    return change


WRONG: dict[str, Callable[[Table], None]] = {
    "another format": _set("format", "tier-cxr-checkpoint/99"),
    "format of another type": _set("format", 1),
    "missing field": _drop("training"),
    "extra field": _set("more", 1),
    "missing weight": _drop("state", BIAS),
    "extra weight": _set("state", "more", torch.zeros(1)),
    "extra weight without a name": _set("state", 1, torch.zeros(1)),
    "wrong shape": _set("state", BIAS, torch.zeros(9)),
    "transposed": _set("state", "text_head.dense_to_hidden.weight", torch.zeros(16, 8)),
    "NaN weight": _set("state", BIAS, torch.full((8,), torch.nan)),
    "infinite weight": _set("state", BIAS, torch.full((8,), torch.inf)),
    "overflow of float64": _set("state", BIAS, torch.full((8,), 1e300, dtype=torch.float64)),
    "half precision": _set("state", BIAS, torch.zeros(8, dtype=torch.float16)),
    "boolean weight": _set("state", BIAS, torch.zeros(8, dtype=torch.bool)),
    "complex weight": _set("state", BIAS, torch.zeros(8, dtype=torch.complex64)),
    "sparse weight": _set("state", BIAS, torch.ones(8).to_sparse()),
    "weight without storage": _set("state", BIAS, torch.zeros(8, device="meta")),
    "weight that is a number": _set("state", BIAS, 3),
    "state that is a list": _set("state", [1]),
    "unknown recipe key": _set("recipe", "stesp", 1),
    "recipe key that is no text": _set("recipe", 3, 1),
    "recipe value of another type": _set("recipe", "steps", "many"),
    "recipe value out of range": _set("recipe", "global_pool", "max"),
    "recipe of another network": _set("recipe", "text_layers", 2),
    "recipe that torch refuses": _set("recipe", "text_dropout", 7.0),
    "recipe of another input": _set("recipe", "geometry", "tier-224-imagenet"),
    "recipe that is a list": _set("recipe", []),
    "tokenizer that is nothing": _set("tokenizer", None),
    "tokenizer without vocabulary": _drop("tokenizer", "vocab"),
    "vocabulary that is a word": _set("tokenizer", "vocab", "abcdef"),
    "vocabulary of numbers": _set("tokenizer", "vocab", [0, 1, 2, 3, 4, 5]),
    "vocabulary without special tokens": _set("tokenizer", "vocab", ["a", "b", "c", "d", "e", "f"]),
    "vocabulary with one word twice": _set("tokenizer", "vocab", [*VOCAB[:5], "[PAD]"]),
    "empty vocabulary": _set("tokenizer", "vocab", []),
    "max_tokens that is a word": _set("tokenizer", "max_tokens", "x"),
    "negative max_tokens": _set("tokenizer", "max_tokens", -1),
    "lower_case that is nothing": _set("tokenizer", "lower_case", None),
    "unknown intensity": _set("intensity", "x"),
    "intensity that is a list": _set("intensity", []),
    "views that are nothing": _set("views", None),
    "views that are one word": _set("views", "frontal"),
    "views that are numbers": _set("views", [1]),
    "training that is nothing": _set("training", None),
    "alarm that is a number": _set("alarm", 5),
}


def _copy(table: Table) -> Table:
    return copy.deepcopy(table)


def test_the_unchanged_table_loads(sound: Table, tmp_path: Path) -> None:
    torch.save(_copy(sound), tmp_path / "ckpt.pt")
    assert load_checkpoint(tmp_path / "ckpt.pt").tokenizer.vocab == VOCAB


@pytest.mark.parametrize("name", WRONG)
def test_one_wrong_thing_is_an_integrity_error(sound: Table, tmp_path: Path, name: str) -> None:
    table = _copy(sound)
    WRONG[name](table)
    torch.save(table, tmp_path / "ckpt.pt")
    with pytest.raises(IntegrityError) as caught:
        load_checkpoint(tmp_path / "ckpt.pt")
    assert str(tmp_path / "ckpt.pt") in str(caught.value)


@pytest.mark.parametrize("content", [[1], "text", 5, None, torch.zeros(3)])
def test_something_else_is_an_integrity_error(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(IntegrityError):
        load_checkpoint(tmp_path / "ckpt.pt")
