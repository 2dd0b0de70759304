"""Drawn PNGs with labels, as a manifest; tiny checkpoints with random weights."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from PIL import Image

from tests.data.make_source_scores import LABELS, pictures
from tests.train import layouts
from tier_train.checkpoint import Checkpoint, save_checkpoint
from tier_train.model import DualEncoder
from tier_train.recipe import Recipe, recipe_from
from tier_train.supervised_cnn import Supervised, SupervisedCnn, save_supervised
from tier_train.towers.wordpiece import WordPiece

SIZES = {
    "embed_dim": 16,
    "text_width": 16,
    "text_heads": 2,
    "text_layers": 1,
    "intensity": "minmax",
}


def write_pictures(folder: Path) -> Path:
    """folder/manifest.csv over the pictures that the source libraries scored; every label is 1 in
    two of them and 0 in two."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image_path", "patient_id", "split", *LABELS))
        for i, grey in enumerate(pictures()):
            Image.fromarray(grey).save(folder / f"{i}.png")
            truth = [(i + k) // 2 % 2 for k in range(len(LABELS))]
            rows.writerow((f"{i}.png", f"p{i}", "test", *truth))
    return folder / "manifest.csv"


def recipe(**changes: object) -> Recipe:
    return recipe_from(SIZES | changes)


def tiny(
    seed: int = 0,
    source: str = "",
    data: str = "drawn",
    prompts: str = "chexpert",
    digest: str = "0" * 64,
    **changes: object,
) -> Checkpoint:
    """Kilobytes; its scores mean nothing but differ from image to image."""
    asked = recipe(prompts=prompts, **changes)
    words = WordPiece(layouts.vocabulary(400), 128, lower_case=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DualEncoder(asked, words.vocab_size).eval()
        for weight in model.words.parameters():  # as BERT starts, all sentences are nearly one
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=2 * weight.shape[1] ** -0.5)
    training: dict[str, object] = {"data": data, "manifest_sha256": digest, "val_loss": math.nan}
    training |= {"source": source} if source else {}
    views = ("frontal", "lateral")
    return Checkpoint(model, words, asked, asked.intensity, views, training, alarm="")


def write_tiny(path: Path, seed: int = 0, **changes: object) -> Path:
    save_checkpoint(path, tiny(seed, **changes))  # type: ignore[arg-type]
    return path


def write_supervised(path: Path, labels: tuple[str, ...], seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SupervisedCnn(recipe(), len(labels)).eval()
    training = {"data": "drawn", "manifest_sha256": "0" * 64}
    trained = Supervised(model, labels, recipe(), "minmax", ("frontal",), training)
    save_supervised(path, trained)
    return path
