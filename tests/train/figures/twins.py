"""Two tiny checkpoints and a folder of phantoms, as `figures` takes them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tier_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tier_train.figures.pair import Pair, make_pair
from tier_train.model import DualEncoder
from tier_train.phantoms.phantom import draw_phantom
from tier_train.phantoms.phantom_data import mask_png
from tier_train.recipe import recipe_from
from tier_train.towers.wordpiece import SPECIAL, WordPiece

# Every letter alone and inside a word: any English sentence can be read.
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCAB = [*SPECIAL, ".", ",", "-", *LETTERS, *(f"##{c}" for c in LETTERS)]
SIZE, SEED = 128, 29  # a series with five of edema, two or more of every finding
TEXTS = ("Edema is present.", "The lungs are clear.", "", "Large effusion on the left side.")


def checkpoint(seed: int, lambda_patch: float, **changes: Any) -> Checkpoint:
    fields = {"text_width": 16, "text_layers": 1, "embed_dim": 8, "lambda_token": 0.0}
    recipe = recipe_from(fields | {"lambda_patch": lambda_patch} | changes)
    torch.manual_seed(seed)
    model = DualEncoder(recipe, len(VOCAB)).eval()
    training = {"data": "x/manifest.csv"}
    return Checkpoint(model, WordPiece(VOCAB, 128), recipe, "minmax", ("frontal",), training, "")


def write_twins(folder: Path) -> tuple[Path, Path]:
    paths = (folder / "regularized.pt", folder / "unregularized.pt")
    for path, seed, penalty in zip(paths, (1, 2), (0.2, 0.0), strict=True):
        save_checkpoint(path, checkpoint(seed, penalty))
    return paths


def load_pair(paths: tuple[Path, Path]) -> Pair:
    return make_pair(*(load_checkpoint(path) for path in paths))


def write_films(folder: Path, count: int = 16) -> Path:
    """manifest.csv, films/*.png and masks/LABEL/films/*.png. Every fourth row has no text, the last
    one is a lateral view."""
    rows = []
    for index in range(count):
        phantom = draw_phantom(SEED, index, SIZE)
        name = f"films/{index}.png"
        (folder / "films").mkdir(parents=True, exist_ok=True)
        Image.fromarray((phantom.pixels >> 4).astype(np.uint8)).save(folder / name)
        for label, mask in phantom.masks.items():
            path = folder / f"masks/{label}/{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mask_png(mask))
        row: dict[str, object] = {"image_path": name, "patient_id": f"p{index}", "split": "test"}
        row |= {"view": "LL" if index == count - 1 else "PA", "text": TEXTS[index % 4]}
        rows.append(row | phantom.labels)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def truth_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))
