"""python -m pytest tests/infer/test_devices.py -- a --device by name is granted or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from click.testing import CliRunner, Result

from tests.infer.device_runs import NO_GPU, cpu_build, driver, make_folder, no_gpu
from tests.infer.tiny_bundle import write_bundle
from tier_infer import devices, sessions
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.cli import main
from tier_infer.devices import GPU_DEVICES, choose, resolved_precision
from tier_infer.errors import UsageError
from tier_infer.gpu import obstacles

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder / "bundle")


@pytest.fixture
def run(folder: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`tier-infer` in that folder, whose own TIER_CACHE is empty."""
    monkeypatch.chdir(folder)

    def ask(*args: object) -> Result:
        return runner.invoke(main, [str(arg) for arg in args])

    return ask


# Refused, each by name.


@pytest.mark.parametrize("device", GPU_DEVICES)
def test_a_gpu_that_is_not_there_is_exit_6(run: Run, device: str) -> None:
    if not obstacles():
        pytest.skip("this machine has a GPU")
    for args in (("study.dcm", "--json"), ("evaluate", "labels.csv", "--json")):
        result = run(*args, "--device", device)
        assert (result.exit_code, result.stdout) == (6, "")
        assert result.stderr.startswith(f"tier-infer: device {device} is not available: ")
        assert obstacles()[-1] in result.stderr
        assert "use --device cpu" in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("device", "package", "extra"),
    [
        ("cuda", "onnxruntime is a CPU build", "tier-cxr[gpu]"),
        ("tensorrt-ep", "onnxruntime is a CPU build", "tier-cxr[trt-ep]"),
        ("tensorrt", "neither tensorrt nor tensorrt_rtx is installed", "tier-cxr[tensorrt]"),
        ("tensorrt", "cuda-bindings is not installed", "tier-cxr[rtx]"),
    ],
)
def test_driver_and_package_are_named_together(
    run: Run, monkeypatch: pytest.MonkeyPatch, device: str, package: str, extra: str
) -> None:
    no_gpu(monkeypatch)
    cpu_build(monkeypatch)
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    result = run("study.dcm", "--device", device)
    assert (result.exit_code, result.stdout) == (6, "")
    for words in (*NO_GPU, package, extra, "install NVIDIA's driver"):
        assert words in result.stderr


@pytest.mark.parametrize("device", ["cuda", "tensorrt-ep"])
def test_a_cpu_build_beside_a_driver_is_exit_6(
    run: Run, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    driver(monkeypatch)
    cpu_build(monkeypatch)
    result = run("study.dcm", "--device", device, "--json")
    assert (result.exit_code, result.stdout) == (6, "")
    assert f"device {device} is not available: the installed onnxruntime" in result.stderr


@pytest.mark.parametrize(
    ("device", "library"),
    [("cuda", "onnxruntime_providers_cuda"), ("tensorrt-ep", "onnxruntime_providers_tensorrt")],
)
def test_a_gpu_build_without_its_libraries_is_exit_6(
    run: Run, monkeypatch: pytest.MonkeyPatch, device: str, library: str
) -> None:
    """It lists the provider; this one lacks the library itself."""
    driver(monkeypatch)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    every = [*sessions.PROVIDERS.values()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    result = run("study.dcm", "--device", device, "--json")
    assert (result.exit_code, result.stdout) == (6, "")
    assert f"{library}." in result.stderr
    assert str(Path(onnxruntime.__file__).parent) not in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_tensorrt_beside_a_driver_is_exit_6(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tier_infer.trt import library
    from tier_infer.trt import run as native

    def nothing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    driver(monkeypatch)
    monkeypatch.setattr(native, "obstacles", list)
    monkeypatch.setattr(library.importlib, "import_module", nothing)
    result = run("study.dcm", "--device", "tensorrt", "--json")
    assert (result.exit_code, result.stdout) == (6, "")
    assert result.stderr.startswith("tier-infer: device tensorrt is not available: ")
    for words in ("the package tensorrt is not installed", "pip install 'tier-cxr[rtx]'"):
        assert words in result.stderr


def test_an_unknown_device_is_a_usage_error(run: Run) -> None:
    result = run("study.dcm", "--device", "npu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "allowed: auto, cpu, cuda, tensorrt-ep, tensorrt" in result.stderr


def test_help_names_every_device(run: Run) -> None:
    for args in (("--help",), ("evaluate", "--help"), ("doctor", "--help")):
        told = " ".join(run(*args).stdout.split())
        assert "--device auto|cpu|cuda|tensorrt|tensorrt-ep " in told
    assert {"auto", "cpu", *GPU_DEVICES} == set(devices.DEVICES)


# Precision.


def test_precision_by_device(bundle: Bundle, tmp_path: Path) -> None:
    entry = bundle.manifest.files["image_encoder.onnx"]
    both = {**bundle.manifest.files, "image_encoder.fp16.onnx": entry | {"precision": "fp16"}}
    (tmp_path / "image_encoder.fp16.onnx").write_bytes(bundle.encoder("fp32"))
    with_half = load_bundle(write_bundle_of(tmp_path, both))
    for device in GPU_DEVICES:
        assert resolved_precision(bundle, device, "auto") == "fp32"
        assert resolved_precision(with_half, device, "auto") == "fp16"
        assert resolved_precision(with_half, device, "fp32") == "fp32"
        with pytest.raises(UsageError, match="int8 encoder is made for CPUs"):
            resolved_precision(with_half, device, "int8")
    assert resolved_precision(with_half, "cpu", "auto") == "fp32"
    for precision in ("fp32", "fp16", "int8"):
        assert resolved_precision(with_half, "cpu", precision) == precision


def write_bundle_of(place: Path, files: dict[str, Any]) -> Path:
    return write_bundle(place, "small-112", files=files)


def test_int8_asked_of_a_gpu_is_a_usage_error_and_of_auto_a_cpu(
    run: Run, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(monkeypatch)
    for device in GPU_DEVICES:
        result = run("study.dcm", "--device", device, "--precision", "int8")
        assert (result.exit_code, result.stdout) == (2, "")
    monkeypatch.setattr(devices, "open_encoder", lambda _, device, precision: (device, precision))
    found, passed_over = choose(bundle, "auto", "int8")
    assert found == ("cpu", "int8")
    assert passed_over == dict.fromkeys(GPU_DEVICES, "the int8 encoder is made for CPUs")
