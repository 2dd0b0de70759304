"""python -m pytest tests/export/test_triton_plans.py -- TensorRT plans for a Triton server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2

from tests.export.test_triton import spread
from tests.export.test_triton_cli import refused, triton
from tests.export.triton_server import Models, config_of
from tests.infer import tiny_bundle
from tier_export.triton import make_repository
from tier_export.triton_plans import Plans, gathered
from tier_infer.bundle import load_bundle, sha256
from tier_infer.cache import Cache
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.trt.sidecar import Sidecar
from tier_infer.trt.store import save_engine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle.write_bundle(tmp_path / "bundle", "small-112")


def sidecar(**changes: Any) -> Sidecar:
    fields: dict[str, Any] = {
        "plan_sha256": sha256(b"plan"),
        "plan_bytes": 4,
        "library": "tensorrt",
        "version": "10.13.0.35",
        "cuda": "13.0",
        "driver": "580.65",
        "gpu": "NVIDIA RTX A4000",
        "sm": "sm86",
        "precision": "fp16",
        "onnx_sha256": "o" * 64,
        "profiles": ((1, 1, 1), (1, 8, 32)),
        "hardware_compatibility": "none",
        "version_compatible": False,
        "tf32": False,
    }
    return Sidecar(**(fields | changes))


def plans(*sidecars: Sidecar) -> Plans:
    return gathered([(f"{n}.engine", b"plan", s) for n, s in enumerate(sidecars)], "o" * 64)


def test_plans_are_chosen_by_the_gpu(bundle: Path, tmp_path: Path) -> None:
    """No default file and no CPU: another GPU does not load the model. Profile 1 is for batches;
    the backend's own choice would be the first."""
    found = plans(sidecar(), sidecar(sm="sm120"), sidecar(sm="sm90"))
    made = make_repository(load_bundle(bundle), plans=found)
    config = config_of(spread(tmp_path / "models", made.files) / "tier_encoder")
    files = {"8.6": "model_sm86.plan", "12.0": "model_sm120.plan", "9.0": "model_sm90.plan"}
    assert dict(config.cc_model_filenames) == files
    assert sorted(p.name for p in (tmp_path / "models/tier_encoder/1").iterdir()) == sorted(
        files.values()
    )
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "")
    (group,) = config.instance_group
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == "KIND_GPU"
    assert list(group.profile) == ["1"]
    assert not config.HasField("optimization")
    assert made.listing["tensorrt"] == "10.13.0.35"
    assert made.listing["device"] == "cuda"


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"version": "11.4.0.106", "sm": "sm89"}, "TensorRT versions: 10.13.0.35, 11.4.0.106"),
        ({"sm": "sm86"}, "two plans for sm86"),
        ({"sm": "sm89", "profiles": ((1, 1, 1),)}, "sm89 has no profile for batches of 1 to 32"),
        ({"sm": "sm89", "profiles": ((1, 8, 32),)}, "different sets of profiles: 0, 1"),
    ],
)
def test_plans_that_one_server_can_not_serve_are_refused(
    others: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        plans(sidecar(), sidecar(**others))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"onnx_sha256": "p" * 64}, "another graph or library"),
        ({"library": "tensorrt_rtx"}, "another graph or library"),
        ({"sm": "sm8"}, "GPU generation 'sm8'"),
        ({"sm": "../x"}, "GPU generation"),
    ],
)
def test_a_plan_of_something_else_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        plans(sidecar(**wrong))


@pytest.fixture
def planned(bundle: Path) -> Path:
    """The bundle with two plans of this installation, which nobody runs, and one of TensorRT-RTX,
    which is no file for Triton."""
    for sm, library in (("sm86", "trt10.13.0.35"), ("sm89", "trt10.13.0.35"), ("sm86", "rtx1.7.1")):
        save_plan(bundle, sm, library)
    return bundle


def save_plan(folder: Path, sm: str, library: str) -> None:
    opened = load_bundle(folder)
    plan = f"plan for {sm}".encode()
    fits = {
        "sm": sm,
        "precision": "fp32",
        "library": "tensorrt_rtx" if library.startswith("rtx") else "tensorrt",
        "version": library[3:],
        "onnx_sha256": opened.manifest.files["image_encoder.onnx"]["sha256"],
        "plan_sha256": sha256(plan),
        "plan_bytes": len(plan),
    }
    name = f"{sm}-{library}-fp32.engine"
    save_engine(opened, plan, sidecar(**fits), name, Cache(), folder / "engines")


def test_sealed_plans_become_the_encoder(planned: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    result = triton(planned, out, "--plans")
    assert result.exit_code == 0, result.output
    assert "TensorRT 10.13.0.35, device cuda" in result.stdout
    files = {p.name: p.read_bytes() for p in (out / "tier_encoder/1").iterdir()}
    assert files == {f"model_{sm}.plan": f"plan for {sm}".encode() for sm in ("sm86", "sm89")}
    assert Models(out).configs["tier_encoder"].platform == "tensorrt_plan"


def test_without_the_option_no_plan_is_served(planned: Path, tmp_path: Path) -> None:
    assert triton(planned, tmp_path / "models").exit_code == 0
    assert [p.name for p in (tmp_path / "models/tier_encoder/1").iterdir()] == ["model.onnx"]


def test_a_plan_that_this_installation_did_not_make_is_refused(
    planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "models"
    engine = planned / "engines/sm86-trt10.13.0.35-fp32.engine"
    plan = engine.read_bytes()
    engine.write_bytes(b"x" + plan[1:])
    refused(4, "not the one that its sidecar describes", planned, out, "--plans")
    engine.write_bytes(plan)
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "another"))
    refused(4, "made on another installation", planned, out, "--plans")
    monkeypatch.undo()
    engine.with_suffix(".seal").unlink()
    refused(4, "has no seal", planned, out, "--plans")
    assert not out.exists()


def test_plans_that_are_not_there_are_refused(bundle: Path, tmp_path: Path) -> None:
    refused(2, "no TensorRT plan of its fp32 encoder", bundle, tmp_path / "models", "--plans")
    save_plan(bundle, "sm86", "rtx1.7.1")
    refused(2, "no TensorRT plan of its fp32 encoder", bundle, tmp_path / "models", "--plans")
