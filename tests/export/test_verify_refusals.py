"""python -m pytest tests/export/test_verify_refusals.py -- what `tier-export verify` refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.export.resealed import films, reseal, verify
from tests.parity.sides import brighter, of_bits, reweighted
from tier_infer.bundle import load_bundle
from tier_train.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def copy(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))


def test_another_checkpoint_is_refused(site: Path, tmp_path: Path) -> None:
    own = load_checkpoint(site / "ckpt.pt")
    save_checkpoint(tmp_path / "other.pt", replace(own, training=own.training | {"data": "else"}))
    result = verify(site / "bundle", "--against", tmp_path / "other.pt")
    assert result.exit_code == 4
    assert "the bundle was exported from" in result.stderr
    missing = verify(site / "bundle", "--against", tmp_path / "nowhere.pt")
    assert missing.exit_code == 2


@pytest.mark.parametrize(
    "file", ["image_encoder.fp16.onnx", "parity.json", "queries/chexpert.onnx"]
)
def test_a_changed_byte_is_refused(copy: Path, file: str) -> None:
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).write_bytes(data)
    result = verify(copy)
    assert result.exit_code == 4
    assert f"{Path(file).name} was changed" in result.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, m: c.update(bundle_sha256="0" * 64), "bundle_sha256 differ"),
        (lambda c, m: c["precisions"]["fp16"].update(sha256="0" * 64), "the encoders differ"),
        (lambda c, m: c["precisions"].pop("fp16"), "the encoders differ"),
        (lambda c, m: c.update(checkpoints=["0" * 64]), "checkpoints differ"),
        (lambda c, m: c.update(text_sha256="0" * 64), "the text towers differ"),
        (lambda c, m: c["crops"].update(source="9 films"), "the summary differ"),
        (lambda c, m: m.parity["fp32"].update(max_dz=0.0), "the summary differ"),
        (lambda c, m: c.update(schema="tier-parity/9"), "is not a table of tier-parity/1"),
        (lambda c, m: c.update(precisions=[]), "is not a table of tier-parity/1"),
        (lambda c, m: c["precisions"].update(int4={}), "is not a table of tier-parity/1"),
        (lambda c, m: c.pop("label_sets"), "is not a table of tier-parity/1"),
    ],
)
def test_a_certificate_of_another_bundle_is_refused(copy: Path, change: Any, words: str) -> None:
    reseal(copy, change)
    result = verify(copy)
    assert result.exit_code == 4, result.output
    assert words in result.stderr


def test_a_bundle_without_proof_is_refused(copy: Path) -> None:
    manifest = load_bundle(copy).manifest
    (copy / "manifest.json").write_text(replace(manifest, certificate={}).to_json())
    result = verify(copy)
    assert result.exit_code == 2
    assert "has no parity.json; export it again" in result.stderr
    (copy / "manifest.json").write_text(replace(manifest, golden={}).to_json())
    result = verify(copy)
    assert result.exit_code == 2
    assert "has no golden vectors" in result.stderr


def test_a_planted_fp32_encoder_breaks_the_golden_vectors(copy: Path) -> None:
    bundle = load_bundle(copy)
    planted = brighter(bundle.encoder("fp32"), bundle.manifest.resolved_geometry(), 2)
    reseal(copy, fp32=planted)
    result = verify(copy)
    assert result.exit_code == 5, result.output
    assert "fp32 (golden vectors): " in result.stderr
    assert "allowed 1e-05" in result.stderr
    assert "BROKEN: fp32 (golden vectors): " in result.stdout


def test_a_planted_fp16_encoder_breaks_its_gates(site: Path, copy: Path) -> None:
    reseal(copy, fp16=reweighted(load_bundle(copy).encoder("fp16"), lambda _, w: of_bits(w, 6)))
    for more in ((), ("--against", site / "ckpt.pt")):
        result = verify(copy, *more, "--json")
        assert result.exit_code == 5, result.output
        assert "parity broken on this machine, fp16 (" in result.stderr
        broken = json.loads(result.stdout)["broken"]
        assert all(words.startswith("fp16 (") for words in broken)
        assert any(words.startswith("fp16 (onnxruntime ") for words in broken)


def test_int8_is_measured_by_its_own_gate(copy: Path, tmp_path: Path) -> None:
    """Coarse weights stand for a quantised graph; one Conv at a wrong scale moves AUC."""
    exact = load_bundle(copy).encoder("fp32")
    coarse = reweighted(exact, lambda _, w: of_bits(w, 8))
    reseal(copy, int8=coarse, golden=lambda table: table["gates"].pop("int8", None))
    fine = verify(copy)
    assert fine.exit_code == 0, fine.output
    assert "note: the golden vectors have no gate for int8" in fine.stdout
    assert "int8, onnxruntime" in fine.stdout
    few = verify(copy, "--dataset", films(tmp_path, 3))
    assert few.exit_code == 2
    assert "int8 can't be proven" in few.stderr
    convs = [n for n in onnx.load_model_from_string(exact).graph.node if n.op_type == "Conv"]
    name = convs[-4].input[1]
    reseal(copy, int8=reweighted(exact, lambda n, w: w * 4 if n == name else w))
    result = verify(copy)
    assert result.exit_code == 5, result.output
    assert "int8 (onnxruntime" in result.stderr
    assert "allowed 0.003" in result.stderr


def test_an_encoder_that_gives_nan_is_told_in_json(copy: Path) -> None:
    """As reference of its twins, too: found here, it was a bug of ours and exit 1."""
    exact = load_bundle(copy).encoder("fp32")
    reseal(copy, fp32=reweighted(exact, lambda _, w: w * np.float32(np.nan)))
    result = verify(copy, "--json")
    assert result.exit_code == 5, result.output
    found = json.loads(result.stdout)
    assert found["golden"]["fp32"]["max_dz"] is None
    assert any("image_embedding of the reference: " in words for words in found["broken"])


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nowhere"], 2, "no bundle folder at nowhere"),
        (["images"], 4, "holds no manifest.json"),
        (["bundle", "--dataset", "nowhere.csv"], 2, "does not exist"),
        (["bundle", "--against", "manifest.csv"], 4, "no complete checkpoint"),
        (["bundle", "--fast"], 2, "No such option"),
    ],
)
def test_refusals(
    site: Path, args: list[str], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    result = verify(*args)
    assert result.exit_code == code
    assert words in result.stderr


def test_help_shows_what_works() -> None:
    shown = verify("--help").stdout
    for word in ("[BUNDLE]", "--against", "--dataset", "--json"):
        assert word in shown
