"""python -m pytest tests/export/test_writing.py -- what a bundle may replace, and what it keeps."""

from __future__ import annotations

import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.export.written import (
    SET,
    Made,
    content,
    names,
    no_links,
    one,
    quick,
    relabelled,
    two,
    write,
)
from tier_export.writing import check_target
from tier_infer.bundle import load_bundle
from tier_infer.errors import IntegrityError, UsageError

__all__ = ["one", "quick", "two"]  # fixtures


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


def test_engines_are_the_exports_own_and_go_with_their_encoder(
    one: Made, two: Made, tmp_path: Path
) -> None:
    """No manifest lists them: they come and go without it."""
    target = tmp_path / "bundle"
    write(target, one)
    (target / "engines").mkdir()
    for name in ("sm86-trt11.4.0.106-fp16", "sm120-rtx1.7.1.116-fp32"):
        for ending in (".engine", ".json", ".seal"):
            (target / "engines" / f"{name}{ending}").write_bytes(b"made here")
    assert check_target(target) == one.manifest.bundle_sha256
    write(target, relabelled(one), keep=one)
    assert len(names(target / "engines")) == 6
    write(target, two)
    assert not (target / "engines").exists()


@pytest.mark.parametrize(
    "name",
    [
        "engines/notes.txt",
        "engines/notes.engine",
        "engines/sm86-trt11.4.0.106-fp16.engine.bak",
        "engines/sm86-trt11.4.0.106-fp16/x.engine",
        "sm86-trt11.4.0.106-fp16.engine",
    ],
)
def test_beside_engines_nothing_foreign_is_deleted(one: Made, tmp_path: Path, name: str) -> None:
    target = tmp_path / "bundle"
    write(target, one)
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_bytes(b"somebody's")
    refused(target, f"holds {re.escape(name)}, which no export wrote")


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
