"""The shards of a cache: which are there, and the processes that write the others."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tier_infer.errors import RefusedImage, UsageError
from tier_infer.files import sync_folder, write_atomic
from tier_infer.geometry import Geometry
from tier_train.data.cache import json_bytes, pixels_path
from tier_train.data.dataset import Dataset
from tier_train.data.pictures import decode


@dataclass(frozen=True)
class Job:
    """One shard. `images`: line in the source's table and path below `root`."""

    folder: Path
    number: int
    root: Path
    images: tuple[tuple[int, str], ...]
    inputs: str
    intensity: str
    geometry: Geometry


def shard_jobs(
    dataset: Dataset, folder: Path, geometry: Geometry, intensity: str, shard: int
) -> Iterator[Job]:
    rows = dataset.rows
    for number, start in enumerate(range(0, len(rows), shard)):
        images = tuple((row.number, row.image_path) for row in rows[start : start + shard])
        digest = hashlib.sha256()
        for line, path in images:
            digest.update(f"{line} {path} {_stamp(dataset.folder / path)}\n".encode())
        inputs = digest.hexdigest()
        yield Job(folder, number, dataset.folder, images, inputs, intensity, geometry)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def kept_shard(job: Job) -> dict[str, Any] | None:
    """The facts of a shard that is there, whole and of these images; else None."""
    pixels, index, facts = (
        pixels_path(job.folder, job.number, s) for s in (".u8", ".npy", ".json")
    )
    try:
        known: dict[str, Any] = json.loads(facts.read_bytes())
        with pixels.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == known["pixels_sha256"]
        same &= hashlib.sha256(index.read_bytes()).hexdigest() == known["index_sha256"]
        return known if same and known["inputs"] == job.inputs else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_shards(todo: list[Job], workers: int) -> Generator[dict[str, Any]]:
    """Facts of each shard as it gets ready. Closing it ends the processes at once."""
    if workers == 1 or len(todo) < 2:
        yield from map(write_shard, todo)
        return
    context = multiprocessing.get_context("spawn")  # the caller may have threads
    with ProcessPoolExecutor(workers, context, _follow, (os.getpid(),)) as pool:
        futures = [pool.submit(write_shard, job) for job in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UsageError(
                "a worker process was killed, most likely for its memory; the same command goes on "
                "where it stopped, with fewer of them: --workers N"
            ) from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()  # the pool then gives up what is left
            raise


def _follow(parent: int) -> None:
    """In a worker: Ctrl-C is the parent's to answer, and no worker outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_shard(job: Job) -> dict[str, Any]:
    """Its three files, the facts last; returns the facts."""
    pixels = pixels_path(job.folder, job.number)
    temporary = job.folder / f".{pixels.name}.{os.getpid()}.tmp"
    table, left_out, digest, at = [], [], hashlib.sha256(), 0
    with temporary.open("wb") as file:
        for line, path in job.images:
            try:
                grey = decode(job.root / path, job.intensity, job.geometry)
            except RefusedImage as refusal:
                left_out.append([line, str(refusal)])
                continue
            data = grey.tobytes()
            digest.update(data)
            file.write(data)
            table.append((line, at, *grey.shape))
            at += len(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(pixels)
    sync_folder(job.folder)
    index = io.BytesIO()
    np.save(index, np.array(table, np.int64).reshape(-1, 4))
    write_atomic(pixels_path(job.folder, job.number, ".npy"), index.getvalue())
    facts = {
        "number": job.number,
        "inputs": job.inputs,
        "pixels_sha256": digest.hexdigest(),
        "index_sha256": hashlib.sha256(index.getvalue()).hexdigest(),
        "bytes": at,
        "pictures": len(table),
        "left_out": left_out,
    }
    write_atomic(pixels_path(job.folder, job.number, ".json"), json_bytes(facts))
    return facts
