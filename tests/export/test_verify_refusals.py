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
from tier_infer.errors import IntegrityError
from tier_infer.golden import TABLE, read_golden
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


def figures(certificate: Any, manifest: Any, value: Any) -> None:
    manifest.parity["fp16"]["max_dz"] = value
    for sets in certificate["precisions"]["fp16"]["proofs"].values():
        sets["chexpert"]["max_dz"] = value


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
        (lambda c, m: c.update(label_sets=[]), "is not a table of tier-parity/1"),
        (lambda c, m: c.update(machine="mine"), "is not a table of tier-parity/1"),
        (lambda c, m: figures(c, m, "x"), "is not a table of tier-parity/1"),
        (lambda c, m: figures(c, m, True), "is not a table of tier-parity/1"),
        (lambda c, m: figures(c, m, 10**400), "is not a table of tier-parity/1"),
        (lambda c, m: c["gates"]["fp16"].update(max_dz=9), "judged by other gates"),
        (lambda c, m: c["auc"].update(min_pairs=10**9), "judged by other gates"),
        (lambda c, m: c["crops"]["each"].reverse(), "lists other crops than those it names"),
        (
            lambda c, m: c["precisions"]["fp16"]["facts"].update(half_share=0.5),
            "0.5 for half_share",
        ),
        (lambda c, m: c["precisions"]["fp16"]["facts"].pop("casts_added"), "None for casts_added"),
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
        assert all(words.startswith("fp16") for words in broken)
        assert any(words.startswith("fp16 (onnxruntime ") for words in broken)


def elsewhere(certificate: dict[str, Any], manifest: Any) -> None:
    certificate["versions"]["onnxruntime"] = "1.0"


def int8_gate(**gate: float) -> Any:
    return lambda table: table["gates"].update(int8={"max_dz": 0.05, "max_dcell": 0.2} | gate)


def test_int8_is_measured_by_its_own_gate(copy: Path) -> None:
    """Coarse weights stand for a quantised graph; one Conv at a wrong scale moves AUC."""
    exact = load_bundle(copy).encoder("fp32")
    coarse = reweighted(exact, lambda _, w: of_bits(w, 8))
    reseal(copy, elsewhere, golden=int8_gate(), int8=coarse)
    fine = verify(copy)
    assert fine.exit_code == 0, fine.output
    assert "int8, onnxruntime" in fine.stdout
    convs = [n for n in onnx.load_model_from_string(exact).graph.node if n.op_type == "Conv"]
    name = convs[-4].input[1]
    reseal(copy, int8=reweighted(exact, lambda n, w: w * 4 if n == name else w))
    result = verify(copy)
    assert result.exit_code == 5, result.output
    assert "int8 (onnxruntime" in result.stdout
    assert "allowed 0.003" in result.stdout


def test_what_few_images_cannot_prove_hides_nothing(copy: Path, tmp_path: Path) -> None:
    """Found here: int8 was unprovable on three images, exit 2, and a broken fp32 went unnamed."""
    bundle, dataset = load_bundle(copy), films(tmp_path, 3)
    coarse = reweighted(bundle.encoder("fp32"), lambda _, w: of_bits(w, 8))
    reseal(copy, int8=coarse, golden=int8_gate())
    few = verify(copy, "--dataset", dataset)
    assert few.exit_code == 0, few.output
    assert "not proven on 3 images: int8 can't be proven" in few.stdout
    planted = brighter(bundle.encoder("fp32"), bundle.manifest.resolved_geometry(), 2)
    reseal(copy, fp32=planted)
    result = verify(copy, "--dataset", dataset)
    assert result.exit_code == 5, result.output
    assert "fp32 (golden vectors): " in result.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["gates"].pop("fp32"), "names no gate for fp32"),
        (lambda t: t["gates"].update(fp32={"max_dz": 9, "max_dcell": 9}), "gates for fp32 that"),
        (lambda t: t["gates"]["fp16"].update(max_dcell=float("inf")), "gates for fp16 that"),
        (lambda t: t["gates"]["fp16"].update(max_dz=1e-5), "gates for fp16 that"),
        (lambda t: t["gates"].pop("int8"), "names no gate for int8"),
        (int8_gate(max_dz=float("inf")), "gates for int8 that"),
        (int8_gate(max_dcell=float("nan")), "gates for int8 that"),
        (int8_gate(max_dcell=2), "gates for int8 that"),
        (int8_gate(max_dz=-1), "gates for int8 that"),
    ],
)
def test_a_bundle_does_not_choose_its_gates(quantised: Path, change: Any, words: str) -> None:
    """Found here: without its gate a wrong fp32 encoder was exit 0."""
    before = {name: (quantised / name).read_bytes() for name in (TABLE, "manifest.json")}
    try:
        reseal(quantised, golden=change)
        result = verify(quantised, "--json")
        assert result.exit_code == 4, result.output
        assert words in result.stderr
        with pytest.raises(IntegrityError, match=words):  # as `doctor` reads them
            read_golden(load_bundle(quantised))
    finally:
        for name, data in before.items():
            (quantised / name).write_bytes(data)


@pytest.fixture(scope="module")
def quantised(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(site / "bundle", tmp_path_factory.mktemp("int8") / "bundle"))
    coarse = reweighted(load_bundle(folder).encoder("fp32"), lambda _, w: of_bits(w, 8))
    reseal(folder, int8=coarse, golden=int8_gate())
    return folder


def test_an_infinite_golden_score_is_told_in_json(copy: Path) -> None:
    """Found here, it was a bug of ours and exit 1."""
    reseal(copy, golden=lambda t: t["scores"]["chexpert"]["z"][0].__setitem__(0, float("inf")))
    result = verify(copy, "--json")
    assert result.exit_code == 5, result.output
    assert json.loads(result.stdout)["golden"]["fp32"]["max_dz"] is None


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
