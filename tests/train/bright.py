"""Images that a network learns within seconds: which half is bright decides the label."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tier_train.data.datasets import open_dataset
from tier_train.recipe_file import load_recipe
from tier_train.supervised import train_supervised
from tier_train.supervised_cnn import Supervised

COLUMNS = ("image_path", "patient_id", "split", "view", "intensity", "text", "Edema", "Nodule")
TINY = (
    *("batch_size=8", "vocab_size=64", "embed_dim=16", "text_width=16", "text_layers=1"),
    *("warmup=0", "brightness=0", "contrast=0"),
)


def write_bright(folder: Path, train: int = 32, held_out: int = 16) -> Path:
    """folder/manifest.csv: edema brightens the left half, a nodule the upper one.

    Every fourth image doesn't know its nodule; every eighth is a lateral, whose labels lie.
    """
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for split, count in (("train", train), ("val", held_out), ("test", held_out)):
        for i in range(count):
            edema, nodule = int(rng.integers(2)), int(rng.integers(2))
            ramp = np.linspace(0, rng.integers(20, 50), 130, dtype=int)  # the reader refuses noise
            grey = 60 + ramp + ramp[:, None] + rng.integers(0, 8, (130, 130))
            grey[:, :65] += 70 * edema
            grey[:65] += 25 * nodule
            lateral = i % 8 == 7
            name = f"images/{split}-{i}.png"
            Image.fromarray(grey.astype(np.uint8)).save(folder / name)
            text = f"{'There is' if edema else 'No'} edema. {'A' if nodule else 'No'} nodule."
            known = ["" if i % 4 == 3 else nodule, "lateral" if lateral else "PA"]
            labels = {"Edema": 1 - edema if lateral else edema, "Nodule": known[0]}
            patient = f"{split}-{i // 2}"
            row = {"image_path": name, "patient_id": patient, "split": split, "view": known[1]}
            rows.append(row | {"intensity": "minmax", "text": text} | labels)
    write_rows(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def teach(manifest: Path, output: Path, *overrides: str, say: Any = None) -> Supervised:
    """A supervised network, TINY, after six steps."""
    recipe = load_recipe("small", [*TINY, "validate_every=3", "lr=0.003", "steps=6", *overrides])
    dataset = open_dataset(f"manifest:{manifest}", recipe)
    return train_supervised(dataset, recipe, output, say=say or (lambda _: None))[0]
