"""Writes a cache: shards in parallel, each whole or not there; the same call goes on after a kill.

A shard is kept when its pixels have their digest and the images it came from are of the same size
and time as then. So a mended image is decoded again, and nothing else. One that was exchanged for
another of the same size and time is not seen.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.files import write_atomic
from tier_infer.geometry import Geometry
from tier_infer.tables import csv_text
from tier_train.data.cache import (
    COLUMNS,
    FORMAT,
    LABEL,
    RESIZED_BY,
    json_bytes,
    read_index,
    read_json,
    sealed,
)
from tier_train.data.cache_shards import kept_shard, shard_jobs, write_shards
from tier_train.data.dataset import Dataset, Row
from tier_train.recipe import Recipe

try:
    import fcntl
except ImportError:  # Windows: it has no such locks, two writers are then the user's to keep apart
    fcntl = None  # type: ignore[assignment]

SHARD = 1024  # pictures, about 80 MB at a short side of 256
MAX_BAD = 0.05  # share of the images that may be left out without --skip-bad
ASPECT = 1.25  # long side by short side, of most films
TOLD = 20  # lines of progress
KEPT = ("number", "pictures", "bytes", "pixels_sha256", "index_sha256")  # of a shard's facts


def write_cache(
    dataset: Dataset,
    folder: Path,
    recipe: Recipe,
    geometry: Geometry,
    *,
    intensity: str,
    workers: int = 1,
    skip_bad: bool = False,
    shard: int = SHARD,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Writes what is missing of the cache in `folder`; returns the content of its cache.json.

    Raises UsageError when the folder holds something else, the disk is too small or more than
    MAX_BAD of the images are refused, when another process writes there, or the disk gets full.
    """
    if not dataset.rows:
        raise UsageError(f"{dataset.path} holds no pair, so there is nothing to cache")
    plan = _plan(dataset, recipe, geometry, intensity, shard)
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.callback(os.close, _lock(folder))
        except OSError as error:
            raise UsageError(f"-o {folder} can't be made ({error.strerror})") from None
        _claim(folder, plan)
        try:
            return _write(dataset, folder, plan, geometry, workers, skip_bad, say)
        except OSError as error:
            raise UsageError(
                f"{folder} can't be written ({error.strerror}), {_size(_free(folder))} are free "
                "without the half file; make room, and the same command goes on where it stopped"
            ) from None
        finally:
            _tidy(folder)


def _lock(folder: Path) -> int:
    """A handle that keeps other processes out until it is closed, also by a kill."""
    handle = os.open(folder, os.O_RDONLY) if fcntl else os.open(os.devnull, os.O_RDONLY)
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(handle)
            raise UsageError(
                f"another process is writing in {folder}; wait for it, or choose another folder"
            ) from None  # other errors: a file system without locks
    return handle


def _tidy(folder: Path) -> None:
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def _write(
    dataset: Dataset,
    folder: Path,
    plan: dict[str, Any],
    geometry: Geometry,
    workers: int,
    skip_bad: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    intensity, shard = plan["intensity"], plan["shard"]
    jobs = list(shard_jobs(dataset, folder, geometry, intensity, shard))
    done = {job.number: kept for job in jobs if (kept := kept_shard(job)) is not None}
    todo = [job for job in jobs if job.number not in done]
    _check_disk(folder, sum(len(job.images) for job in todo), geometry, say)
    if done:
        say(f"{len(done)} of {len(jobs)} shards are there already")
    if todo:  # a finished cache that is mended is none meanwhile
        (folder / "cache.json").unlink(missing_ok=True)
    total = len(dataset.rows)
    with contextlib.closing(write_shards(todo, workers)) as written:
        report = _progress(total, sum(map(_seen, done.values())), say)
        for facts in written:
            done[facts["number"]] = facts
            report(_seen(facts))
            _check_bad(dataset, done, skip_bad)
    _check_bad(dataset, done, skip_bad)  # also when nothing was to do
    return _finish(dataset, folder, plan, [done[job.number] for job in jobs])


def _plan(
    dataset: Dataset, recipe: Recipe, geometry: Geometry, intensity: str, shard: int
) -> dict[str, Any]:
    keys: tuple[str, ...] = ("views",)
    if dataset.kind == "mimic":
        seeded = ("split_seed",) if recipe.split_by == "patients" else ()
        keys = ("impressions", "split_by", *seeded, "views")
    return {
        "format": FORMAT,
        "source": {"kind": dataset.kind, "name": dataset.name, "sha256": dataset.sha256},
        "recipe": {key: getattr(recipe, key) for key in keys},
        "resized": {key: getattr(geometry, key) for key in RESIZED_BY},
        "intensity": intensity,
        "images": len(dataset.rows),
        "shard": shard,
    }


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan into a new folder; refuses a folder with another plan or other things."""
    path = folder / "plan.json"
    found = read_json(path.read_bytes()) if path.is_file() else None
    if found is None and any(folder.iterdir()):
        raise UsageError(f"-o {folder} is not empty and holds no cache; choose another folder")
    if found is not None and found != plan:
        changed = [key for key in plan if found.get(key) != plan[key]] or ["version"]
        raise UsageError(
            f"-o {folder} holds a cache of another {', '.join(changed)}; choose another folder, or "
            "delete this one"
        )
    _tidy(folder)  # after a run that was killed
    write_atomic(path, json_bytes(plan))


def _check_disk(folder: Path, count: int, geometry: Geometry, say: Callable[[str], None]) -> None:
    aspect = ASPECT if geometry.rule == "short-side" else 1.0
    need, free = round(count * geometry.resize**2 * aspect), _free(folder)
    if count:
        say(f"{count} pictures need about {_size(need)} in {folder}, {_size(free)} are free")
    if need > free:
        raise UsageError(
            f"the disk of {folder} has {_size(free)} free, the cache needs about {_size(need)}; "
            "choose another disk with -o, or smaller pictures with --size"
        )


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _seen(facts: dict[str, Any]) -> int:
    return int(facts["pictures"]) + len(facts["left_out"])


def _progress(total: int, before: int, say: Callable[[str], None]) -> Callable[[int], None]:
    """Says how far it is, TOLD times at most."""
    start, seen, told = time.monotonic(), before, before * TOLD // max(total, 1)

    def report(count: int) -> None:
        nonlocal seen, told
        seen += count
        if seen * TOLD // total > told:
            told = seen * TOLD // total
            rate = (seen - before) / max(time.monotonic() - start, 1e-9)
            say(f"{seen} of {total} images, {rate:.0f} a second")

    return report


def _check_bad(dataset: Dataset, done: dict[int, dict[str, Any]], skip_bad: bool) -> None:
    """As soon as it is known: the rest could take hours."""
    bad = [entry for facts in done.values() for entry in facts["left_out"]]
    total = len(dataset.rows)
    if len(bad) > MAX_BAD * total and not skip_bad:
        line, why = min(bad)
        raise UsageError(
            f"{len(bad)} of {total} images are refused, more than {MAX_BAD:.0%}; the first is line "
            f"{line}: {why}. Mend them and give the same command again, which keeps what is done, "
            "or leave them out with --skip-bad"
        )


def _finish(
    dataset: Dataset, folder: Path, plan: dict[str, Any], shards: list[dict[str, Any]]
) -> dict[str, Any]:
    left_out = [entry for facts in shards for entry in facts["left_out"]]
    by_line = {row.number: row for row in dataset.rows}
    # Of the lines that the pictures were written with: nothing else pairs them with texts.
    rows = [by_line[line] for facts in shards for line in read_index(folder, facts)[:, 0].tolist()]
    if not rows:
        raise UsageError(f"all {len(left_out)} images are refused, the first: {left_out[0][1]}")
    table = csv_text(_table(rows, dataset.label_columns)).encode()
    write_atomic(folder / "rows.csv", table)
    write_atomic(folder / "left_out.csv", csv_text([("line", "reason"), *left_out]).encode())
    bad = [f"left out, image refused: {len(left_out)} (see left_out.csv)"] if left_out else []
    facts: dict[str, Any] = {
        "plan": plan,
        "rows_sha256": hashlib.sha256(table).hexdigest(),
        "pictures": len(rows),
        "left_out": len(left_out),
        "views": [view for view in dataset.views if view != "lateral" or _any_lateral(rows)],
        "notes": [*dataset.notes, *bad],
        "shards": [{key: facts[key] for key in KEPT} for facts in shards],
    }
    facts = sealed(facts)
    write_atomic(folder / "cache.json", json_bytes(facts))
    return facts


def _table(rows: list[Row], labels: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    yield (*COLUMNS, *(LABEL + name for name in labels))
    patients: dict[str, int] = {}
    for row in rows:
        patient = patients.setdefault(row.patient, len(patients) + 1)
        known = (row.labels.get(name, "") for name in labels)
        yield (row.number, row.split, row.view, patient, row.text, *known)


def _any_lateral(rows: list[Row]) -> bool:
    return any(row.view == "lateral" for row in rows)
