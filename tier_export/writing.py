"""A bundle appears under its name whole, or the one before stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tier_infer.bundle import Manifest, load_bundle
from tier_infer.errors import UsageError
from tier_infer.files import sync_folder, write_atomic

Files = dict[str, bytes]


def check_target(target: Path) -> None:
    """Only a bundle is ever replaced: -o must not delete somebody's folder."""
    if not target.name or target.is_symlink():
        raise UsageError(f"-o {target} has no name of its own; choose one like -o bundle")
    is_bundle = (target / "manifest.json").is_file()
    if target.exists() and not is_bundle and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is no bundle; choose another name with -o")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"-o {target}: its folder can't be written")


def write_bundle(target: Path, manifest: Manifest, files: Files, keep: bool = False) -> None:
    """Everything into a folder beside the target, read back, then renamed: the old one or none.

    `keep`: what the old bundle holds and `files` does not name comes along, as hard links.
    """
    fresh = target.with_name(f".{target.name}.new")
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():  # an export was killed between its two renames
        old.rename(target)
    for left_over in (fresh, old):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        if keep:
            shutil.copytree(target, fresh, copy_function=_link)
        for name, data in files.items():
            write_atomic(fresh / name, data)
        write_atomic(fresh / "manifest.json", manifest.to_json().encode())
        load_bundle(fresh)
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(target.parent)


def _link(source: str, target: str) -> None:
    """One file under two names until the old folder goes; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
