"""A model repository appears whole, or the one before stays; see `writing`, whose renames it uses.

Only what an export wrote is replaced: every file is in tier-triton.json, with its hash. A server's
administrator may have changed a config.pbtxt, and that must not be lost.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tier_export.triton import LISTING, SCHEMA, Files
from tier_export.writing import (
    _alone,
    _content,
    _old,
    _recover,
    _remove,
    _swap,
    _sync_folders,
    check_writable,
)
from tier_infer.bundle import MAX_MANIFEST_BYTES
from tier_infer.errors import UsageError
from tier_infer.files import sha256_of, write_atomic


def check_out(target: Path, bundle: Path) -> None:
    """What OUT may name: nothing yet, an empty folder, or an unchanged repository of ours."""
    if target.name in ("", ".."):
        raise UsageError(f"OUT {target} has no name of its own; choose one like models")
    if target.is_symlink():
        raise UsageError(f"OUT {target} is a symbolic link; name the folder that it leads to")
    inside, outside = target.resolve(), bundle.resolve()
    if inside == outside or outside in inside.parents:
        raise UsageError(f"OUT {target} lies in the bundle; a bundle holds its own files")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"OUT {target}: its folder can't be written; choose another one")
    if os.path.ismount(target):
        raise UsageError(f"OUT {target} is a mount point; choose a folder in it: {target}/models")
    _replaceable(target)


def write_repository(target: Path, files: Files) -> None:
    """The target changes at the very end, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), _old(target)
    with _alone(target.parent):
        _recover(target)
        _remove(fresh)
        _remove(old)
        _replaceable(target)
        try:
            fresh.mkdir()
            for name, data in files.items():
                write_atomic(fresh / name, data)
            _replaceable(fresh)  # read back
            _sync_folders(fresh)
            _swap(fresh, target, old)
        finally:
            _remove(fresh)
            if target.exists():
                _remove(old)


def _replaceable(target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        with (target / LISTING).open("rb") as file:
            table = json.loads(file.read(MAX_MANIFEST_BYTES))
        if table["schema"] != SCHEMA:
            raise ValueError
        listed = {str(name): str(row["sha256"]) for name, row in table["files"].items()}
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        raise UsageError(
            f"OUT {target} exists and is no model repository that tier-export wrote; choose "
            "another name, or move it away"
        ) from None
    check_writable(target)
    for name, path in _content(target):
        if name == LISTING:
            continue
        if name not in listed or path.is_symlink() or sha256_of(path) != listed[name]:
            raise UsageError(
                f"OUT {target} holds {name}, which no export wrote like that; keep what you "
                "changed, move the folder away and export again"
            )
