"""What an interrupted run continues from: `<stem>.state.pt`, beside the checkpoint to be.

Written whole or not at all at every validation, deleted when the run is complete. Tensors and
plain values, loaded with a literal `weights_only=True`. Randomness is not in it: every step seeds
its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.files import sync_folder
from tier_train.recipe import Recipe
from tier_train.towers.frozen_text import sweep_tables

FORMAT = "tier-cxr-state/1"
FIELDS = {
    "format", "identity", "recipe", "tokenizer", "files", "step", "model", "optimizer", "scaler",
    "recent", "metrics", "seconds", "areas", "val_loss", "alarm", "ranking", "processes",
}  # fmt: skip


def beside(output: Path, name: str) -> Path:
    """What belongs to this checkpoint: exp.lr1 and exp.lr2 share nothing, exp.pt has exp.csv."""
    return output.with_name(f"{output.name.removesuffix('.pt')}.{name}")


def state_path(output: Path) -> Path:
    return beside(output, "state.pt")


def identity(recipe: Recipe, facts: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's outcome: recipe (resolved) and data. No path is in it."""
    table = asdict(recipe)
    del table["name"]
    for key in ("image_file", "text_folder"):
        table[key] = Path(table[key]).name
    named = ("data", "validation_data", "views")
    return table | {key: value for key, value in facts.items() if key not in named}


def fingerprint(table: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def save_state(path: Path, table: dict[str, Any]) -> None:
    """Raises OSError; the state of before is whole then, and no other file left."""
    write_whole(path, lambda file: torch.save({"format": FORMAT, **table}, file))


def load_state(path: Path, expected: dict[str, Any]) -> dict[str, Any] | None:
    """None where there is no file. Raises IntegrityError for one that is no state, UsageError for
    the state of another run than `expected`, the identity of this one."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise IntegrityError(
            f"{path} holds pickled code or objects, not a training state"
        ) from None
    except Exception as error:  # damaged pickles end in any of a dozen
        raise IntegrityError(f"{path} is no complete state ({type(error).__name__})") from None
    if damaged or not isinstance(table, dict) or table.get("format") != FORMAT:
        raise IntegrityError(f"{path} is damaged or not a training state of this version")
    if set(table) != FIELDS:
        raise IntegrityError(f"{path} is not a training state of this version ({FORMAT})")
    there = table["identity"]
    if other := [key for key in expected if there.get(key) != expected[key]]:
        key = other[0]
        raise UsageError(
            f"{path} is the state of another run: its {key} is {there.get(key)!r}, here it is "
            f"{expected[key]!r}; start anew without --resume, or name another -o"
        )
    return table


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """files.write_atomic for what need not fit into memory twice: 110 million weights and their
    two moments are 1.3 GB."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch's writer stumbles over its own clean-up and hides why
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        words = f"can't be written ({reason.strerror})"
        raise OSError(reason.errno, words, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sweep(output: Path) -> None:
    """Removes what a killed process was about to write: `.<name>.<pid>.tmp` of this run's files."""
    first = re.escape(beside(output, "").name)
    kinds = r"state\.pt|metrics(\.part)?\.csv|curves\.png|recipe\.toml"
    ours = re.compile(rf"\.({re.escape(output.name)}|{first}({kinds}))\.\d+\.tmp")
    for path in output.parent.glob(".*.tmp"):
        if ours.fullmatch(path.name):
            path.unlink(missing_ok=True)
    for path in beside(output, "best.part").glob(".*.tmp"):
        path.unlink(missing_ok=True)
    sweep_tables(output.parent)


@contextlib.contextmanager
def saving(output: Path, step: int) -> Iterator[None]:
    """Turns a full disk into a sentence; `step` is that of the last whole state, 0 for none."""
    try:
        yield
    except OSError as error:
        again = f"continue from step {step} with --resume" if step else "start again"
        raise UsageError(
            f"{error.filename or output} {error.strerror}; what was written before is whole: make "
            f"room, then {again}"
        ) from None
