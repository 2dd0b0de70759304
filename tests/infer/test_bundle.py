"""python -m pytest tests/infer/test_bundle.py -- no byte of a bundle changes unnoticed."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import tier_infer.bundle
from tier_infer.bundle import canonical, load_bundle, sha256
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError, UsageError


@pytest.fixture
def copy(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_an_untouched_copy_loads(copy: Path) -> None:
    manifest = load_bundle(copy).manifest
    assert [p.relative_to(copy).as_posix() for p in files_of(copy)] == [
        "golden/crops.npy",
        "golden/golden.json",
        "golden/image_embeddings.npy",
        "golden/patch_embeddings.npy",
        "image_encoder.fp16.onnx",
        "image_encoder.onnx",
        "manifest.json",
        "parity.json",
        "queries/chexpert.onnx",
    ]
    assert manifest.default_set == "chexpert"
    assert manifest.intensity == "mimic-jpg"


def test_every_flipped_bit_is_refused(copy: Path) -> None:
    """200 random bits over all files, each alone; the manifest is hit as often as the graphs."""
    rng = np.random.default_rng(0)
    for path in files_of(copy):
        whole = path.read_bytes()
        for _ in range(50):
            position, bit = int(rng.integers(len(whole))), int(rng.integers(8))
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            path.write_bytes(bytes(changed))
            with pytest.raises(IntegrityError):
                load_bundle(copy)
        path.write_bytes(whole)
    load_bundle(copy)


def test_truncated_missing_and_linked_files_are_refused(copy: Path, tmp_path: Path) -> None:
    for path in files_of(copy):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(IntegrityError):
            load_bundle(copy)
        path.unlink()
        with pytest.raises(IntegrityError):
            load_bundle(copy)
        if path.name != "manifest.json":
            (tmp_path / "elsewhere").write_bytes(whole)
            os.symlink(tmp_path / "elsewhere", path)
            with pytest.raises(IntegrityError):
                load_bundle(copy)
            path.unlink()
        path.write_bytes(whole)


def rewritten(copy: Path, **changes: object) -> None:
    """A manifest that is consistent in itself: somebody edited it and knew about the digests."""
    table = json.loads((copy / "manifest.json").read_text()) | changes
    scope = ("schema_version", "embed_dim", "grid", "geometry", "intensity", "global_pool")
    identity = {key: table[key] for key in (*scope, "graph", "views", "files")}
    table["bundle_sha256"] = sha256(canonical(identity).encode())
    table.pop("manifest_sha256")
    table["manifest_sha256"] = sha256(canonical(table).encode())
    (copy / "manifest.json").write_text(canonical(table))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, "schema_version 2"),
        ({"intensity": "automatic"}, "'automatic' is unknown"),
        ({"default_set": "padchest"}, "'padchest' is not in it"),
        ({"geometry": {"name": "tier-999"}}, "geometry"),
        ({"grid": [7, 8]}, "grid is 7 x 8"),
        ({"grid": [0, 0]}, "squares of 1 to 64"),
        ({"grid": [65, 65]}, "squares of 1 to 64"),
        ({"surprise": 1}, "wrong keys: surprise"),
        (
            {"label_sets": {"--query": {}}, "default_set": "--query"},
            "set called '--query', which is",
        ),
    ],
)
def test_what_this_version_does_not_know_is_refused(
    copy: Path, changes: dict[str, object], words: str
) -> None:
    rewritten(copy)
    load_bundle(copy)  # the helper itself makes valid manifests
    rewritten(copy, **changes)
    with pytest.raises(IntegrityError, match=words):
        load_bundle(copy)


def test_a_path_out_of_the_bundle_is_refused(copy: Path) -> None:
    sets = json.loads((copy / "manifest.json").read_text())["label_sets"]
    (copy.parent / "outside.onnx").write_bytes((copy / "queries/chexpert.onnx").read_bytes())
    sets["chexpert"]["path"] = "../outside.onnx"
    rewritten(copy, label_sets=sets)
    with pytest.raises(IntegrityError, match="outside"):
        load_bundle(copy)


def test_the_identity_is_that_of_the_numbers(copy: Path) -> None:
    """Another default set leaves bundle_sha256 alone; another preset does not."""
    before = load_bundle(copy).manifest.bundle_sha256
    rewritten(copy, name="renamed")
    assert load_bundle(copy).manifest.bundle_sha256 == before
    rewritten(copy, intensity="minmax")
    assert load_bundle(copy).manifest.bundle_sha256 != before


@pytest.mark.parametrize("changes", [{"grid": [14, 14]}, {"embed_dim": 64}])
def test_a_manifest_of_another_network_is_refused(copy: Path, changes: dict[str, object]) -> None:
    """Sealed, but heat would be drawn in the wrong places."""
    Engine(load_bundle(copy), "cpu")
    rewritten(copy, **changes)
    with pytest.raises(IntegrityError, match="the manifest says"):
        Engine(load_bundle(copy), "cpu")


def test_a_preset_with_one_number_changed_is_another(copy: Path) -> None:
    geometry = json.loads((copy / "manifest.json").read_text())["geometry"]
    for change in ({"rule": "short-side"}, {"resize": 129}, {"high_byte": True}):
        rewritten(copy, geometry=geometry | change)
        with pytest.raises(IntegrityError, match="is not one of this version"):
            load_bundle(copy)


def test_label_sets_are_those_of_the_load(copy: Path) -> None:
    """Found in review: `tier-export labels` meanwhile made a run end as if files were damaged."""
    bundle, path = load_bundle(copy), copy / "queries/chexpert.onnx"
    before = path.read_bytes()
    path.unlink()
    path.write_bytes(b"another set")
    assert bundle.query_graph("chexpert") == before
    with pytest.raises(IntegrityError, match="chexpert"):
        load_bundle(copy)


def test_no_more_of_a_manifest_is_read_than_may_be_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def parse(raw: bytes) -> None:
        sizes.append(len(raw))
        raise IntegrityError("enough")

    monkeypatch.setattr(tier_infer.bundle, "parse_manifest", parse)
    os.truncate(copy / "manifest.json", 2**28)
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="enough"):
        load_bundle(copy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [2**23 + 1]
    assert peak < 2**25


def test_no_bundle_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tier-export"):
        load_bundle(tmp_path / "nothing")


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": 7},
        {"grid": [7]},
        {"grid": [7, 7, 7]},
        {"grid": [7.0, 7.0]},
        {"grid": [True, True]},
        {"label_sets": {"chexpert": {}}},
        {"files": {"image_encoder.onnx": 1}},
    ],
)
def test_sealed_nonsense_is_refused(copy: Path, changes: dict[str, object]) -> None:
    """Found in review: consistent digests over fields of another type ended in a traceback."""
    rewritten(copy, **changes)
    with pytest.raises(IntegrityError):
        load_bundle(copy)


@pytest.mark.parametrize("value", ["NaN", "1" * 5000])
def test_numbers_that_json_does_not_know_are_refused(copy: Path, value: str) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"embed_dim": 128', f'"embed_dim": {value}'))
    with pytest.raises(IntegrityError):
        load_bundle(copy)
