"""Pictures decoded once: a folder of memory-mapped uint8, written by cache_writer.

plan.json          what is to be written: source, its digest, short side and filter, recipe keys
pixels-00000.u8    pictures one after the other, one byte per pixel, row by row
pixels-00000.npy   int64 [n, 5]: line in the source's table, offset, height, width, CRC-32
pixels-00000.json  digests and sizes of these two and of the files they come from, who was left out
rows.csv           line, split, view, patient, text and labels of every picture, in the same order
left_out.csv       line and reason of every image that could not be decoded
cache.json         the plan, the digests of the rest and of itself, counts. It comes last: without
                   it there is no cache yet

Patients are running numbers and no path or id of the source is kept. Equal inputs, equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.big_tables import known_labels, read_table
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.geometry import Geometry
from tier_infer.intensity import PRESETS
from tier_train.data.dataset import Dataset, Row
from tier_train.recipe import Recipe

FORMAT = "tier-cache/2"
COLUMNS = ("line", "split", "view", "patient", "text")
LABEL = "label:"  # before the names of the label columns
KEYS = ("impressions", "split_by", "split_seed", "views")  # of the recipe, in a plan
SPLITS, VIEWS = ("train", "val", "test"), ("frontal", "lateral")
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
        numbers = number.isdecimal() and patient.isdecimal()
        if split not in SPLITS or view not in ("", *VIEWS) or not numbers:
            raise _damaged(table)
        known = known_labels(table, line, cells, labels)
        rows.append(Row(str(index), split, text, known, int(number), patient, view))
    if len(rows) != facts["pictures"]:
        raise _damaged(table)
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
    facts = read_json(raw)
    plan = facts.get("plan")
    if isinstance(plan, dict) and plan.get("format", FORMAT) != FORMAT:
        raise UsageError(f"{folder} is no cache of format {FORMAT}; write it again elsewhere")
    if not is_sealed(facts) or not _is_whole(facts):
        raise _damaged(folder / "cache.json")
    return facts, raw


def read_json(raw: bytes) -> dict[str, Any]:
    """{} where it is no JSON object."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def sealed(facts: dict[str, Any]) -> dict[str, Any]:
    """With a digest of itself, as a changed digit would otherwise still be a fact."""
    return facts | {"sha256": hashlib.sha256(json_bytes(facts)).hexdigest()}


def is_sealed(facts: dict[str, Any]) -> bool:
    body = {key: value for key, value in facts.items() if key != "sha256"}
    return facts == sealed(body)


def _is_whole(facts: dict[str, Any]) -> bool:
    """All fields there, of their types and among what is allowed."""
    try:
        plan, shards, views, notes = (facts[k] for k in ("plan", "shards", "views", "notes"))
        recipe, resized = plan["recipe"], plan["resized"]
        texts = [facts["rows_sha256"], *(plan["source"][k] for k in ("kind", "name", "sha256"))]
        counts = [plan["images"], plan["shard"], facts["pictures"], len(shards)]
        counts += [shard[k] for shard in shards for k in ("bytes", "pictures")]
        texts += [shard[k] for shard in shards for k in ("pixels_sha256", "index_sha256")]
        return (
            all(isinstance(text, str) for text in [*texts, *notes])
            and all(type(count) is int and count >= 0 for count in [*counts, facts["left_out"]])
            and min(counts[:4]) > 0
            and [shard["number"] for shard in shards] == list(range(len(shards)))
            and set(recipe) <= set(KEYS)
            and "views" in recipe
            and all(type(value) is type(getattr(Recipe(), key)) for key, value in recipe.items())
            and set(resized) == set(RESIZED_BY)
            and plan["intensity"] in PRESETS
            and isinstance(views, list)
            and len(views) > 0
            and set(views) <= set(VIEWS)
        )
    except (TypeError, LookupError, AttributeError):
        return False


def cached_pictures(
    dataset: Dataset, rows: list[Row], intensity: str, geometry: Geometry
) -> CachedPictures:
    """Refuses a geometry or an intensity preset that the cache was not written for, and a cache
    where rows and pictures do not belong together."""
    check_use(dataset, intensity, geometry)
    facts, _ = read_facts(dataset.path)
    tables = [read_index(dataset.path, shard) for shard in facts["shards"]]
    table = np.concatenate(tables)
    at = np.array([int(row.image_path) for row in dataset.rows], np.int64)
    lines = np.array([row.number for row in dataset.rows], np.int64)
    if len(table) != facts["pictures"] or not np.array_equal(table[at, 0], lines):
        raise _damaged(dataset.path / "cache.json")
    table[:, 0] = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
    return CachedPictures(dataset.path, table[[int(row.image_path) for row in rows]])


def check_use(dataset: Dataset, intensity: str, geometry: Geometry) -> None:
    plan = read_facts(dataset.path)[0]["plan"]
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


class CachedPictures:
    """uint8 [h, w] copied out of the mapped files and compared with its checksum."""

    def __init__(self, folder: Path, places: NDArray[np.int64]) -> None:
        self.folder = folder
        self.places = places  # int64 [N, 5]: shard, offset, height, width, CRC-32

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        shard, offset, height, width, checksum = self.places[index].tolist()
        flat = np.array(self._maps[shard][offset : offset + height * width])
        if zlib.crc32(flat.data) != checksum:
            raise _damaged(pixels_path(self.folder, shard))
        return flat.reshape(height, width)

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
    return json.dumps(table, indent=1, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"


def read_index(folder: Path, shard: dict[str, Any]) -> NDArray[np.int64]:
    """int64 [n, 5] of one shard: line, offset, height, width, CRC-32.

    Raises IntegrityError where it is not as written, or its pictures do not fill the file exactly:
    so a map never ends early.
    """
    path, pixels = (pixels_path(folder, shard["number"], s) for s in (".npy", ".u8"))
    raw = _bytes(path)
    if hashlib.sha256(raw).hexdigest() != shard["index_sha256"]:
        raise _damaged(path)
    table: NDArray[np.int64] = np.load(io.BytesIO(raw), allow_pickle=False)
    sizes = table[:, 2] * table[:, 3]
    if len(table) != shard["pictures"] or not np.array_equal(table[:, 1], sizes.cumsum() - sizes):
        raise _damaged(path)
    if not pixels.is_file() or not sizes.sum() == pixels.stat().st_size == shard["bytes"]:
        raise _damaged(pixels)
    return table


def _check_recipe(written: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    for key, value in written.items():
        asked = getattr(recipe, key)
        # laterals can still be left out, unless that changes who is held out
        narrower = key == "views" and value == "all" and written.get("split_by") != "released_code"
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
