"""python -m pytest tests/export/test_cli.py -- tier-export end to end, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import numpy_helper

import tier_export.export
import tier_export.writing
from tests.conftest import DATA
from tier_export.cli import main
from tier_infer.bundle import load_bundle
from tier_infer.errors import IntegrityError
from tier_infer.query_table import QueryTable
from tier_train.checkpoint import load_checkpoint, save_checkpoint

LUNGS = """
set = "lungs"
negative = ["The lungs are clear."]
[[label]]
id = "wet"
positive = ["Edema is present.", "A pleural effusion is present."]
"""


def export(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert "Traceback" not in result.output
    return result


def three_films(folder: Path) -> Path:
    films = sorted((DATA / "nih").glob("*.jpg"))[:3]
    rows = [f"{path},{n},test,1\n" for n, path in enumerate(films)]
    (folder / "films.csv").write_text("image_path,patient_id,split,edema\n" + "".join(rows))
    return folder / "films.csv"


def test_the_site_was_exported_with_a_certificate(site: Path) -> None:
    """`tier-export --fp16 ckpt.pt` ran in the fixture; here is what it left."""
    manifest = load_bundle(site / "bundle").manifest
    assert manifest.training_data == "phantoms/manifest.csv"
    assert manifest.files["image_encoder.fp16.onnx"]["precision"] == "fp16"
    assert manifest.parity["crops"]["source"] == "320 phantoms"
    assert manifest.parity["fp32"]["max_dz"] <= 1e-5
    assert manifest.parity["fp32"]["flips"] == 0
    certificate = json.loads((site / "bundle/parity.json").read_text())
    proofs = certificate["precisions"]["fp16"]["proofs"]
    assert len(proofs) == 2
    assert any("half activations" in machine for machine in proofs)
    for machine in proofs.values():
        assert machine["chexpert"]["max_dz"] <= 2e-3
        assert machine["chexpert"]["max_dauc"] <= 5e-4
    assert manifest.checkpoint[0]["recipe"]["name"] == "demo"


def test_own_labels_and_own_crops(site: Path, tmp_path: Path) -> None:
    (tmp_path / "lungs.toml").write_text(LUNGS)
    target = tmp_path / "bundle"
    sets = ["--queries", tmp_path / "lungs.toml", "--queries", "chexpert"]
    result = export(*sets, "--crops", site / "manifest.csv", "-o", target, site / "ckpt.pt")
    assert result.exit_code == 0, result.output
    assert "against PyTorch " in result.stdout
    bundle = load_bundle(target)
    assert bundle.manifest.default_set == "lungs"
    assert set(bundle.manifest.label_sets) == {"lungs", "chexpert"}
    assert bundle.manifest.parity["crops"]["source"] == "200 radiographs of split test"
    proofs = json.loads(bundle.certificate())["precisions"]["fp32"]["proofs"].values()
    for proof in proofs:
        assert set(proof) == {"lungs", "chexpert"}
        assert proof["lungs"]["labels"]["wet"]["auc"] is None  # no column of that name
        assert proof["chexpert"]["labels"]["edema"]["auc"][0] > 0.5
    assert "set lungs\n" in result.stdout
    assert "not gated (0)" in result.stdout
    assert "image_encoder.fp16.onnx" not in bundle.manifest.files
    assert QueryTable(bundle, "lungs").ids == ["wet"]
    same = load_bundle(site / "bundle")  # the encoder does not depend on the labels
    assert bundle.encoder("fp32") == same.encoder("fp32")


def test_the_checkpoint_names_its_prompts_and_what_to_know_of_its_heat(
    site: Path, tmp_path: Path
) -> None:
    own = load_checkpoint(site / "ckpt.pt")
    recipe = replace(own.recipe, prompts="pneumonia")
    training = own.training | {"patches": "not trained", "notes": ["Mind the heat."]}
    save_checkpoint(tmp_path / "ckpt.pt", replace(own, recipe=recipe, training=training))
    films = three_films(tmp_path)
    target = tmp_path / "bundle"
    result = export("--crops", films, "-o", target, tmp_path / "ckpt.pt")
    assert result.exit_code == 0, result.output
    manifest = load_bundle(target).manifest
    assert manifest.default_set == "pneumonia"
    assert manifest.checkpoint[0]["patches"] == "not trained"
    assert manifest.checkpoint[0]["notes"] == ["Mind the heat."]
    assert "patches" not in load_bundle(site / "bundle").manifest.checkpoint[0]


def ready(monkeypatch: pytest.MonkeyPatch, site: Path) -> onnx.ModelProto:
    """The fp32 graph of the site in place of building it again: the same bytes, seconds less."""
    model = onnx.load(str(site / "bundle/image_encoder.onnx"))
    monkeypatch.setattr(tier_export.export, "encoder_graph", lambda *_: model)
    return model


def plant(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    """The exporter's graph gets another normalisation: half a grey level too bright."""
    shift = next(
        t
        for t in ready(monkeypatch, site).graph.initializer
        if np.prod(t.dims) == 1 and np.isclose(numpy_helper.to_array(t).item(), -2.0)
    )
    moved = numpy_helper.to_array(shift) + np.float32(0.5 / 255 / 0.25)
    shift.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), shift.name))


def test_a_breach_is_exit_5_and_no_bundle(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, site)
    result = export("-o", tmp_path / "bundle", site / "ckpt.pt")
    assert result.exit_code == 5
    assert "score Z differs by" in result.stderr
    assert "allowed 1e-05; " in result.stderr
    assert result.stderr.endswith("; no bundle was written\n")
    assert ", set chexpert, 320 phantoms)" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_table_says_what_the_fp16_twin_is_made_of(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 3 films; and a half that is none is refused like a broken gate."""
    args = ["--fp16", "--dataset", three_films(tmp_path), site / "ckpt.pt"]
    ready(monkeypatch, site)
    result = export("-o", tmp_path / "bundle", *args)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[0] == "against"
    assert [line.partition(" cpu")[0].split()[0] for line in lines[1:4]] == [
        "fp32,",
        "fp16,",
        "fp16,",
    ]
    assert lines[4] == (
        "fp16: 99.9% of weights half, 2 casts; in float32: normalisation, stem, unit norm, mean "
        "over patches"
    )
    monkeypatch.setattr(tier_export.export, "to_fp16", lambda model: model)
    refused = export("-o", tmp_path / "other", *args)
    assert refused.exit_code == 5
    assert "only 0% of the weights" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_breach_leaves_the_old_bundle(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))
    before = load_bundle(target).manifest
    plant(monkeypatch, site)
    assert export("-o", target, site / "ckpt.pt").exit_code == 5
    assert load_bundle(target).manifest == before


def test_a_write_that_fails_leaves_the_old_bundle(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))

    def damaged(folder: Path, unused: bool) -> None:
        raise IntegrityError(f"{folder.name} reads back wrong")

    ready(monkeypatch, site)
    monkeypatch.setattr(tier_export.writing, "load_bundle", damaged)
    assert export("-o", target, site / "ckpt.pt").exit_code == 4
    monkeypatch.undo()
    load_bundle(target)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_not_replaced(site: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    result = export("-o", tmp_path / "thesis", site / "ckpt.pt")
    assert result.exit_code == 2
    assert "is no bundle" in result.stderr
    assert (tmp_path / "thesis/chapter.tex").read_text() == "years of work"


def test_a_checkpoint_with_a_payload_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "canary").touch, ())

    buffer = io.BytesIO()
    torch.save({"format": "tier-cxr-checkpoint/1", "state": Payload()}, buffer)
    (tmp_path / "ckpt.pt").write_bytes(buffer.getvalue())
    result = export("-o", tmp_path / "bundle", tmp_path / "ckpt.pt")
    assert result.exit_code == 4
    assert "pickled code" in result.stderr
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nowhere.pt"], 2, "tier-train run"),
        (["--queries", "nothing", "ckpt.pt"], 2, "neither packaged"),
        (["--queries", "chexpert", "--queries", "chexpert", "ckpt.pt"], 2, "same name"),
        (["--crops", "nowhere.csv", "ckpt.pt"], 2, "does not exist"),
        (["--fp32", "ckpt.pt"], 2, "No such option"),
        ([], 2, "name a checkpoint"),
        (["--int8", "ckpt.pt"], 2, "took one"),
        (["manifest.csv"], 4, "no complete checkpoint"),
    ],
)
def test_refusals(
    site: Path, args: list[str], code: int, words: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(site)
    result = export("-o", tmp_path / "bundle", *args)
    assert result.exit_code == code
    assert words in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_int8_is_never_judged_on_what_it_was_calibrated_on(site: Path, tmp_path: Path) -> None:
    """Without a test split both fell back to all rows; a second manifest hid it as well."""
    table = three_films(tmp_path).read_text()
    ours, theirs = tmp_path / "mueller_hans_1957.csv", tmp_path / "theirs.csv"
    ours.write_text(table.replace(",test,", ",train,"))
    theirs.write_text("".join(table.splitlines(keepends=True)[:2]))
    for dataset, words in (
        (ours, "3 of 3 radiographs that --int8 is calibrated on are among the 3 radiographs "
               "without a test split that it is judged on"),
        (theirs, "1 of 3 radiographs that --int8 is calibrated on are among the 1 radiographs"),
    ):  # fmt: skip
        result = export(
            "--int8", ours, "--dataset", dataset, "-o", tmp_path / "bundle", site / "ckpt.pt"
        )
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert "calibrate on phantoms" in result.stderr
        assert not (tmp_path / "bundle").exists()


def test_help_shows_what_works() -> None:
    shown = export("--help").stdout
    for word in ("--fp16", "--queries", "--crops", "--output", "CKPT.pt"):
        assert word in shown
    assert "0.1.0" in export("--version").stdout


def test_the_manifest_is_json_for_anybody(site: Path) -> None:
    table = json.loads((site / "bundle/manifest.json").read_text())
    assert table["notice"] == "Research use only, not for diagnostic use."
    assert table["graph"]["encoder"]["inputs"]["pixels"] == {
        "dtype": "uint8",
        "shape": ["N", 112, 112],
    }


def test_label_sets_that_were_added_are_not_lost(site: Path, tmp_path: Path) -> None:
    """Found in review: an export over a bundle dropped its sets without a word."""
    target = Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))
    before = load_bundle(target).manifest
    result = export("--queries", "pneumonia", "-o", target, site / "ckpt.pt")
    assert result.exit_code == 2
    assert "holds the label sets chexpert" in result.stderr
    assert load_bundle(target).manifest == before


def test_json_and_the_next_command_name_what_was_written(site: Path, tmp_path: Path) -> None:
    target = tmp_path / "other"
    found = json.loads(export("--json", "-o", target, site / "ckpt.pt").stdout)
    manifest = load_bundle(target).manifest
    assert found["bundle"]["sha256"] == manifest.bundle_sha256
    assert found["files"] == manifest.files
    assert found["parity"] == manifest.parity
    again = export("-o", target, site / "ckpt.pt")
    assert again.stdout.endswith(f"next: tier-infer study.dcm --bundle {target}\n")
