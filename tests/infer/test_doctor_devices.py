"""python -m pytest tests/infer/test_doctor_devices.py -- GPU, TensorRT, TIER_CACHE."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.infer.test_doctor import failed, line, versions
from tests.infer.test_proof import Fake
from tier_infer import devices
from tier_infer import gpu as gpu_module
from tier_infer.bundle import load_bundle, sha256
from tier_infer.cache import Cache
from tier_infer.doctor import engines
from tier_infer.doctor.checks import exit_code, run_doctor
from tier_infer.doctor.installation import Check
from tier_infer.errors import DeviceError
from tier_infer.sessions import OnnxEncoder
from tier_infer.trt.library import Library
from tier_infer.trt.sidecar import Sidecar
from tier_infer.trt.store import save_engine

BOARD = gpu_module.Gpu("NVIDIA H100", "GPU-0", "sm90", "580.65.06", "13.0")


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and its driver, of which no engine can be had."""
    for module in (gpu_module, devices):
        monkeypatch.setattr(module, "obstacles", list)
    monkeypatch.setattr(gpu_module, "gpu", lambda: BOARD)

    def nothing(bundle: Any, device: str, precision: str) -> Any:
        if device == "cpu":
            return OnnxEncoder(bundle, "cpu", "fp32")
        raise DeviceError(f"device {device} is not available: lib{device}.so can't be loaded")

    monkeypatch.setattr(devices, "open_encoder", nothing)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_gpu_that_stands_idle(site: Path, board: None, device: str) -> None:
    """Whether cpu was asked for or auto came to it: it could not be used."""
    idle = line(run_doctor(site / "bundle", device), "gpu")
    assert idle.status == "warn"
    assert idle.sentence.startswith("NVIDIA H100, sm90, driver 580.65.06: not used; not tensorrt: ")
    for name in ("tensorrt", "tensorrt-ep", "cuda"):
        assert f"{name}: lib{name}.so can't be loaded" in idle.sentence


def test_a_gpu_that_was_not_asked_for(
    site: Path, board: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def granted(bundle: Any, device: str, precision: str) -> Any:
        return Fake(bundle, device) if device != "cpu" else OnnxEncoder(bundle, "cpu", "fp32")

    monkeypatch.setattr(devices, "open_encoder", granted)
    asked = line(run_doctor(site / "bundle", "cpu"), "gpu")
    assert asked.status == "ok"
    assert asked.sentence.endswith("not used, --device cpu was asked for")
    used = run_doctor(site / "bundle")
    assert line(used, "gpu").sentence.endswith("driver 580.65.06: used, by tensorrt")
    assert line(used, "device").sentence.startswith("tensorrt fp32 runs this bundle, chosen by aut")
    assert line(used, "golden vectors").sentence.startswith("tensorrt fp32 against 6 phantoms")


def test_no_gpu(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gpu_module, devices):
        monkeypatch.setattr(module, "obstacles", lambda: ["no node", "no driver"])
    found = run_doctor(site / "bundle")
    assert line(found, "gpu").status == "ok"
    assert line(found, "gpu").sentence.startswith("not used: no node; no driver")
    words = "cpu fp32 runs this bundle, chosen by auto; not tensorrt, tensorrt-ep, cuda: no node;"
    assert line(found, "device").sentence.startswith(words)


# TensorRT, and TIER_CACHE


def test_tensorrt_is_looked_up_and_not_loaded_without_a_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(engines, "find_library", never)
    monkeypatch.setattr(gpu_module, "obstacles", lambda: ["no driver"])
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    (none,) = engines.libraries()
    assert none.status == "ok"
    assert "neither tensorrt nor tensorrt_rtx is installed; no libnvinfer.so.10" in none.sentence
    monkeypatch.setattr(
        engines, "find_spec", lambda name: None if name == "tensorrt_libs" else object()
    )
    versions(monkeypatch, tensorrt=None, tensorrt_cu13="11.4.0.106", tensorrt_rtx="1.7.1.116")
    (both,) = engines.libraries()
    assert both.sentence.startswith("tensorrt 11.4.0.106, tensorrt_rtx 1.7.1.116; ")
    assert both.sentence.endswith("not loaded: there is no GPU here")


def test_the_tensorrt_that_onnxruntime_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt_libs").mkdir()
    (tmp_path / "tensorrt_libs/__init__.py").write_text("raise SystemExit('loaded')")
    (tmp_path / "tensorrt_libs/libnvinfer.so.10").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    (check,) = engines.libraries()
    assert "for tensorrt-ep libnvinfer.so.10 of the package tensorrt_libs" in check.sentence


def test_a_gpu_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None:
        raise DeviceError("no TensorRT: the package tensorrt is not installed")

    monkeypatch.setattr(gpu_module, "obstacles", list)
    monkeypatch.setattr(engines, "find_library", nothing)
    (check,) = engines.libraries()
    assert (check.status, check.sentence) == (
        "warn", "no TensorRT: the package tensorrt is not installed",
    )  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    return Cache()


def test_no_cache_yet_and_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    assert engines.open_cache()[1].status == "ok"
    assert not (tmp_path / "cache").exists()


def test_a_cache_open_to_others(site: Path, cache: Cache) -> None:
    cache.folder.chmod(0o755)
    found = run_doctor(site / "bundle")
    assert failed(found) == ["cache"]
    assert 'chmod 700 "$TIER_CACHE"' in line(found, "cache").sentence
    assert exit_code(found) == 4
    subprocess.run(["sh", "-c", 'chmod 700 "$TIER_CACHE"'], check=True)
    assert failed(run_doctor(site / "bundle")) == []


def test_a_key_open_to_others(site: Path, cache: Cache) -> None:
    (cache.folder / "key").chmod(0o644)
    found = run_doctor(site / "bundle")
    assert failed(found) == ["cache"]
    assert 'chmod 600 "$TIER_CACHE/key"' in line(found, "cache").sentence


def test_a_cache_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "file"))
    opened, check = engines.open_cache()
    assert opened is None
    assert check.status == "warn"
    assert "is no folder; name another folder in TIER_CACHE" in check.sentence
    assert str(tmp_path) not in check.sentence


def test_proofs_of_another_installation(site: Path, cache: Cache) -> None:
    run_doctor(site / "bundle", "cpu")
    assert line(run_doctor(site / "bundle", "cpu"), "cache").sentence.endswith("installation: 1")
    (cache.folder / "key").write_bytes(bytes(32))
    foreign = line(run_doctor(site / "bundle", "cpu"), "cache")
    assert foreign.status == "warn"
    assert "this installation: 0; 1 of another installation, or changed" in foreign.sentence


def test_engines_of_this_bundle(site: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(site / "bundle")
    plan, name = b"plan", "sm90-trt11.4.0.106-fp16"
    graph = bundle.manifest.files["image_encoder.fp16.onnx"]["sha256"]
    sidecar = Sidecar(
        plan_sha256=sha256(plan), plan_bytes=len(plan), library="tensorrt", version="11.4.0.106",
        cuda="13.0", driver="580.65.06", gpu="NVIDIA H100", sm="sm90", precision="fp16",
        onnx_sha256=graph, profiles=((1, 1, 1), (1, 8, 32)), hardware_compatibility="none",
        version_compatible=False, tf32=False,
    )  # fmt: skip

    def state() -> Check:
        return line(list(engines.engines(bundle, Cache())), "engine")

    (none,) = engines.engines(bundle, cache)
    assert "tier-infer warmup makes one" in none.sentence
    save_engine(bundle, plan, sidecar, f"{name}.engine", cache)
    assert state().status == "ok"
    assert "sealed by this installation, built for sm90; whether it fits" in state().sentence
    here = (Library("tensorrt", "11.4.0.106", None), BOARD)
    monkeypatch.setattr(engines, "_here", lambda: here)
    assert state().sentence.endswith("built for sm90, fits this machine")
    other = (here[0], replace(BOARD, sm="sm89"))
    monkeypatch.setattr(engines, "_here", lambda: other)
    assert state().status == "warn"
    assert "built for sm90, here are sm89; run tier-infer warmup" in state().sentence
    path = cache.folder / "engines" / bundle.manifest.bundle_sha256[:12] / f"{name}.engine"
    path.write_bytes(b"malice")
    assert state().status == "warn"
    assert "not loaded: " in state().sentence
    assert "run tier-infer warmup" in state().sentence


def test_contexts_of_tensorrt_in_onnxruntime(site: Path, cache: Cache) -> None:
    bundle = load_bundle(site / "bundle")
    name = f"contexts/{bundle.manifest.bundle_sha256[:12]}/sm90-fp16"
    for ending in (".onnx", ".json"):
        cache.write(f"{name}{ending}", b"context")
    assert line(list(engines.engines(bundle, cache)), "engine").status == "ok"
    (cache.folder / f"{name}.json").write_bytes(b"changed")
    changed = line(list(engines.engines(bundle, cache)), "engine")
    assert changed.status == "warn"
    assert "run tier-infer warmup --device tensorrt-ep" in changed.sentence
