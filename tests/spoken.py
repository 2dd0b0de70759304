"""Exported text towers: that of the trained site, and those of CheXzero and MedCLIP, small and with
random weights. Each is made once per process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tier_export.members import Members
from tier_export.text_graph import text_files
from tier_export.writing import write_bundle
from tier_infer.bundle import load_bundle
from tier_infer.label_sets import FOLDER, load_label_set
from tier_infer.sentences import Tower
from tier_train.checkpoint import Checkpoint, load_checkpoint
from tier_train.model import DualEncoder
from tier_train.recipe import recipe_from
from tier_train.towers.clip_text import ClipTokenizer
from tier_train.towers.text_encoder import Tokenizer, embed_prompts
from tier_train.towers.wordpiece import WordPiece, train_vocabulary

KINDS = ("bert", "clip", "medclip")
PACKAGED = list(
    dict.fromkeys(
        sentence
        for path in sorted(FOLDER.glob("*.toml"))
        for label in load_label_set(path.stem).labels
        for sentence in (*label.positive, *label.negative)
    )
)


@dataclass(frozen=True)
class Spoken:
    network: Checkpoint
    files: dict[str, bytes]
    text: dict[str, Any]

    @property
    def tower(self) -> Tower:
        return Tower(*self.parts)

    @property
    def parts(self) -> tuple[bytes, bytes, int]:
        encoder, words = self.files.values()
        return encoder, words, self.network.tokenizer.max_tokens


def members(*networks: Checkpoint) -> Members:
    return Members(networks, networks)


@cache
def spoken_by(kind: str, site: Path) -> Spoken:
    network = load_checkpoint(site / "ckpt.pt") if kind == "bert" else small(kind)
    files, text, _ = text_files(members(network), [])
    return Spoken(network, files, text)


def small(kind: str) -> Checkpoint:
    sizes = {"text_width": 32, "text_layers": 3, "text_heads": 2, "embed_dim": 64}
    recipe = recipe_from({"name": kind, "text_arch": kind, "max_tokens": 120, **sizes})
    tokenizer: Tokenizer
    if kind == "clip":
        merges = ["e d", "ed e", "m a</w>", "ede ma</w>", "i s</w>", "p r", "Ã ©</w>", "s t", "l u"]
        tokenizer = ClipTokenizer(merges, recipe.max_tokens)
    else:
        tokenizer = WordPiece(train_vocabulary(PACKAGED, 300), recipe.max_tokens)
    torch.manual_seed(0)
    model = DualEncoder(recipe, tokenizer.vocab_size).eval()
    with torch.no_grad():
        for key, value in model.words.named_parameters():
            if "embedding" in key:
                value.normal_(std=0.5)  # so that words decide, not the layers' biases
    return Checkpoint(model, tokenizer, recipe, "minmax", ("frontal",), {}, "")


def in_pytorch(network: Checkpoint, sentence: str) -> NDArray[np.float32]:
    found: NDArray[np.float32] = embed_prompts(
        network.model.words, network.tokenizer, [sentence]
    ).numpy()[0]
    return found


def difference(spoken: Spoken, sentences: Sequence[str]) -> float:
    """The largest of an embedding's component."""
    tower, network = spoken.tower, spoken.network
    return max(float(np.abs(tower.embed(s) - in_pytorch(network, s)).max()) for s in sentences)


def speaking(site: Path, target: Path) -> Path:
    """A copy of the site's bundle that takes sentences."""
    spoken = spoken_by("bert", site)
    shutil.copytree(site / "bundle", target)
    manifest = load_bundle(target).manifest
    write_bundle(target, replace(manifest, text=spoken.text), spoken.files, keep=manifest)
    return target
