"""A bundle appears under its name whole, or the one before stays.

Everything is written and synced in a folder beside the target, `.bundle.new`, and read back. Then
two renames, `bundle` → `.bundle.old` and `.bundle.new` → `bundle`; between them there is no bundle,
and `recover` puts the old one back if a kill came just there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tier_infer.bundle import MAX_MANIFEST_BYTES, Manifest, load_bundle, parse_manifest
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.files import sync_folder, write_atomic

Files = dict[str, bytes]
# No manifest lists them: see `tier_infer.trt.store`. With another encoder they go.
ENGINE_FILE = r"engines/sm\d+-(?:trt|rtx)[\d.]+-fp(?:16|32)\.(?:engine|json|seal)"


def check_target(target: Path) -> str | None:
    """What -o may name: nothing yet, an empty folder, or a bundle; of that one the bundle_sha256.

    Only what an export wrote is ever replaced: -o must not delete somebody's work.
    """
    if target.name in ("", ".."):
        raise UsageError(f"-o {target} has no name of its own; choose one like -o bundle")
    if target.is_symlink():
        raise UsageError(f"-o {target} is a symbolic link; name the folder that it leads to")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"-o {target}: its folder can't be written; choose another one")
    if os.path.ismount(target):
        raise UsageError(f"-o {target} is a mount point; choose a folder in it: {target}/bundle")
    recover(target)
    return _replaceable(target)


def check_writable(target: Path) -> None:
    if not os.access(target, os.W_OK):
        raise UsageError(f"{target} is read-only; copy it, or choose another name")


def recover(target: Path) -> None:
    """Puts back the bundle that a process killed between its two renames took away."""
    if target.parent.is_dir() and not target.exists():
        with _alone(target.parent):
            _recover(target)


def write_bundle(
    target: Path, manifest: Manifest, files: Files, keep: Manifest | None = None
) -> None:
    """Writes `files` and the manifest; the target changes at the very end, or not at all.

    `keep`, the manifest that the caller read at `target`: what that bundle holds and `files` does
    not name comes along, as hard links, but for files that `keep` lists and `manifest` does not.
    UsageError where another command has changed it since.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), _old(target)
    with _alone(target.parent):
        _recover(target)
        _remove(fresh)
        _remove(old)
        if keep:
            check_writable(target)
            _check_unchanged(target, keep)
        else:
            _replaceable(target)  # again: an export takes minutes
        try:
            fresh.mkdir()
            if keep:
                gone = _names(keep) - _names(manifest)
                _bring_along(target, fresh, {*files, "manifest.json", *gone})
            for name, data in files.items():
                write_atomic(fresh / name, data)
            write_atomic(fresh / "manifest.json", manifest.to_json().encode())
            load_bundle(fresh, unused=True)
            _sync_folders(fresh)
            _swap(fresh, target, old)
        finally:
            _remove(fresh)
            if target.exists():
                _remove(old)


def _recover(target: Path) -> None:
    old = _old(target)
    if old.is_dir() and not old.is_symlink() and not target.exists():
        old.rename(target)


def _swap(fresh: Path, target: Path, old: Path) -> None:
    try:
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except BaseException:  # Ctrl-C, too
        _recover(target)
        raise
    sync_folder(target.parent)  # before the old one is deleted


def _replaceable(target: Path) -> str | None:
    """bundle_sha256 of the bundle there, None for nothing; UsageError for anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    check_writable(target)
    try:
        manifest = _manifest_of(target)
    except (OSError, IntegrityError):
        raise UsageError(
            f"{target} exists and is no bundle that this version reads; move it away, or choose "
            "another name with -o"
        ) from None
    known = {"manifest.json", *_names(manifest)}
    foreign = [
        name
        for name, _ in _content(target)
        if name not in known and not re.fullmatch(ENGINE_FILE, name)
    ]
    if foreign:
        raise UsageError(
            f"{target} holds {foreign[0]}, which no export wrote; move it away, or choose another "
            "name with -o"
        )
    return manifest.bundle_sha256


def _check_unchanged(target: Path, keep: Manifest) -> None:
    """What another command has added meanwhile must not be lost."""
    if _manifest_of(target) != keep:
        raise UsageError(f"{target} was changed by another command meanwhile; start again")


def _names(manifest: Manifest) -> set[str]:
    return {name for name, _ in manifest.listed()}


def _manifest_of(folder: Path) -> Manifest:
    with (folder / "manifest.json").open("rb") as file:
        return parse_manifest(file.read(MAX_MANIFEST_BYTES + 1))


def _content(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file and link below `folder`; hidden ones belong to the system or to a killed write."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and (path.is_symlink() or not path.is_dir()):
            yield name.as_posix(), path


def _bring_along(target: Path, fresh: Path, without: set[str]) -> None:
    for name, source in _content(target):
        if source.is_symlink() or not source.is_file():
            raise IntegrityError(f"{target}/{name} is a link; a bundle holds its own files")
        if name in without:
            continue
        place = fresh / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:  # one file under two names until the old folder goes
            place.hardlink_to(source)
        except OSError:  # a disk without hard links
            write_atomic(place, source.read_bytes())


def _sync_folders(folder: Path) -> None:
    """Hard links and folders are entries in folders, which no write of a file has synced."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time writes bundles in `folder`; the system unlocks for one that is killed.

    A file system without locks goes without: then two exports into one name can make one of them
    fail, but what is renamed was read back whole.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
