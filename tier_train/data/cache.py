"""Pictures decoded once: a folder of memory-mapped uint8, written by cache_writer.

plan.json          what is to be written: source, its digest, short side and filter, recipe keys
pixels-00000.u8    pictures one after the other, one byte per pixel, row by row
pixels-00000.npy   int64 [n, 4]: line in the source's table, offset, height, width
pixels-00000.json  digests and sizes of these two and of the files they come from, who was left out
rows.csv           line, split, view, patient, text and labels of every picture, in the same order
left_out.csv       line and reason of every image that could not be decoded
cache.json         the plan, the digests of the rest and its counts. It comes last: without it
                   there is no cache yet

Patients are running numbers and no path or id of the source is kept. Equal inputs, equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.geometry import Geometry
from tier_train.data.big_tables import known_labels, read_table
from tier_train.data.dataset import Dataset, Row
from tier_train.recipe import Recipe

FORMAT = "tier-cache/1"
COLUMNS = ("line", "split", "view", "patient", "text")
LABEL = "label:"  # before the names of the label columns
RESIZED_BY = ("resize", "rule", "filter", "high_byte")  # the geometry's part in a cached picture


def read_cache(folder: Path, recipe: Recipe) -> Dataset:
    """The rows as the source gave them, but for patients and paths.

    Raises UsageError where there is no cache or one for another recipe, IntegrityError where its
    files are not those that were written.
    """
    facts, raw = read_facts(folder)
    _check_recipe(facts["plan"]["recipe"], recipe, folder)
    table = folder / "rows.csv"
    if hashlib.sha256(_bytes(table)).hexdigest() != facts["rows_sha256"]:
        raise _damaged(table)
    columns, lines = read_table(table, COLUMNS)
    at = [columns.index(c) for c in COLUMNS]
    labels = [(i, c.removeprefix(LABEL)) for i, c in enumerate(columns) if c.startswith(LABEL)]
    rows = []
    for index, (line, cells) in enumerate(lines):
        number, split, view, patient, text = (cells[i] for i in at)
        known = known_labels(table, line, cells, labels)
        rows.append(Row(str(index), split, text, known, int(number), patient, view))
    plan = facts["plan"]
    return Dataset(
        path=folder,
        name=plan["source"]["name"],
        rows=tuple(rows),
        label_columns=tuple(name for _, name in labels),
        intensity=plan["intensity"],
        views=tuple(facts["views"]),
        sha256=hashlib.sha256(raw).hexdigest(),
        kind="cache",
        notes=tuple(facts["notes"]),
    )


def read_facts(folder: Path) -> tuple[dict[str, Any], bytes]:
    """cache.json and its bytes."""
    if not (folder / "cache.json").is_file():
        if (folder / "plan.json").is_file():
            raise UsageError(
                f"the cache in {folder} is not finished; the same `tier-train data cache` command "
                "goes on where it stopped"
            )
        raise UsageError(f"{folder} holds no cache.json; `tier-train data cache` writes a cache")
    raw = _bytes(folder / "cache.json")
    try:
        facts = json.loads(raw)
        known = facts["plan"]["format"] == FORMAT and len(facts["shards"]) > 0
    except (ValueError, TypeError, LookupError):
        raise _damaged(folder / "cache.json") from None
    if not known:
        raise UsageError(f"{folder} is no cache of format {FORMAT}; write it again elsewhere")
    return facts, raw


def cached_pictures(
    dataset: Dataset, rows: list[Row], intensity: str, geometry: Geometry
) -> CachedPictures:
    """Refuses a geometry or an intensity preset that the cache was not written for."""
    facts, _ = read_facts(dataset.path)
    plan = facts["plan"]
    wanted = {key: getattr(geometry, key) for key in RESIZED_BY}
    if plan["resized"] != wanted:
        raise UsageError(
            f"the cache in {dataset.path} holds pictures of {_words(plan['resized'])}, geometry "
            f"{geometry.name} needs {_words(wanted)}; write one with `tier-train data cache` and "
            "this run's --recipe and --set"
        )
    if plan["intensity"] != intensity:
        raise UsageError(
            f"the cache in {dataset.path} was written with intensity {plan['intensity']}, the "
            f"recipe names {intensity}; leave it out, or write another cache"
        )
    table = np.concatenate([_index(dataset.path, shard) for shard in facts["shards"]])
    if len(table) != facts["pictures"]:
        raise _damaged(dataset.path / "cache.json")
    return CachedPictures(dataset.path, table[[int(row.image_path) for row in rows]])


class CachedPictures:
    """uint8 [h, w] copied out of the mapped files."""

    def __init__(self, folder: Path, places: NDArray[np.int64]) -> None:
        self.folder = folder
        self.places = places  # int64 [N, 4]: shard, offset, height, width

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        shard, offset, height, width = self.places[index].tolist()
        flat = self._maps[shard][offset : offset + height * width]
        return np.array(flat).reshape(height, width)

    @cached_property
    def _maps(self) -> dict[int, NDArray[np.uint8]]:
        """Mapped once per process; a file stays mapped when it is closed."""
        shards = np.unique(self.places[:, 0]).tolist()
        return {n: np.memmap(pixels_path(self.folder, n), np.uint8, "r") for n in shards}

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedPictures, (self.folder, self.places)  # a pickled map would be its content


def pixels_path(folder: Path, number: int, suffix: str = ".u8") -> Path:
    return folder / f"pixels-{number:05d}{suffix}"


def json_bytes(table: dict[str, Any]) -> bytes:
    return json.dumps(table, indent=1, ensure_ascii=False).encode() + b"\n"


def _index(folder: Path, shard: dict[str, Any]) -> NDArray[np.int64]:
    """int64 [n, 4]: shard, offset, height, width. Sizes are compared, so a map never ends early."""
    number = shard["number"]
    path = pixels_path(folder, number, ".npy")
    if hashlib.sha256(_bytes(path)).hexdigest() != shard["index_sha256"]:
        raise _damaged(path)
    pixels = pixels_path(folder, number)
    if not pixels.is_file() or pixels.stat().st_size != shard["bytes"]:
        raise _damaged(pixels)
    table: NDArray[np.int64] = np.load(path, allow_pickle=False)
    table[:, 0] = number
    return table


def _check_recipe(written: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    for key, value in written.items():
        asked = getattr(recipe, key)
        # laterals can still be left out, unless that changes who is held out
        narrower = key == "views" and value == "all" and written["split_by"] != "released_code"
        if asked != value and not narrower:
            raise UsageError(
                f"the cache in {folder} was written with {key} = {value!r}, the recipe has "
                f"{asked!r}; train with --set {key}={value}, or write another cache with --set "
                f"{key}={asked}"
            )


def _words(resized: dict[str, Any]) -> str:
    side = "long side" if resized["rule"] == "long-side" else "side"
    side = "short side" if resized["rule"] == "short-side" else side
    return f"{side} {resized['resize']} ({resized['rule']}, {resized['filter']})"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise _damaged(path) from None


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path} is missing or not as `tier-train data cache` wrote it; the same command mends it"
    )
