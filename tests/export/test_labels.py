"""python -m pytest tests/export/test_labels.py -- label sets change, the encoder does not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from tests.export.kin import saved, shifted
from tests.export.swapped import LUNGS, in_float64, labels, tree
from tier_export.average import average_of
from tier_export.cli import main
from tier_export.labels import Source, checkpoint_source, directions, make, prepare, write
from tier_export.members import members_of
from tier_infer.bundle import Bundle, load_bundle, sha256
from tier_infer.cli import main as infer_main
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.geometry import to_crop
from tier_infer.golden import read_golden, replay
from tier_infer.label_sets import load_label_set, parse_label_set
from tier_infer.query_table import QueryTable
from tier_infer.reader import Reader
from tier_infer.scoring import select_labels
from tier_train.checkpoint import Checkpoint, load_checkpoint

WET = (["Edema is present.", "A pleural effusion is present."], ["The lungs are clear."])
HEART = (["The heart shadow is enlarged."], [])
WALL = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "onnxscript", "sklearn"}:
            raise ImportError(f"{name} is behind the wall")
sys.meta_path.insert(0, Wall())
from tier_export.cli import main
main()
"""


@pytest.fixture(scope="module")
def checkpoint(site: Path) -> Checkpoint:
    return load_checkpoint(site / "ckpt.pt")


def expected(checkpoint: Checkpoint, site: Path) -> dict[str, float]:
    with Reader() as reader:
        reader.intensity = checkpoint.intensity
        grey = reader.read(str(site / "study.dcm")).grey
    crop = to_crop(grey, members_of([checkpoint]).geometry)
    with torch.no_grad():
        e = checkpoint.model.encode_image(torch.from_numpy(crop[None]))[0][0].double().numpy()
    e /= np.linalg.norm(e)
    asked = {"lungs:wet": WET, "lungs:heart": HEART}
    return {name: float(e @ in_float64(checkpoint, *sides)) for name, sides in asked.items()}


def scores(folder: Path, site: Path, asked: str) -> dict[str, float]:
    args = [str(site / "study.dcm"), "--bundle", str(folder), "--json", "--labels", asked]
    result = CliRunner().invoke(infer_main, [*args, "--precision", "fp32", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    found: dict[str, float] = json.loads(result.stdout)["studies"][0]["scores"]
    return found


@pytest.mark.parametrize("by", ["tower", "checkpoint"])
def test_a_new_set_is_scored_and_the_encoder_is_not_touched(
    bundle: Path, site: Path, checkpoint: Checkpoint, by: str
) -> None:
    before, was = load_bundle(bundle).manifest, tree(bundle)
    how = ["--checkpoint", site / "ckpt.pt"] if by == "checkpoint" else []
    result = labels(bundle, "--queries", bundle.parent / "lungs.toml", *how)
    assert result.exit_code == 0, result.output
    after, now = load_bundle(bundle), tree(bundle)
    changed = {name for name in now if now[name] != was.get(name)}
    assert changed == {"queries/lungs.onnx", "golden/golden.json", "manifest.json"}
    assert after.manifest.bundle_sha256 == before.bundle_sha256
    assert after.manifest.files == before.files
    assert result.stdout.splitlines() == [
        f"added    lungs      2 labels  {now['queries/lungs.onnx'][:12]}",
        f"bundle {before.bundle_sha256[:12]}, default set chexpert",
    ]
    found = scores(bundle, site, "lungs:Nasse Lunge,lungs:HEART")
    assert found == pytest.approx(expected(checkpoint, site), abs=2e-5)
    rows = QueryTable(after, "lungs").labels
    assert rows[0]["codes"] == {"SNOMED": "19242006"}
    assert rows[0]["names"] == {"en": "Wet lung", "de": "Nasse Lunge"}
    golden = read_golden(after)
    assert golden is not None
    seen = replay(after, Engine(after, "cpu", "fp32"), golden)
    assert (seen.replaced, seen.breaches) == ((), [])


def test_torch_is_not_needed_where_the_bundle_holds_its_text_tower(bundle: Path) -> None:
    command = [sys.executable, "-c", WALL, "labels", "--queries", "lungs.toml"]
    done = subprocess.run(command, cwd=bundle.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(load_bundle(bundle).manifest.label_sets) == ["chexpert", "lungs"]


def test_a_replaced_set_leaves_the_others_and_what_was_added_later(
    bundle: Path, site: Path
) -> None:
    assert labels(bundle, "--queries", bundle.parent / "lungs.toml").exit_code == 0
    was, golden = tree(bundle), json.loads((bundle / "golden/golden.json").read_text())
    before = scores(bundle, site, "edema")
    drier = LUNGS.replace("A pleural effusion is present.", "Pulmonary edema.")
    (bundle.parent / "lungs.toml").write_text(drier)
    result = labels(bundle, "--queries", bundle.parent / "lungs.toml")
    assert result.stdout.startswith("replaced lungs")
    now = tree(bundle)
    changed = {name for name in {*was, *now} if now.get(name) != was.get(name)}
    assert changed == {"queries/lungs.onnx", "golden/golden.json", "manifest.json"}
    assert now["calibration/site.json"] == sha256(b"calibration/site.json")
    later = json.loads((bundle / "golden/golden.json").read_text())
    assert later["scores"]["chexpert"] == golden["scores"]["chexpert"]
    assert later["scores"]["lungs"]["z"] != golden["scores"]["lungs"]["z"]
    assert scores(bundle, site, "edema") == before


def test_a_default_is_chosen_and_another_set_goes(bundle: Path, site: Path) -> None:
    lungs = bundle.parent / "lungs.toml"
    result = labels(
        bundle, "--queries", lungs, "--default", "Lungs", "--remove", "CheXpert", "--json"
    )
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    manifest = load_bundle(bundle).manifest
    assert table["schema"] == "tier-labels/1"
    assert table["bundle"] == {"name": manifest.name, "sha256": manifest.bundle_sha256}
    assert [(row["action"], row["set"], row["labels"]) for row in table["sets"]] == [
        ("added", "lungs", 2),
        ("removed", "chexpert", 5),
    ]
    assert table["sets"][0]["sha256"] == manifest.label_sets["lungs"]["sha256"]
    assert (table["default_set"], table["default_set_before"]) == ("lungs", "chexpert")
    assert [row["default"] for row in table["sets"]] == [True, False]
    told = [line for line in result.stderr.splitlines() if line.startswith("tier-export: ")]
    assert [f"tier-export: {w}" for w in table["warnings"]] == told
    assert not (bundle / "queries/chexpert.onnx").exists()
    assert list(json.loads((bundle / "golden/golden.json").read_text())["scores"]) == ["lungs"]
    assert set(scores(bundle, site, "wet,heart")) == {"wet", "heart"}


def test_old_files_under_other_names_stay_as_they_are(bundle: Path) -> None:
    """A backup of hard links shares its files with the bundle."""
    backup = bundle.parent / "backup"
    shutil.copytree(bundle, backup, copy_function=os.link)
    was = tree(backup)
    args = [
        "--queries",
        bundle.parent / "lungs.toml",
        "--queries",
        "chexzero",
        "--default",
        "chexzero",
    ]
    assert labels(bundle, *args).exit_code == 0
    assert tree(backup) == was
    assert load_bundle(backup).manifest.default_set == "chexpert"
    assert load_bundle(bundle).manifest.default_set == "chexzero"


def test_a_link_to_the_bundle_stays_a_link(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle.parent / "current").symlink_to("bundle")
    monkeypatch.chdir(bundle.parent)
    monkeypatch.setenv("TIER_BUNDLE", "current")
    result = CliRunner().invoke(main, ["labels", "--queries", "lungs.toml"])
    assert result.exit_code == 0, result.output
    assert Path("current").is_symlink()
    assert "lungs" in load_bundle(bundle).manifest.label_sets


def test_a_check_tells_and_writes_nothing(bundle: Path) -> None:
    was = tree(bundle)
    odd = LUNGS.replace("negative = []", 'negative = ["Edema is present.", "Edema is present."]')
    (bundle.parent / "odd.toml").write_text(odd)
    result = labels(bundle, "--queries", bundle.parent / "odd.toml", "--check")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "checked  lungs      2 labels"
    assert "lungs: 'Edema is present.' is for wet and against heart" in result.stderr
    assert "stands 2 times" in result.stderr
    assert tree(bundle) == was


def test_a_bundle_without_golden_vectors_takes_labels(bundle: Path) -> None:
    """Made before there were any: the graph is held against every entry of its table."""
    manifest = load_bundle(bundle).manifest
    (bundle / "manifest.json").write_text(replace(manifest, golden={}).to_json())
    result = labels(bundle, "--queries", bundle.parent / "lungs.toml")
    assert result.exit_code == 0, result.output
    assert load_bundle(bundle).manifest.golden == {}


def test_checkpoints_of_an_ensemble_in_their_order(
    bundle: Path, site: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Concatenated and divided by √2, as the embeddings are; q⁻ = 0 where nothing is against."""
    other = saved(shifted(checkpoint, 1, 0.01), tmp_path / "other.pt")
    members = members_of([checkpoint, other])
    two = as_exported(bundle, members.text_sha256, members.described())
    paths = [site / "ckpt.pt", tmp_path / "other.pt"]
    lungs = load_label_set(str(tmp_path / "lungs.toml"))
    table = directions(lungs, checkpoint_source(two, paths))
    halves = [[in_float64(c, *sides) for c in (checkpoint, other)] for sides in (WET, HEART)]
    np.testing.assert_allclose(table, np.array(halves).reshape(2, -1) / 2**0.5, atol=1e-6)
    with pytest.raises(IntegrityError, match="in the order of the export"):
        checkpoint_source(two, paths[::-1])
    with pytest.raises(UsageError, match=f"SHA-256 {checkpoint.sha256[:12]}, {other.sha256[:12]}"):
        checkpoint_source(two, paths[:1])


def test_the_average_of_checkpoints_is_made_again(
    bundle: Path, site: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other = saved(shifted(checkpoint, 1, 0.01), tmp_path / "other.pt")
    average = average_of([checkpoint, other])
    one = as_exported(bundle, average.text_sha256, average.described())
    source = checkpoint_source(one, [site / "ckpt.pt", tmp_path / "other.pt"])
    found = directions(load_label_set(str(tmp_path / "lungs.toml")), source)
    wanted = [in_float64(average.networks[0], *sides) for sides in (WET, HEART)]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def as_exported(folder: Path, text_sha256: str, rows: list[dict[str, Any]]) -> Bundle:
    bundle = load_bundle(folder)
    manifest = replace(bundle.manifest, text={"sha256": text_sha256}, checkpoint=rows)
    return replace(bundle, manifest=manifest)


def test_ten_thousand_labels_are_a_matter_of_seconds(bundle: Path) -> None:
    """With a loop over pairs, or a list searched for every label, it would be minutes."""
    rows = [
        {"id": f"label_{n}", "positive": [f"Finding {n}."], "names": {"de": f"Befund {n}"}}
        for n in range(10_000)
    ]
    shared = 0

    def embed(groups: Sequence[tuple[str, ...]]) -> NDArray[np.float32]:
        """Unit vectors drawn from each sentence."""
        nonlocal shared
        shared += groups.count(("The lungs are clear.",))
        seeds = [int(hashlib.sha256(group[0].encode()).hexdigest()[:8], 16) for group in groups]
        rows = np.stack([np.random.default_rng(s).standard_normal(128) for s in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    opened = load_bundle(bundle)
    start = time.process_time()
    many = {"set": "many", "negative": ["The lungs are clear."], "label": rows}
    made = make(parse_label_set(many, "test"), Source((), embed))
    write(opened, prepare(opened, [made]))
    after = load_bundle(bundle)
    selection = select_labels(after, [f"many:BEFUND {n}" for n in reversed(range(10_000))])
    e = np.eye(128, dtype=np.float32)
    found = selection.cell_scores(e)
    assert time.process_time() - start < 30
    assert shared == 1
    assert selection.names[0] == "many:label_9999"
    wanted = embed([("Finding 9999.",)]) - embed([("The lungs are clear.",)])
    np.testing.assert_allclose(found[:, 0], wanted[0], atol=1e-6)
    assert (bundle / "manifest.json").stat().st_size < 2**20
