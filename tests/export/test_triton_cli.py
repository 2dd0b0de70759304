"""python -m pytest tests/export/test_triton_cli.py -- `tier-export triton`: whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shlex
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.export.swapped import tree
from tests.export.triton_server import Models
from tests.infer import tiny_bundle
from tests.test_docs import ROOT
from tests.test_readme import leaf
from tier_export.cli import main
from tier_export.triton import LISTING
from tier_infer.bundle import NOTICE, load_bundle, parse_manifest, sha256

WHITE = struct.pack("<f", 255)  # what the tiny encoder divides by
GUIDE = (ROOT / "docs/triton.md").read_text(encoding="utf-8")
MODELS = ["tier_encoder", "tier_light", "tier_query_light"]


def triton(*args: object) -> Result:
    result = CliRunner().invoke(main, ["triton", *map(str, args)])
    assert "Traceback" not in result.output
    return result


def refused(code: int, words: str, *args: object) -> None:
    result = triton(*args)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle.write_bundle(tmp_path / "bundle", "small-112")


@pytest.fixture
def models(bundle: Path, tmp_path: Path) -> Path:
    assert triton(bundle, tmp_path / "models").exit_code == 0
    return tmp_path / "models"


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_repository_is_written_and_told(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep/models"
    result = triton(bundle, out)
    assert result.exit_code == 0, result.output
    assert list(Models(out).configs) == MODELS
    for word in (
        *MODELS,
        "ONNX fp32",
        "device auto",
        load_bundle(bundle).manifest.bundle_sha256[:12],
    ):
        assert word in result.stdout
    assert NOTICE in result.stderr
    assert beside(out) == ["models"]


def test_json_is_the_listing_and_the_listing_is_true(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    table = json.loads(triton(bundle, out, "--json").stdout)
    assert table == json.loads((out / LISTING).read_text())
    found = {name: row["sha256"] for name, row in table["files"].items()}
    assert found == {name: d for name, d in tree(out).items() if name != LISTING}
    assert table["schema"] == "tier-triton/1"
    assert table["notice"] == NOTICE
    assert table["bundle"]["sha256"] == load_bundle(bundle).manifest.bundle_sha256
    assert table["sets"] == {"light": {"query": "tier_query_light", "ensemble": "tier_light"}}


def test_one_set_one_precision_one_device(bundle: Path, tmp_path: Path) -> None:
    options = ("--queries", "LIGHT", "--precision", "fp32", "--device", "cuda", "--json")
    table = json.loads(triton(bundle, tmp_path / "models", *options).stdout)
    assert (table["precision"], table["device"], list(table["sets"])) == ("fp32", "cuda", ["light"])


def test_the_same_command_again_changes_no_byte(bundle: Path, models: Path) -> None:
    before = tree(models)
    assert triton(bundle, models).exit_code == 0
    assert tree(models) == before
    assert beside(models) == ["bundle", "models"]


def test_another_bundle_takes_its_place(models: Path, tmp_path: Path) -> None:
    other = tiny_bundle.write_bundle(tmp_path / "other", "medclip-224")
    assert triton(other, models).exit_code == 0
    config = Models(models).configs["tier_encoder"]
    assert list(config.input[0].dims) == [224, 224]
    assert beside(models) == ["bundle", "models", "other"]


@pytest.mark.parametrize("at", range(1, 3))
def test_a_failing_rename_leaves_the_old_one(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    other = tiny_bundle.write_bundle(tmp_path / "other", "medclip-224")
    before, real, calls = tree(models), Path.rename, 0

    def rename(self: Path, to: Path) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(5, "Input/output error", str(self))
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    result = triton(other, models)
    assert result.exit_code == 2
    assert tree(models) == before
    assert beside(models) == ["bundle", "models", "other"]


def test_a_full_disk_leaves_the_old_one(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_bundle.write_bundle(tmp_path / "other", "medclip-224")
    before, real, calls = tree(models), Path.replace, 0

    def replace(self: Path, to: Path) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(28, "No space left on device", str(self))
        return real(self, to)

    monkeypatch.setattr(Path, "replace", replace)
    assert triton(other, models).exit_code == 2
    assert tree(models) == before
    assert beside(models) == ["bundle", "models", "other"]


def test_what_a_kill_between_the_renames_took_away_comes_back(
    bundle: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names are those of `writing`; the next export fails here, and still puts it back."""
    before = tree(models)
    models.rename(models.with_name(".models.old"))
    monkeypatch.setattr("tier_export.triton_writing.write_atomic", None)
    assert triton(bundle, models).exit_code == 1
    assert tree(models) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda out: (out / "notes.txt").write_text("mine"),
        lambda out: (out / "tier_light/config.pbtxt").write_text('name: "tier_light"'),
        lambda out: (out / "tier_light/2").symlink_to("1"),
    ],
)
def test_what_somebody_changed_is_not_replaced(bundle: Path, models: Path, change: Any) -> None:
    change(models)
    before = tree(models)
    refused(2, "which no export wrote like that", bundle, models)
    assert tree(models) == before


@pytest.mark.parametrize("listing", ["", "[]", '{"schema": "tier-triton/2"}', "[" * 99999, "\xff"])
def test_a_folder_of_others_is_not_replaced(bundle: Path, tmp_path: Path, listing: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / LISTING).write_text(listing, encoding="latin-1")
    refused(2, "is no model repository that tier-export wrote", bundle, tmp_path / "work")
    assert (tmp_path / "work" / LISTING).exists()


def test_places_that_can_not_be_out(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    refused(2, "is no model repository", bundle, tmp_path / "file")
    refused(2, "its folder can't be written", bundle, tmp_path / "file/models")
    refused(2, "symbolic link", bundle, tmp_path / "link")
    refused(2, "lies in the bundle", bundle, bundle)
    refused(2, "lies in the bundle", bundle, bundle / "models")
    refused(2, "no name of its own", bundle, "..")
    refused(2, "mount point", bundle, "/proc")
    assert sorted(tree(bundle)) == sorted(
        {"manifest.json", *(name for name, _ in load_bundle(bundle).manifest.listed())}
    )


def test_an_empty_folder_is_filled(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    assert triton(bundle, tmp_path / "models").exit_code == 0


def test_what_is_asked_and_not_there_is_refused(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    refused(2, "'heart' is not in the bundle; it has light", bundle, out, "--queries", "heart")
    refused(2, "no fp16 encoder", bundle, out, "--precision", "fp16")
    refused(2, "'int8' is not one of", bundle, out, "--precision", "int8")
    refused(2, "'tpu' is not one of", bundle, out, "--device", "tpu")
    refused(2, "--plans are for GPUs", bundle, out, "--plans", "--device", "cpu")
    refused(2, "no bundle folder at", tmp_path / "none", out)
    refused(2, "Missing argument 'OUT'", bundle)
    assert not out.exists()


def test_a_changed_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "queries/light.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused(4, "light.onnx was changed after the export", bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_graphs_that_give_other_numbers_are_refused(bundle: Path, tmp_path: Path) -> None:
    """Every hash is right; the golden vectors tell."""
    graph = (bundle / "image_encoder.onnx").read_bytes()
    scaled = graph.replace(WHITE, struct.pack("<f", 510))
    assert scaled != graph
    (bundle / "image_encoder.onnx").write_bytes(scaled)
    manifest = parse_manifest((bundle / "manifest.json").read_bytes())
    entry = {"sha256": sha256(scaled), "bytes": len(scaled), "precision": "fp32"}
    changed = replace(manifest, files={"image_encoder.onnx": entry})
    (bundle / "manifest.json").write_text(changed.to_json())
    refused(5, "golden vectors", bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_guide_shows_commands_that_are_taken() -> None:
    shown = re.findall(r"^    (tier-export .+)$", GUIDE, re.M)
    assert len(shown) >= 3
    for line in shown:
        command, rest = leaf(shlex.split(line))
        options = {name for p in command.params for name in p.opts}
        assert {word for word in rest if word.startswith("--")} <= options
    own = {name for p in main.commands["triton"].params for name in p.opts if name[:2] == "--"}
    assert all(name in GUIDE for name in own - {"--json", "--debug"})


def test_the_guide_tells_every_file_and_parameter(models: Path) -> None:
    for path in models.rglob("*"):
        if path.is_file():
            assert path.name in GUIDE
    for config in Models(models).configs.values():
        told = set(config.parameters) - {"notice", "bundle", "views", "set"}
        assert all(f"`{key}`" in GUIDE for key in told)


def test_the_guide_says_what_was_never_executed() -> None:
    assert "This line was never executed here" in GUIDE
    assert "Never executed: Triton's ONNX and TensorRT backends, a plan, a GPU" in GUIDE
