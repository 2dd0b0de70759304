"""python -m pytest tests/export/test_writing_stopped.py -- kills, Ctrl-C, full disks, power cuts"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.export.written import (
    SET,
    Made,
    names,
    no_links,
    one,
    quick,
    relabelled,
    two,
    write,
)
from tier_export.writing import recover
from tier_infer.bundle import load_bundle
from tier_infer.errors import IntegrityError

__all__ = ["one", "quick", "two"]  # fixtures


class Killed(BaseException):
    """What no handler catches: from then on nothing reaches the disk."""


CHANGES = ("mkdir", "replace", "rename", "link", "unlink", "rmdir")


@contextlib.contextmanager
def failing(functions: tuple[str, ...], at: int, error: BaseException) -> Iterator[list[str]]:
    """The call number `at` of these functions of os raises; all later ones too if it is Killed."""
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in functions:
            real = getattr(os, name)

            def call(*args: Any, _real: Any = real, _name: str = name, **more: Any) -> Any:
                seen.append(_name)
                if len(seen) == at or (len(seen) > at > 0 and isinstance(error, Killed)):
                    raise error
                return _real(*args, **more)

            patch.setattr(os, name, call)
        yield seen


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", [Killed, KeyboardInterrupt])
def test_stopped_before_every_change_on_disk(
    one: Made, two: Made, tmp_path: Path, keep: bool, kind: type[BaseException]
) -> None:
    """After a kill the old bundle, the new one, or none until the next command; after Ctrl-C never
    none. What a power cut leaves is the same: see the order of the syncs."""
    new = relabelled(one) if keep else two
    write(tmp_path / "whole" / "bundle", one)
    with failing((*CHANGES, "fsync"), 0, kind()) as calls:
        write(tmp_path / "whole" / "bundle", new, one if keep else None)
    assert len(calls) > 30
    found = set()
    for at in range(1, len(calls) + 1):
        target = tmp_path / str(at) / "bundle"
        write(target, one)
        with failing((*CHANGES, "fsync"), at, kind()), pytest.raises(kind):
            write(target, new, one if keep else None)
        there = target.exists()
        recover(target)
        manifest = load_bundle(target).manifest
        found.add("none" if not there else "old" if manifest == one.manifest else "new")
        assert manifest in (one.manifest, new.manifest)
        write(target, two)
        assert load_bundle(target).manifest == two.manifest
        assert names(target.parent) == ["bundle"]
    assert found == {"old", "new", "none"} - ({"none"} if kind is KeyboardInterrupt else set())


def test_what_reads_back_wrong_does_not_take_the_name(one: Made, two: Made, tmp_path: Path) -> None:
    """Also after a kill between the two renames: the old bundle must not go with its leftovers."""
    target = tmp_path / "bundle"
    write(target, one)
    wrong = Made(two.manifest, two.files | {SET: two.files[SET] + b"x"})
    for _ in ("in its place", "taken away"):
        with pytest.raises(IntegrityError, match=r"light\.onnx has"):
            write(target, wrong)
        assert load_bundle(target).manifest == one.manifest
        assert names(tmp_path) == ["bundle"]
        target.rename(tmp_path / ".bundle.old")


@pytest.mark.parametrize("keep", [False, True])
def test_a_full_disk(one: Made, two: Made, tmp_path: Path, keep: bool) -> None:
    """Wherever it is noticed: the reason, the old bundle whole, and nothing else."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    target, new = tmp_path / "bundle", relabelled(one) if keep else two
    write(target, one)
    with failing(("fsync",), 0, full) as calls:
        write(target, new, one if keep else None)
    assert len(calls) >= 8
    for at in range(1, len(calls) + 1):
        shutil.rmtree(target)
        write(target, one)
        with (
            failing(("fsync",), at, full),
            pytest.raises(OSError, match="No space left on device"),
        ):
            write(target, new, one if keep else None)
        # the very last call syncs the rename: then the new bundle stands, whole
        expected = new if at == len(calls) else one
        assert load_bundle(target).manifest == expected.manifest
        assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("linked", [True, False])
def test_the_order_that_a_power_cut_needs(
    one: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """Every file and folder is on the disk before the rename, that before the old one is deleted.

    Found in review: folders that hold hard links only were not synced, and the old bundle was
    deleted before the rename was durable.
    """
    target = tmp_path / "bundle"
    write(target, one)
    events: list[tuple[str, Any]] = []
    rename, unlink = os.rename, os.unlink

    def logged_fsync(handle: int) -> None:
        events.append(("fsync", os.fstat(handle).st_ino))

    def logged_rename(source: Any, place: Any, **more: Any) -> None:
        if Path(source).name == ".bundle.new":
            inodes = {p.stat().st_ino for p in (Path(source), *Path(source).rglob("*"))}
            events.append(("ready", inodes))
        events.append(("rename", Path(source).name))
        rename(source, place, **more)

    def logged_unlink(path: Any, **more: Any) -> None:
        events.append(("unlink", Path(path).name))
        unlink(path, **more)

    links = set()
    if linked:  # these files were synced when they were written
        links = {p.stat().st_ino for p in target.rglob("*") if p.is_file() and p.name != SET[8:]}
    else:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "rename", logged_rename)
    monkeypatch.setattr(os, "unlink", logged_unlink)
    write(target, relabelled(one), keep=one)
    at = events.index(("rename", ".bundle.new"))
    (ready,) = (inodes for kind, inodes in events if kind == "ready")
    synced = {inode for kind, inode in events[:at] if kind == "fsync"}
    assert ready <= synced | links
    assert events[at + 1] == ("fsync", tmp_path.stat().st_ino)
    assert {"unlink"} == {kind for kind, _ in events[at + 2 :]}
