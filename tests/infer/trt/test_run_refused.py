"""python -m pytest tests/infer/trt/test_run_refused.py -- plans that never answer.

On the fake GPU of test_run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import runtime

from tests.infer.trt.station import (
    DESERIALIZE,
    Station,
    pictures,
    sound,
    station,
)
from tier_infer.errors import DeviceError, ParityError, UsageError
from tier_infer.trt import loading, run
from tier_infer.trt.library import Library
from tier_infer.trt.run import open_engine

__all__ = ["sound", "station"]  # fixtures


SHAPE, DTYPE = "ICudaEngine.get_tensor_shape", "ICudaEngine.get_tensor_dtype"
FOREIGN: dict[str, tuple[str, Any, str]] = {  # what → the call, its answer, the words
    "grid": (SHAPE, lambda this, name: (-1, 8, 8, 2), r"shape \(-1, 8, 8, 2\), the manifest says"),
    "fixed batch": (SHAPE, lambda this, name: (4, 112, 112), "pixels are .*run tier-infer warmup"),
    "names": ("ICudaEngine.get_tensor_name", lambda this, index: f"t{index}", "'t0', 't1', 't2'"),
    "profiles": (
        "ICudaEngine.get_tensor_profile_shape",
        lambda this, name, profile_index: [(1, 112, 112), (4, 112, 112), (32, 112, 112)],
        "profiles are not those of its sidecar",
    ),
    "shape at work": (
        "IExecutionContext.get_tensor_shape",
        lambda this, name: (1, 5),
        r"gives image_embedding of shape \(1, 5\)",
    ),
}


@pytest.mark.parametrize("what", list(FOREIGN))
def test_an_engine_of_another_shape_is_refused(station: Station, what: str) -> None:
    call, answer, words = FOREIGN[what]
    station.engine.answers = {call: answer}
    station.install()
    station.refused(words)


def test_an_engine_with_another_type_is_refused(station: Station) -> None:
    types = station.install().module.DataType
    station.recorded.behaviour[DTYPE] = lambda this, name: types.HALF
    station.refused("pixels are DataType.HALF of shape")


REFUSALS = {
    "IExecutionContext.set_optimization_profile_async": False,
    "IExecutionContext.set_tensor_address": False,
    "IExecutionContext.set_input_shape": False,
    "IExecutionContext.infer_shapes": ["pixels"],
    "IExecutionContext.execute_async_v3": False,
    "ICudaEngine.create_execution_context": None,
    DESERIALIZE: None,
}


@pytest.mark.parametrize("call", list(REFUSALS))
def test_what_tensorrt_refuses_is_no_device(station: Station, call: str) -> None:
    station.engine.answers = {call: lambda this, **told: REFUSALS[call]}
    station.install()
    station.refused("refuses|no memory left")


@pytest.mark.parametrize(
    "function", ["cudaMalloc", "cudaHostAlloc", "cudaMemcpyAsync", "cudaStreamSynchronize"]
)
def test_what_cuda_refuses_is_no_device(station: Station, function: str) -> None:
    station.install()
    station.gpu.failing[function] = runtime.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(DeviceError, match=f"{function}: cudaErrorMemoryAllocation"):
        open_engine(station.bundle, "fp32")
    assert not station.gpu.device
    assert not station.gpu.pinned


def test_a_gpu_that_fails_later_gives_no_answer(station: Station) -> None:
    station.install()
    encoder = station.open()
    station.gpu.failing["cudaStreamSynchronize"] = runtime.cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
        encoder.encode(pictures(1))


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("what", ["plan", "sidecar", "seal", "foreign", "sm", "version", "onnx"])
def test_nothing_unverified_is_deserialised(station: Station, what: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "sm": {"sm": "sm86"},
        "version": {"version": "11.3.0.1"},
        "onnx": {"onnx_sha256": "0" * 64},
    }
    station.install(**changes.get(what, {}))
    plan = next((station.cache.folder / "engines").rglob("*.engine"))
    files = {"plan": plan, "sidecar": plan.with_suffix(".json")}
    files["seal"] = plan.with_suffix(".json.seal")
    if what in files:
        spoil(files[what])
    elif what == "foreign":
        (station.cache.folder / "key").write_bytes(b"k" * 32)
    station.refused("run tier-infer warmup$")
    assert station.recorded.called("Runtime.__init__") == []
    assert station.recorded.called(DESERIALIZE) == []


@pytest.mark.parametrize("version_compatible", [False, True])
def test_host_code_runs_only_where_the_sidecar_says_so(
    station: Station, version_compatible: bool
) -> None:
    recorded = station.install(version_compatible=version_compatible)
    station.open()
    allowed = recorded.called("Runtime.engine_host_code_allowed=")
    assert allowed == ([{"value": True}] if version_compatible else [])


@pytest.mark.parametrize("told", [{"float": 3}, "not run: no GPU here"])
def test_what_was_built_elsewhere_is_inspected_here(
    station: Station, monkeypatch: pytest.MonkeyPatch, told: object
) -> None:
    seen = []

    def inspected(library: Library, engine: Any, side: tuple[int, int], precision: str) -> None:
        seen.append((side, precision))
        raise ParityError("computes in half")

    monkeypatch.setattr(loading, "inspected", inspected)
    station.install(precision_proof={"inspector": told})
    if isinstance(told, dict):
        station.open()
        assert seen == []
    else:
        station.refused("computes in half", ParityError)
        assert seen == [((112, 112), "fp32")]


def test_without_a_gpu_no_library_is_touched(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVIDIA's libraries can end the process where there is no driver."""
    station.install()
    monkeypatch.setattr(run, "obstacles", lambda: ["there is no NVIDIA device node"])
    station.refused("tensorrt is not available: there is no NVIDIA device node; use --device cpu")
    assert station.recorded.calls == []
    assert station.gpu.calls == []


def test_a_precision_that_the_bundle_has_not(station: Station) -> None:
    station.install()
    with pytest.raises(UsageError, match="the bundle has no fp16 encoder"):
        open_engine(station.bundle, "fp16")
