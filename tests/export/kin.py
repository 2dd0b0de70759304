"""Checkpoints that are kin to a trained one, for ensembles and averages."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch

from tier_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tier_train.model import DualEncoder
from tier_train.towers.wordpiece import WordPiece


def saved(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Through a file, so that it has a SHA-256 of its own."""
    save_checkpoint(path, checkpoint)
    return load_checkpoint(path)


def shifted(checkpoint: Checkpoint, seed: int, share: float) -> Checkpoint:
    """Every weight moved by `share` of its tensor's spread, as two steps of one run are apart."""
    model = copy.deepcopy(checkpoint.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            spread = value.std(correction=0)
            value.add_(share * spread * torch.randn(value.shape, generator=generator))
    return replace(checkpoint, model=model)


# Hidden units of the narrow network: where they are made, and where they are read.
UNITS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("conv1", "bn1", "layer1.0.conv2", "layer1.0.bn2"),
     ("layer1.0.conv1", "layer2.0.conv1", "layer2.0.downsample.0")),
    (("layer1.0.conv1", "layer1.0.bn1"), ("layer1.0.conv2",)),
    (("layer2.0.conv1", "layer2.0.bn1"), ("layer2.0.conv2",)),
    (("layer2.0.conv2", "layer2.0.bn2", "layer2.0.downsample.0", "layer2.0.downsample.1"),
     ("layer3.0.conv1", "layer3.0.downsample.0")),
    (("layer3.0.conv1", "layer3.0.bn1"), ("layer3.0.conv2",)),
)  # fmt: skip


def shuffled(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """The same function, its hidden units in another order, as if another run had found it."""
    model = copy.deepcopy(checkpoint.model)
    state = model.image.trunk.state_dict()
    generator = torch.Generator().manual_seed(seed)
    for made, read in UNITS:
        order = torch.randperm(len(state[f"{made[0]}.weight"]), generator=generator)
        for key, value in state.items():
            if key.rpartition(".")[0] in made and value.dim():
                value.copy_(value[order])  # indexing copies first
        for name in read:
            weight = state[f"{name}.weight"]
            weight.copy_(weight[:, order])
    return replace(checkpoint, model=model)


def stranger(checkpoint: Checkpoint, embed_dim: int) -> Checkpoint:
    """Same images, everything else its own: random weights, width, text tower and vocabulary."""
    tokenizer = checkpoint.tokenizer
    assert isinstance(tokenizer, WordPiece)
    words = tokenizer.state()
    vocab = words["vocab"]
    assert isinstance(vocab, list)
    turned = WordPiece([*vocab[:5], *reversed(vocab[5:])], 64, bool(words["lower_case"]))
    recipe = replace(
        checkpoint.recipe, embed_dim=embed_dim, text_width=32, text_heads=4, text_layers=2
    )
    torch.manual_seed(7)
    model = DualEncoder(recipe, turned.vocab_size).eval()
    return replace(checkpoint, model=model, tokenizer=turned, recipe=recipe)
