"""--data KIND:PATH → a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tier_infer.big_tables import read_table
from tier_infer.errors import UsageError
from tier_train.data.cache import read_cache
from tier_train.data.chexpert import read_chexpert
from tier_train.data.dataset import Dataset
from tier_train.data.manifest import read_manifest
from tier_train.data.mimic import LATERAL, Tally, read_mimic
from tier_train.recipe import Recipe

READ = ("manifest", "mimic", "cache", "chexpert")
KINDS = "manifest:FILE.csv, mimic:ROOT[,reports=DIR], cache:DIR or chexpert:FILE.csv"


def open_dataset(spec: str, recipe: Recipe, skip_bad: bool = False) -> Dataset:
    """Rows of the dataset that `spec` names, as KINDS; raises UsageError and what the kind raises.

    skip_bad leaves out manifest rows without an image. recipe.views = "frontal" leaves out
    laterals, of every kind.
    """
    return open_counted(spec, recipe, skip_bad)[0]


def open_counted(spec: str, recipe: Recipe, skip_bad: bool = False) -> tuple[Dataset, Tally]:
    """The same, and what is no pair by which rule."""
    kind, path, reports = split_spec(spec)
    tally = Tally()
    if kind == "mimic":
        return read_mimic(path, recipe, reports)
    readers: dict[str, Callable[[], Dataset]] = {
        "manifest": lambda: read_manifest(path, skip_bad),
        "cache": lambda: read_cache(path, recipe),
        "chexpert": lambda: read_chexpert(path),
    }
    dataset = readers[kind]()
    if recipe.views == "frontal":
        dataset = _frontal(dataset, tally)
    return dataset, tally


def _frontal(dataset: Dataset, tally: Tally) -> Dataset:
    rows = [r for r in dataset.rows if tally.keep(r.view != "lateral", LATERAL, r.number)]
    if not rows:
        raise UsageError(f"{dataset.path} holds laterals only; --set views=all keeps them")
    return replace(
        dataset,
        rows=tuple(rows),
        views=("frontal",),
        sha256=hashlib.sha256(f"{dataset.sha256} frontal".encode()).hexdigest(),
        notes=(*dataset.notes, *tally.notes()),
    )


def split_spec(spec: str) -> tuple[str, Path, Path | None]:
    """kind, path and the second root of mimic:ROOT,reports=DIR; both must exist."""
    kind, colon, rest = spec.partition(":")
    if kind not in READ or not colon or not rest:
        raise UsageError(f"--data takes {KINDS}, got {spec!r}")
    place, _, reports = rest.partition(",reports=") if kind == "mimic" else (rest, "", "")
    folder = kind in ("mimic", "cache")
    path = Path(place)
    if not (path.is_dir() if folder else path.is_file()):
        raise UsageError(f"--data {spec}: no {'folder' if folder else 'file'} {place}")
    if reports and not Path(reports).is_dir():
        raise UsageError(f"--data {spec}: no folder {reports}")
    return kind, path, Path(reports) if reports else None


def guess_spec(place: str) -> str:
    """KIND:PATH of a root or a table, by what it holds; one that is given is left alone."""
    kind, colon, _ = place.partition(":")
    if colon and kind in READ:
        return place
    path = Path(place)
    if path.is_dir():
        if (path / "cache.json").is_file() or (path / "plan.json").is_file():
            return f"cache:{place}"
        if any(path.glob("mimic-cxr-2.*-metadata.csv*")):
            return f"mimic:{place}"
        if (path / "manifest.csv").is_file():
            return f"manifest:{path / 'manifest.csv'}"
        raise UsageError(
            f"{place} holds no mimic-cxr-2.*-metadata.csv[.gz], no manifest.csv and no cache.json; "
            f"name a table, or give one of {KINDS}"
        )
    if not path.is_file():
        raise UsageError(f"no file or folder {place}")
    columns, _ = read_table(path, ())
    return f"{'chexpert' if 'Path' in columns else 'manifest'}:{place}"
