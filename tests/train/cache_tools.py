"""Caches of the MIMIC tree, for the tests of what they hold and of how they are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.train.mimic_tree import STUDIES, plain
from tier_infer.geometry import GEOMETRIES, Geometry
from tier_train.data.cache_writer import write_cache
from tier_train.data.dataset import Dataset
from tier_train.data.datasets import open_dataset
from tier_train.data.pictures import load_pictures
from tier_train.recipe import Recipe

RECIPE, SMALL = Recipe(), GEOMETRIES["small-112"]
ALL = STUDIES + plain(30)
PAIRS = 36
BAD = plain(30)[3]


def written(root: Path | str, folder: Path, **keys: Any) -> dict[str, Any]:
    recipe = keys.pop("recipe", RECIPE)
    spec = root if isinstance(root, str) else f"mimic:{root}"
    options: dict[str, Any] = {"intensity": "mimic-jpg", "shard": 5, "say": lambda _: None}
    geometry: Geometry = keys.pop("geometry", SMALL)
    return write_cache(open_dataset(spec, recipe), folder, recipe, geometry, **options | keys)


def content(folder: Path) -> dict[str, bytes]:
    """Shard facts hold the times of files, so they may differ between equal caches."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.match("pixels-*.json")}


def pictures_of(dataset: Dataset, geometry: Geometry = SMALL) -> list[np.ndarray[Any, Any]]:
    rows, pictures = load_pictures(dataset, list(dataset.rows), "mimic-jpg", geometry)
    assert rows == list(dataset.rows)
    return [pictures[i] for i in range(len(pictures))]


def check_same(one: Dataset, other: Dataset) -> None:
    for a, b in zip(one.rows, other.rows, strict=True):
        assert replace(a, image_path="", patient="") == replace(b, image_path="", patient="")
    for p, q in zip(pictures_of(one), pictures_of(other), strict=True):
        np.testing.assert_array_equal(p, q)
    for field in ("name", "label_columns", "intensity", "views", "notes"):
        assert getattr(one, field) == getattr(other, field)
