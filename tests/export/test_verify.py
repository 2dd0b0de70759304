"""python -m pytest tests/export/test_verify.py -- the certificate replayed on sound bundles."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.export.resealed import DRAWN, films, reseal, verify
from tier_export.cli import main
from tier_export.crops import manifest_crops
from tier_infer.bundle import load_bundle, sha256


@pytest.fixture
def copy(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_sound_bundle_without_checkpoint(site: Path) -> None:
    before = snapshot(site / "bundle")
    result = verify(site / "bundle")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"bundle {load_bundle(site / 'bundle').manifest.bundle_sha256[:12]}")
    assert [x.partition(": ")[0] for x in lines[1:3]] == [
        "golden vectors, fp32", "golden vectors, fp16"]  # fmt: skip
    assert lines[3].startswith("against onnxruntime ")
    assert lines[4].startswith("fp16, onnxruntime ")
    assert "measured on 320 phantoms" in lines
    figures = 4 * len(json.loads((site / "bundle/parity.json").read_text())["label_sets"])
    assert lines[-1] == f"{figures} figures agree with the certificate's"
    assert "note: label sets not proven: the bundle holds no text tower" in result.stdout
    assert max(map(len, lines)) <= 100
    assert snapshot(site / "bundle") == before


def test_against_the_checkpoint_pytorch_holds_everything(site: Path) -> None:
    result = verify(site / "bundle", "--against", site / "ckpt.pt", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["schema"] == "tier-verify/1"
    assert found["reference"] == f"PyTorch {torch.__version__} fp32"
    assert [len(found["proofs"][p]) for p in ("fp32", "fp16")] == [1, 2]
    certified = json.loads((site / "bundle/parity.json").read_text())
    assert found["crops"]["sha256"] == certified["crops"]["sha256"]
    assert (found["certificate_crops"], found["differences"]) == (True, [])
    assert (found["broken"], found["notes"]) == ([], [])
    for precision, machines in found["proofs"].items():
        for machine, sets in machines.items():
            then = certified["precisions"][precision]["proofs"][machine]["chexpert"]
            assert sets["chexpert"]["max_dz"] == pytest.approx(then["max_dz"], rel=0.1, abs=5e-7)
    assert found["golden"]["fp16"]["max_dz"] > 0


def test_a_bundle_of_fp32_alone_says_what_was_not_measured(site: Path, copy: Path) -> None:
    reseal(copy, drop="fp16")
    result = verify(copy)
    assert result.exit_code == 0, result.output
    assert "against onnxruntime" not in result.stdout
    assert result.stdout.splitlines()[-1].startswith("no more than the golden vectors was measured")
    assert "fp32, onnxruntime" in verify(copy, "--against", site / "ckpt.pt").stdout


def test_where_the_bundle_lies(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    assert verify().exit_code == 0  # ./bundle
    monkeypatch.chdir(site.parent)
    assert verify(TIER_BUNDLE=str(site / "bundle")).exit_code == 0
    missing = verify(TIER_BUNDLE="")
    assert missing.exit_code == 2
    assert "no bundle folder at bundle" in missing.stderr


def test_no_torch_is_needed(site: Path) -> None:
    code = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'onnx', 'onnxscript',\n"
        "                                      'sklearn', 'tokenizers'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "from tier_export.cli import main\n"
        "main(['verify', 'bundle'])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "figures agree with the certificate's" in done.stdout
    assert "note: facts about the encoders not measured: no onnx is installed" in done.stdout


def test_other_images_are_measured_and_not_compared(site: Path, tmp_path: Path) -> None:
    result = verify(site / "bundle", "--dataset", films(tmp_path, 5))
    assert result.exit_code == 0, result.output
    assert "measured on 5 of 5 images of " in result.stdout
    assert "note: the certificate was measured on other crops, 320 phantoms" in result.stdout
    assert "not compared with the certificate's" in result.stdout


def test_a_certificate_on_radiographs_asks_for_them(copy: Path, tmp_path: Path) -> None:
    dataset, manifest = films(tmp_path, 3), load_bundle(copy).manifest
    crops = manifest_crops(dataset, manifest.resolved_geometry(), manifest.intensity)
    identity = {"source": crops.source, "sha256": sha256(crops.pixels.tobytes())}
    each = {"count": 3, "each": [sha256(crop.tobytes()) for crop in crops.pixels]}

    def measured_there(certificate: dict[str, Any], manifest: Any) -> None:
        certificate["crops"], manifest.parity["crops"] = identity | each, identity
        certificate["versions"]["onnxruntime"] = "1.0"  # its figures are those of phantoms

    reseal(copy, measured_there)
    again = verify(copy, "--dataset", dataset)
    assert again.exit_code == 0, again.output
    assert "the certificate was measured on" not in again.stdout
    assert "not compared" not in again.stdout
    without = verify(copy)
    assert without.exit_code == 0
    assert f"note: the certificate was measured on {crops.source}: name them" in without.stdout


def test_phantoms_of_another_version_are_told(copy: Path) -> None:
    def redrawn(*args: Any) -> Any:
        crops = DRAWN(*args)
        return replace(crops, pixels=crops.pixels ^ 1)

    result = verify(copy, drawn=redrawn)
    assert result.exit_code == 0, result.output
    assert "draws other phantoms than those of the certificate" in result.stdout
    assert "not compared" in result.stdout


def embellish(certificate: dict[str, Any], manifest: Any) -> None:
    for row in certificate["precisions"]["fp16"]["proofs"].values():
        row["chexpert"]["max_dcell"] = manifest.parity["fp16"]["max_dcell"] = 9e-3


def test_figures_of_another_machine_may_differ(copy: Path) -> None:
    def elsewhere(certificate: dict[str, Any], manifest: Any) -> None:
        embellish(certificate, manifest)
        certificate["machine"]["instruction_sets"] = ["neon"]

    reseal(copy, elsewhere)
    result = verify(copy)
    assert result.exit_code == 0, result.output  # the gates hold
    (last,) = [x for x in result.stdout.splitlines() if x.startswith("not the certificate's")]
    assert "max_dcell is" in last
    assert "the certificate says 0.009" in last
    assert "max_dz" not in last
    assert "not the certificate's figures: 1 of 4, measured on another machine" in result.stderr


def test_figures_of_the_same_machine_may_not(site: Path, copy: Path) -> None:
    """Found here, resealed figures were exit 0 with a line that nobody reads."""
    reseal(copy, embellish)
    for more in ((), ("--against", site / "ckpt.pt")):
        result = verify(copy, *more)
        assert result.exit_code == 5, result.output
        assert "the certificate says 0.009, measured on the same crops" in result.stderr


def test_nothing_compared_is_no_agreement(copy: Path) -> None:
    def elsewhere(certificate: dict[str, Any], manifest: Any) -> None:
        proofs = certificate["precisions"]["fp16"]["proofs"]
        (name,) = [name for name in proofs if name.startswith("onnxruntime ")]
        proofs["TensorRT 11 gpu"] = proofs.pop(name)

    reseal(copy, elsewhere)
    result = verify(copy)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == (
        "none of these figures is in the certificate: nothing was compared"
    )
    assert json.loads(verify(copy, "--json").stdout)["compared"] == 0


def test_a_label_set_that_came_later_is_proven_too(site: Path, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "lungs.toml").write_text(
        'set = "lungs"\n[[label]]\nid = "wet"\npositive = ["Edema is present."]\n'
        'negative = ["The lungs are clear."]\n'
    )
    more = ["labels", "--queries", tmp_path / "lungs.toml", "--bundle", copy]
    done = CliRunner().invoke(main, [*map(str, more), "--checkpoint", str(site / "ckpt.pt")])
    assert done.exit_code == 0, done.output
    result = verify(copy, "--against", site / "ckpt.pt")
    assert result.exit_code == 0, result.output
    assert "note: not in the certificate, added or replaced later: lungs" in result.stdout
    lines = result.stdout.splitlines()
    sets = [n for n, line in enumerate(lines) if line in ("set chexpert", "set lungs")]
    assert len(sets) == 2
    assert "not gated (0)" in lines[sets[1] + 1] + lines[sets[0] + 1]
