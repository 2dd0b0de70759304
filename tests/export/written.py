"""Two small bundles as an export holds them in memory, and how tests of the writing write them."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import tests.infer.tiny_bundle
from tier_export.writing import write_bundle
from tier_infer.bundle import Manifest, load_bundle, sha256

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


def no_links(*args: Any, **more: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
