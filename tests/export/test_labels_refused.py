"""python -m pytest tests/export/test_labels_refused.py -- the old bundle stays."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import helper

import tier_export.labels
import tier_export.writing
from tests.export.kin import saved, shifted
from tests.export.swapped import labels, tree
from tier_export.labels import make, prepare, write
from tier_infer.bundle import load_bundle, parse_manifest, sha256
from tier_infer.cli import main as infer_main
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.label_sets import load_label_set
from tier_train.checkpoint import load_checkpoint


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--queries", "nothing"], "neither packaged"),
        (["--queries", "chexpert", "--queries", "chexpert"], "same name, chexpert;"),
        (["--queries", "lungs.toml", "--checkpoint", "nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["--queries", "lungs.toml", "--checkpoint", "a.pt", "--checkpoint", "b.pt"],
         "exported from 1 checkpoint, --checkpoint names 2"),
        (["--remove", "chexpert"], "is the default set"),
        (["--remove", "lungs"], "'lungs' is not in the bundle; it has chexpert"),
        (["--queries", "lungs.toml", "--remove", "lungs"], "to be added and removed"),
        (["--remove", "chexpert", "--default", "chexpert"], "is the default set"),
        (["--default", "lungs.toml"], "'lungs.toml': there is no such label set"),
        (["--default", ""], "in the bundle or added; allowed: chexpert"),
        (["--default"], "requires an argument"),
        (["--check"], "add --queries SET"),
        (["--default", "chexpert", "--checkpoint", "a.pt"], "add --queries SET"),
        (["--queries", "lungs.toml", "--check", "--default", "lungs"], "--check writes nothing"),
        (["--queries", "lungs.toml", "--check", "--remove", "lungs"], "--check writes nothing"),
        (["--queries", "lungs.toml", "--bundle", "nowhere"], "no bundle folder at nowhere"),
        (["--queries", "lungs.toml", "--fp16"], "No such option"),
    ],
)  # fmt: skip
def test_refusals_leave_the_bundle(
    bundle: Path, args: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    was = tree(bundle)
    result = labels(bundle, *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert tree(bundle) == was


def test_without_tower_and_checkpoint_the_next_command_is_named(
    bundle: Path, site: Path, tmp_path: Path
) -> None:
    manifest = load_bundle(bundle).manifest
    silent = replace(manifest, text={"sha256": manifest.text_sha256})
    (bundle / "manifest.json").write_text(silent.to_json())
    result = labels(bundle, "--queries", tmp_path / "lungs.toml", "--default", "lungs")
    assert result.exit_code == 2
    assert "--checkpoint ckpt.pt" in result.stderr
    assert "--text" in result.stderr


def test_a_folder_that_can_not_be_written_is_said_before_the_work(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != bundle and access(path, mode))
    monkeypatch.setattr(tier_export.labels, "tower_source", None)
    result = labels(bundle, "--queries", bundle.parent / "lungs.toml")
    assert result.exit_code == 2
    assert "can't be written; copy it" in result.stderr
    assert result.stderr.count("\n") == 1


def test_another_text_encoder_is_refused(bundle: Path, site: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(site / "ckpt.pt")
    other = saved(shifted(checkpoint, 1, 0.01), tmp_path / "other.pt")
    assert other.text_sha256 != checkpoint.text_sha256
    was = tree(bundle)
    args = ["--queries", tmp_path / "lungs.toml", "--checkpoint", tmp_path / "other.pt"]
    result = labels(bundle, *args)
    assert result.exit_code == 4
    assert other.text_sha256[:12] in result.stderr
    assert checkpoint.text_sha256[:12] in result.stderr
    assert tree(bundle) == was


def test_a_set_of_another_text_encoder_is_refused_at_the_edge(bundle: Path, site: Path) -> None:
    """Planted, and the manifest sealed again."""
    assert labels(bundle, "--queries", bundle.parent / "lungs.toml").exit_code == 0
    path = bundle / "queries/lungs.onnx"
    graph = onnx.load_from_string(path.read_bytes())
    meta = {prop.key: prop.value for prop in graph.metadata_props} | {"text_sha256": "5" * 64}
    helper.set_model_props(graph, meta)
    path.write_bytes(graph.SerializeToString())
    manifest = parse_manifest((bundle / "manifest.json").read_bytes())
    entry = {"sha256": sha256(path.read_bytes()), "bytes": path.stat().st_size}
    sets = manifest.label_sets | {"lungs": manifest.label_sets["lungs"] | entry}
    (bundle / "manifest.json").write_text(replace(manifest, label_sets=sets).to_json())
    args = [str(site / "study.dcm"), "--bundle", str(bundle), "--labels", "lungs:wet"]
    result = CliRunner().invoke(infer_main, args)
    assert result.exit_code == 4
    assert "another text encoder" in result.stderr


def test_a_write_that_fails_leaves_the_old_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = tree(bundle)

    def damaged(folder: Path, unused: bool) -> None:
        raise IntegrityError(f"{folder.name} reads back wrong")

    monkeypatch.setattr(tier_export.writing, "load_bundle", damaged)
    assert labels(bundle, "--queries", bundle.parent / "lungs.toml").exit_code == 4
    assert tree(bundle) == was
    assert {path.name for path in bundle.parent.iterdir()} == {"bundle", "lungs.toml"}


def test_what_a_kill_between_the_renames_took_away_comes_back(bundle: Path) -> None:
    bundle.rename(bundle.parent / ".bundle.old")
    result = labels(bundle, "--queries", bundle.parent / "lungs.toml")
    assert result.exit_code == 0, result.output
    assert {path.name for path in bundle.parent.iterdir()} == {"bundle", "lungs.toml"}


def test_a_set_that_another_command_replaced_meanwhile_is_not_lost(bundle: Path) -> None:
    lungs = load_label_set(str(bundle.parent / "lungs.toml"))
    opened = tier_export.labels.open_bundle(bundle)
    swap = prepare(opened, [make(lungs, tier_export.labels.tower_source(opened))])
    assert labels(bundle, "--queries", "chexzero").exit_code == 0
    with pytest.raises(UsageError, match="meanwhile"):
        write(opened, swap)
    assert "chexzero" in load_bundle(bundle).manifest.label_sets


def test_a_graph_that_is_not_its_table_is_exit_5(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = tier_export.labels.query_graph

    def wrong(table: NDArray[np.float32], *args: Any) -> onnx.ModelProto:
        moved = table.copy()
        moved[1] += np.float32(1e-3)
        return build(moved, *args)

    monkeypatch.setattr(tier_export.labels, "query_graph", wrong)
    was = tree(bundle)
    result = labels(bundle, "--queries", bundle.parent / "lungs.toml")
    assert result.exit_code == 5
    assert "allowed 1e-06" in result.stderr
    assert tree(bundle) == was
