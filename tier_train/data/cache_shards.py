"""The shards of a cache: which are there, and the processes that write the others."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
import time
import zlib
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tier_infer.errors import IntegrityError, RefusedImage, UsageError
from tier_infer.files import sha256_of, sync_folder, write_atomic
from tier_infer.geometry import Geometry
from tier_train.data.cache import (
    is_sealed,
    json_bytes,
    pixels_path,
    read_index,
    read_json,
    sealed,
)
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


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def kept_shard(job: Job) -> dict[str, Any] | None:
    """The facts of a shard that is there, whole and of these images; else None.

    Its pictures and those left out must be exactly the job's, or a picture got another's text.
    """
    try:
        known = read_json(pixels_path(job.folder, job.number, ".json").read_bytes())
        if not is_sealed(known) or known["inputs"] != job.inputs or known["number"] != job.number:
            return None
        lines = read_index(job.folder, known)[:, 0].tolist()
        gone = {line for line, _ in known["left_out"]}
        if lines != [line for line, _ in job.images if line not in gone]:
            return None
        if len(lines) + len(known["left_out"]) != len(job.images):
            return None
        same = sha256_of(pixels_path(job.folder, job.number)) == known["pixels_sha256"]
        return known if same else None
    except (OSError, ValueError, LookupError, TypeError, IntegrityError):
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
    temporary = job.folder / f".{pixels_path(job.folder, job.number).name}.{os.getpid()}.tmp"
    try:
        return _write_shard(job, temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _write_shard(job: Job, temporary: Path) -> dict[str, Any]:
    pixels = pixels_path(job.folder, job.number)
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
            table.append((line, at, *grey.shape, zlib.crc32(data)))
            at += len(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(pixels)
    sync_folder(job.folder)
    index = io.BytesIO()
    np.save(index, np.array(table, np.int64).reshape(-1, 5))
    write_atomic(pixels_path(job.folder, job.number, ".npy"), index.getvalue())
    facts: dict[str, Any] = {
        "number": job.number,
        "inputs": job.inputs,
        "pixels_sha256": digest.hexdigest(),
        "index_sha256": hashlib.sha256(index.getvalue()).hexdigest(),
        "bytes": at,
        "pictures": len(table),
        "left_out": left_out,
    }
    facts = sealed(facts)
    write_atomic(pixels_path(job.folder, job.number, ".json"), json_bytes(facts))
    return facts
