"""Files in published layouts with tame random weights, as `tier-train import` takes them.

The layouts (key → shape and dtype) stand in tests/data/state_dict_layouts.json.gz; the weights come
from the name of their key and a seed by integer arithmetic, so they are the same everywhere. Tame:
activations keep their size and residual branches are small, as in trained networks; plain random
weights exaggerate rounding a hundredfold.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import re
import string
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.conftest import DATA

State = dict[str, Tensor]
FILES = {
    "biovil": "biovil_image_resnet50_proj_size_128.pt",
    "biovil-t": "biovil_t_image_model_proj_size_128.pt",
    "tier": "best_model.pt",
    "chexzero": "best_64_5e-05_original_22000_0.864.pt",
    "medclip": "pytorch_model.bin",
    "torchvision": "resnet50.pth",
}
LAYOUT = {
    "biovil": ("biovil_image",),
    "biovil-t": ("biovil_t_image",),
    "tier": ("tier_checkpoint_model_state_dict",),
    "chexzero": ("chexzero_clip_vit_b32",),
    "medclip": ("medclip_resnet_image", "medclip_text"),
    "torchvision": ("torchvision_resnet50",),
    "cxr-bert": ("cxr_bert_text",),
}
PROMPTS = ("Edema is present.", "No evidence of pleural effusion", "Cardiomegaly, 2.5 cm (mild)")
SMALL = re.compile(r"bn3\.weight$")  # the last scale of a residual branch
BRANCH = re.compile(r"(out_proj|c_proj)\.weight$")
EMBEDDING = re.compile(r"embedding")
MERGES = 49408 - 2 * 256 - 2  # CLIP's vocabulary less bytes, alone and closing a word, start, end
TWINS = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
BERT_WORDS = (
    *("edema", "is", "present", "no", "evidence", "of", "pleural", "effusion"),
    *("cardio", "##mega", "##ly", "mild", "cm"),
)


@cache
def layouts() -> dict[str, dict[str, tuple[tuple[int, ...], str]]]:
    raw = gzip.decompress((DATA / "state_dict_layouts.json.gz").read_bytes())
    tables: dict[str, dict[str, tuple[tuple[int, ...], str]]] = json.loads(raw)
    return tables


def state_of(source: str, seed: int = 0) -> State:
    """The state dict of one published file."""
    rows = [row for name in LAYOUT[source] for row in layouts()[name].items()]
    return {key: tame(key, tuple(shape), dtype, seed) for key, (shape, dtype) in rows}


def hollow(source: str) -> State:
    """The same keys, shapes and dtypes, all weights one zero: a file of kilobytes.

    An import refuses such a file for that alone: see `let_hollow_in`.
    """
    rows = [row for name in LAYOUT[source] for row in layouts()[name].items()]
    return {
        key: torch.zeros((), dtype=getattr(torch, dtype)).expand(shape)
        for key, (shape, dtype) in rows
    }


def let_hollow_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what else is refused: half a gigabyte for each would take minutes."""
    monkeypatch.setattr("tier_train.imports.weights._check_hollow", lambda path, state: None)


def tame(key: str, shape: tuple[int, ...], dtype: str, seed: int) -> Tensor:
    if dtype == "int64":
        places = key.endswith("position_ids")
        return torch.arange(shape[-1]).reshape(shape) if places else torch.tensor(1000)
    # Tensors that a file holds twice are equal: the part of the name that they share decides.
    name = key.removeprefix("transformer.")
    name = TWINS.get(name, name)
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    draws = rng.integers(-(2**15), 2**15, shape, dtype=np.int16)
    u = draws.astype(np.float32) / np.float32(2**15)  # uniform in [-1, 1)
    return torch.from_numpy(np.asarray(_scaled(name, u)).astype(dtype))


def _scaled(key: str, u: NDArray[np.float32]) -> NDArray[np.float32]:
    def of(std: float) -> NDArray[np.float32]:
        return u * np.float32(std * math.sqrt(3))

    if key.endswith("logit_scale"):
        return np.float32(4) + u
    if key.endswith("running_var") or (key.endswith("weight") and u.ndim == 1):
        return np.float32(0.2 if SMALL.search(key) else 1) * (1 + np.float32(0.2) * u)
    if "missing_previous_emb" in key:
        return of(0.5)
    if EMBEDDING.search(key):
        return of(0.05)
    if u.ndim == 1:
        return of(0.1)
    if u.ndim == 4:  # He's scale: a rectified unit variance stays one
        return of(math.sqrt(2 / np.prod(u.shape[1:])))
    return of((0.3 if BRANCH.search(key) else 1.5) / math.sqrt(u.shape[1]))


def write_source(source: str, folder: Path, state: State | None = None) -> list[Path]:
    """The FILE arguments of `tier-train import SOURCE`; `state` stands in for the tame one."""
    folder.mkdir(parents=True, exist_ok=True)
    state = state_of(source) if state is None else state
    path = folder / FILES[source]
    named: Any = OrderedDict(state)
    named._metadata = OrderedDict({"": {"version": 1}})  # what a module's own state_dict carries
    torch.save(tier_checkpoint(named) if source == "tier" else named, path)
    if source == "torchvision":
        return [path]
    if source == "chexzero":
        return [path, write_merges(folder / "bpe_simple_vocab_16e6.txt.gz")]
    if source == "medclip":  # as published: no tokenizer_config.json
        return [path, write_vocabulary(folder / "Bio_ClinicalBERT", 28996)]
    words = folder / "BiomedVLP-CXR-BERT-specialized"
    if source == "tier":
        return [path, write_vocabulary(words, 30522, lower_case=True)]
    return [path, write_cxr_bert(words)]


def tier_checkpoint(state: State) -> dict[str, Any]:
    """What the released code saves beside the weights, NumPy scalars and its command line."""
    moments = {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2), "step": torch.tensor(1.0)}
    return {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: moments}, "param_groups": [{"lr": 1e-4}]},
        "best_val_loss": np.float64(2.5),
        "val_loss": np.float32(2.5),
        "train_loss": 2.25,
        "train_losses": [np.float64(3.0), np.float64(2.25)],
        "val_losses": [np.float64(2.5)],
        "args": argparse.Namespace(lr=1e-4, exp_name="clip_regularized", lam_words=0.1),
    }


def write_cxr_bert(folder: Path, state: State | None = None, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state_of("cxr-bert") if state is None else state, folder / "pytorch_model.bin")
    sizes = {
        "model_type": "cxr-bert",
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "projection_size": 128,
    }
    (folder / "config.json").write_text(json.dumps(sizes | config), encoding="utf-8")
    return write_vocabulary(folder, 30522, lower_case=True)


def write_vocabulary(folder: Path, size: int, lower_case: bool | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary(size)) + "\n", encoding="utf-8")
    if lower_case is not None:
        rules = json.dumps({"do_lower_case": lower_case, "tokenizer_class": "BertTokenizer"})
        (folder / "tokenizer_config.json").write_text(rules, encoding="utf-8")
    return folder


def vocabulary(size: int) -> list[str]:
    """A WordPiece vocabulary with BERT's special places, all letters and the words of PROMPTS."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [form for letter in letters for form in (letter, f"##{letter}")]
    pieces += BERT_WORDS
    return pieces + [f"[unused{i}]" for i in range(99, 99 + size - len(pieces))]


def write_merges(path: Path, count: int = MERGES + 5) -> Path:
    """CLIP's file, with merges of our own; it holds more than the weights know."""
    path.write_bytes(_packed_merges(count))
    return path


@cache
def _packed_merges(count: int) -> bytes:
    lines = ["bpe_simple_vocab_16e6.txt#version: 0.2", *itertools.islice(merges(), count)]
    return gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)


def merges() -> Iterator[str]:
    """Pairs of letters, then of pairs and letters, …: each of two pieces that are there already."""
    known = [""]
    for _ in range(4):
        grown = [head + tail for head in known for tail in string.ascii_lowercase]
        if known != [""]:
            for head, tail in itertools.product(known, string.ascii_lowercase):
                yield f"{head} {tail}"
                yield f"{head} {tail}</w>"
        known = grown


def crops(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [2, side, side]: two unlike pictures with structure at several scales."""
    y, x = np.mgrid[:side, :side] * 1024 // side
    noise = np.random.Generator(np.random.PCG64(seed)).integers(0, 64, (2, side, side))
    first = (x * y // 4096) % 192
    second = 255 - np.minimum((np.abs(x - 400) + np.abs(y - 600)) // 5, 192)
    return np.clip(np.stack([first, second]) + noise - 32, 0, 255).astype(np.uint8)
