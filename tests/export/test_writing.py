"""python -m pytest tests/export/test_writing.py -- a bundle appears whole, or the old one stays."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import tests.infer.tiny_bundle
from tier_export.writing import check_target, recover, write_bundle
from tier_infer.bundle import Manifest, load_bundle, sha256
from tier_infer.errors import IntegrityError, UsageError

SET = "queries/light.onnx"


@dataclass(frozen=True)
class Made:
    """What an export holds in memory before it writes."""

    manifest: Manifest
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("one") / "bundle", "small-112")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("two") / "bundle", "medclip-224")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is asked for, and not waited for."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(folder: Path, preset: str) -> Made:
    tests.infer.tiny_bundle.write_bundle(folder, preset)
    manifest = load_bundle(folder).manifest
    return Made(manifest, {name: (folder / name).read_bytes() for name, _ in manifest.listed()})


def relabelled(old: Made) -> Made:
    """Another label set under the same name, as `tier-export labels` makes it."""
    data = old.files[SET] + b"\x42\x00"  # an empty unknown field: other bytes, another hash
    entry = old.manifest.label_sets["light"] | {"sha256": sha256(data), "bytes": len(data)}
    return Made(replace(old.manifest, label_sets={"light": entry}), {SET: data})


def write(target: Path, what: Made, keep: Made | None = None) -> None:
    write_bundle(target, what.manifest, what.files, keep.manifest if keep else None)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_is_written_and_replaced(one: Made, two: Made, tmp_path: Path) -> None:
    target = tmp_path / "new" / "bundle"
    assert check_target(target) is None
    assert names(tmp_path) == []  # a check makes nothing
    for what in (one, two):
        write(target, what)
        expected = what.files | {"manifest.json": what.manifest.to_json().encode()}
        assert content(target) == expected
        assert check_target(target) == what.manifest.bundle_sha256
        assert names(target.parent) == ["bundle"]


def test_an_empty_folder_is_taken(one: Made, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    assert check_target(tmp_path / "bundle") is None
    write(tmp_path / "bundle", one)
    load_bundle(tmp_path / "bundle")


def refused(target: Path, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_target(target)


@pytest.mark.parametrize("name", [".", "..", "bundle/.."])
def test_a_target_without_a_name(name: str) -> None:
    refused(Path(name), "no name of its own")


def test_a_link_is_not_followed(one: Made, tmp_path: Path) -> None:
    write(tmp_path / "bundle", one)
    (tmp_path / "current").symlink_to("bundle")
    refused(tmp_path / "current", "is a symbolic link; name the folder")
    (tmp_path / "broken").symlink_to("nowhere")
    refused(tmp_path / "broken", "is a symbolic link")


def test_a_folder_that_can_not_be_written(
    one: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file" / "bundle", "its folder can't be written")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    refused(tmp_path / "bundle", "its folder can't be written")
    refused(tmp_path / "deep" / "er" / "bundle", "its folder can't be written")


def test_a_read_only_bundle_is_not_replaced(
    one: Made, two: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renaming would work: the folder above may be written."""
    target = tmp_path / "bundle"
    write(target, one)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != target)
    refused(target, "is read-only; copy it, or choose another name")
    for what, keep in ((two, None), (relabelled(one), one)):
        with pytest.raises(UsageError, match="is read-only"):
            write(target, what, keep)
    assert content(target)[SET] == one.files[SET]
    assert names(tmp_path) == ["bundle"]


def test_a_mounted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker run -v …:/bundle: a mount point can't be renamed, found after minutes of work."""
    (tmp_path / "bundle").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "bundle")
    refused(tmp_path / "bundle", r"is a mount point; choose a folder in it: .*bundle/bundle")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "My web app", "icons": []}',  # progressive web apps have a manifest.json, too
        '{"schema_version": 1}',
        "",
    ],
)
def test_a_manifest_of_something_else(one: Made, tmp_path: Path, text: str) -> None:
    """Only the name of the file was asked for before: such a folder was deleted."""
    target = tmp_path / "app"
    target.mkdir()
    (target / "manifest.json").write_text(text)
    (target / "index.html").write_text("years of work")
    refused(target, "is no bundle that this version reads; move it away")
    with pytest.raises(UsageError, match="is no bundle"):
        write(target, one)
    assert names(target) == ["index.html", "manifest.json"]
    assert names(tmp_path) == ["app"]


def test_what_no_export_wrote_is_not_deleted(one: Made, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write(target, one)
    (target / "notes").mkdir()
    (target / "notes" / "site.md").write_text("threshold 0.4 agreed on 3 May")
    refused(target, r"holds notes/site\.md, which no export wrote")
    shutil.rmtree(target / "notes")
    (target / ".DS_Store").write_bytes(b"")  # the system's
    check_target(target)


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
        with pytest.raises(IntegrityError, match="light.onnx has"):
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


def no_links(*args: Any, **more: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


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


def test_what_is_kept_comes_along_as_links(one: Made, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write(target, one)
    (target / "engines").mkdir()
    (target / "engines" / "sm90.engine").write_bytes(b"made on another machine")
    before = {name: (target / name).stat().st_ino for name in content(target)}
    new = relabelled(one)
    write(target, new, keep=one)
    after = {name: (target / name).stat().st_ino for name in content(target)}
    assert {n for n in after if after[n] != before[n]} == {SET, "manifest.json"}
    assert content(target)[SET] == new.files[SET]
    assert load_bundle(target).manifest == new.manifest


def test_a_second_name_of_the_old_files_keeps_their_bytes(one: Made, tmp_path: Path) -> None:
    """`cp -al bundle yesterday`: nothing may be written through a shared inode."""
    target = tmp_path / "bundle"
    write(target, one)
    shutil.copytree(target, tmp_path / "yesterday", copy_function=os.link)
    before = content(tmp_path / "yesterday")
    write(target, relabelled(one), keep=one)
    write(target, relabelled(relabelled(one)), keep=relabelled(one))
    assert content(tmp_path / "yesterday") == before
    load_bundle(tmp_path / "yesterday")


def test_a_disk_without_links_gets_copies(
    one: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    write(target, one)
    monkeypatch.setattr(os, "link", no_links)
    write(target, relabelled(one), keep=one)
    assert load_bundle(target).manifest == relabelled(one).manifest
    assert {path.stat().st_nlink for path in target.rglob("*") if path.is_file()} == {1}


@pytest.mark.parametrize("place", ["golden", "queries/light.onnx", "extra"])
def test_a_link_in_a_bundle_is_neither_followed_nor_kept(
    one: Made, tmp_path: Path, place: str
) -> None:
    target, outside = tmp_path / "bundle", tmp_path / "outside"
    write(target, one)
    if (target / place).exists():
        (target / place).rename(outside)
    (target / place).symlink_to(outside)
    with pytest.raises(IntegrityError, match=rf"{place} is a link; a bundle holds its own files"):
        write(target, relabelled(one), keep=one)
    assert ".bundle.new" not in names(tmp_path)


def test_a_planted_link_under_our_temporary_name(one: Made, tmp_path: Path) -> None:
    """In a folder that many may write, such as /tmp."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "manifest.json").write_text("mine")
    for name in (".bundle.new", ".bundle.old"):
        (tmp_path / name).symlink_to("victim")
    write(tmp_path / "bundle", one)
    assert content(tmp_path / "victim") == {"manifest.json": b"mine"}
    assert names(tmp_path) == ["bundle", "victim"]


def with_a_second_set(one: Made) -> Made:
    entry = one.manifest.label_sets["light"] | {"path": "queries/other.onnx"}
    sets = one.manifest.label_sets | {"other": entry}
    files = {"queries/other.onnx": one.files[SET]}
    return Made(replace(one.manifest, label_sets=sets), files)


def test_a_label_set_added_meanwhile_is_not_lost(one: Made, two: Made, tmp_path: Path) -> None:
    """Two `tier-export labels` at once: the second has read a bundle that is no more."""
    target = tmp_path / "bundle"
    write(target, one)
    for other, keep in ((with_a_second_set(one), one), (two, None)):
        write(target, other, keep)
        with pytest.raises(UsageError, match="was changed by another command meanwhile"):
            write(target, relabelled(one), keep=one)
        assert load_bundle(target).manifest == other.manifest
        assert names(tmp_path) == ["bundle"]


def test_what_the_manifest_no_longer_lists_is_gone(one: Made, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write(target, one)
    more = with_a_second_set(one)
    write(target, more, keep=one)
    assert (target / "queries/other.onnx").is_file()
    write(target, Made(one.manifest, {}), keep=more)
    assert content(target) == one.files | {"manifest.json": one.manifest.to_json().encode()}


def test_exports_into_one_name_at_once(one: Made, two: Made, tmp_path: Path) -> None:
    """Found in review: both wrote into one `.bundle.new`."""
    target, failures = tmp_path / "bundle", list[BaseException]()

    def repeat(what: Made) -> None:
        try:
            for _ in range(15):
                write(target, what)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=[what]) for what in (one, two, one)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    load_bundle(target)
    assert names(tmp_path) == ["bundle"]
