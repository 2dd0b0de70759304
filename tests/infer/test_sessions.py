"""python -m pytest tests/infer/test_sessions.py -- onnxruntime, held to the device asked for.

Azure's provider is part of onnxruntime's CPU builds and computes nothing itself. It stands for a
GPU: a session that asks for it lists it first, and every node is at the CPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from tests.infer.tiny_bundle import encoder, write_bundle
from tier_infer import provider_libraries, sessions
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.errors import DeviceError, UsageError
from tier_infer.sessions import OnnxEncoder, open_session, refusal, run_encoder

AZURE, CPU = "AzureExecutionProvider", "CPUExecutionProvider"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 112, 112), dtype=np.uint8)
# What onnxruntime-gpu 1.31.1 understands: `strings` on libonnxruntime_providers_tensorrt.so and
# onnxruntime_pybind11_state*.so. The latter refuses other words than True and False.
TENSORRT_SWITCHES = """
    trt_bf16_enable trt_build_heuristics_enable trt_context_memory_sharing_enable
    trt_cuda_graph_enable trt_detailed_build_log trt_dla_enable trt_dump_ep_context_model
    trt_dump_subgraphs trt_engine_cache_enable trt_engine_decryption_enable
    trt_engine_hw_compatible trt_force_sequential_engine_build trt_force_timing_cache
    trt_fp16_enable trt_int8_enable trt_int8_use_native_calibration_table
    trt_layer_norm_fp32_fallback trt_sparsity_enable trt_timing_cache_enable
    trt_weight_stripped_engine_enable
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("tiny"), "small-112"))


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's provider in the place of CUDA's."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # set by whatever opens a GPU; put back here
    monkeypatch.setattr(sessions, "PROVIDERS", {"cpu": CPU, "cuda": AZURE})
    monkeypatch.setattr(sessions, "SETTINGS", {"cpu": {}, "cuda": {}})
    monkeypatch.setattr(sessions, "gpu", lambda: "GPU 0")


def started(bundle: Bundle) -> OnnxEncoder:
    """An encoder on that GPU, in a session that nobody keeps from falling back."""
    session = onnxruntime.InferenceSession(bundle.encoder("fp32"), providers=[AZURE])
    return OnnxEncoder(bundle, "cuda", "fp32", session)


class Failing:
    """onnxruntime's C session on a GPU that is lost: whatever runs fails as a provider fails."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run(self, *_: Any) -> Any:
        raise EPFail("CUDA failure 719: unspecified launch failure in /home/somebody/x.cc")


# At the start.


@pytest.mark.usefixtures("as_gpu")
def test_a_provider_that_takes_no_node_is_no_device(
    capfd: pytest.CaptureFixture[str], bundle: Bundle
) -> None:
    left_alone = onnxruntime.InferenceSession(bundle.encoder("fp32"), providers=[AZURE])
    assert left_alone.get_providers() == [AZURE, CPU]  # and says nothing of it
    with pytest.raises(DeviceError, match="device cuda is not available"):
        open_session(bundle.encoder("fp32"), "cuda")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("as_gpu")
def test_a_start_that_fails_is_not_tried_elsewhere(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime-gpu without TensorRT raises a RuntimeError; onnxruntime itself would go on."""
    create = onnxruntime.InferenceSession._create_inference_session
    tried: list[Any] = []

    def lacking(self: Any, providers: Any, *rest: Any) -> None:
        tried.append(providers)
        if len(tried) == 1:
            raise RuntimeError("Please install TensorRT libraries in /home/somebody")
        create(self, providers, *rest)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", lacking)
    with pytest.raises(DeviceError, match="device cuda is not available") as caught:
        open_session(bundle.encoder("fp32"), "cuda")
    assert "somebody" not in str(caught.value)
    assert len(tried) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "found", [[CPU], [CPU, AZURE], [AZURE, "XExecutionProvider", CPU], [], None]
)
def test_only_the_provider_asked_for_may_stand_there(
    found: list[str] | None, as_gpu: None, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = started(bundle)
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: found)
    with pytest.raises(DeviceError, match="device cuda was asked for") as caught:
        encoder.encode(PIXELS)
    assert ", ".join(found or ["nothing"]) in str(caught.value)


def test_a_cpu_build_is_named(bundle: Bundle) -> None:
    for device, extra in (("cuda", r"tier-cxr\[gpu\]"), ("tensorrt-ep", r"tier-cxr\[trt-ep\]")):
        if sessions.PROVIDERS[device] in onnxruntime.get_available_providers():
            pytest.skip("onnxruntime-gpu is installed")
        with pytest.raises(DeviceError, match=f"CPU build; use --device cpu, or pip .*{extra}"):
            open_session(bundle.encoder("fp32"), device)


def test_an_onnxruntime_in_parts_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left where two distributions were installed and one was uninstalled."""
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    for device in ("cpu", "cuda"):
        with pytest.raises(UsageError, match=r"in parts only, .* tier-infer doctor"):
            open_session(bundle.encoder("fp32"), device)


# Later.


@pytest.mark.usefixtures("as_gpu")
def test_a_session_moved_to_the_cpu_gives_no_scores(bundle: Bundle) -> None:
    encoder = started(bundle)
    assert np.isfinite(encoder.encode(PIXELS).image).all()
    encoder._session.set_providers([CPU])
    with pytest.raises(DeviceError, match=f"by {CPU}; nothing was scored"):
        encoder.encode(PIXELS)


@pytest.mark.usefixtures("as_gpu")
def test_a_lost_gpu_is_told_where_onnxruntime_goes_on_at_the_cpu(
    bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    session = started(bundle)._session
    session._sess = Failing(session._sess)
    assert np.isfinite(run_encoder(session, PIXELS).image).all()  # of the CPU
    assert session.get_providers() == [CPU]
    assert "Falling back" in capfd.readouterr().out
    encoder = started(bundle)
    encoder._session._sess = Failing(encoder._session._sess)
    encoder._session.enable_fallback()
    with pytest.raises(DeviceError, match=r"gave up while it ran \(EPFail\)") as caught:
        encoder.encode(PIXELS)
    assert "somebody" not in str(caught.value)
    assert isinstance(caught.value.__cause__, EPFail)  # for --debug
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("as_gpu")
def test_scores_of_a_fallback_never_leave(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an onnxruntime went on at the CPU whatever it is told."""
    monkeypatch.setattr(onnxruntime.InferenceSession, "disable_fallback", lambda _: None)
    encoder = started(bundle)
    encoder._session._sess = Failing(encoder._session._sess)
    with pytest.raises(DeviceError, match=f"device cuda was asked for, .* by {CPU};"):
        encoder.encode(PIXELS)


def test_a_cpu_that_fails_is_no_missing_device(bundle: Bundle) -> None:
    encoder = OnnxEncoder(bundle, "cpu", "fp32")
    encoder._session._sess = Failing(encoder._session._sess)
    with pytest.raises(EPFail):
        encoder.encode(PIXELS)


# What a provider is told.


class Told(Exception):
    pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str, dict[str, str]]]:
    """Device → provider and settings that onnxruntime gets."""

    def refuse(*_: Any, providers: list[tuple[str, dict[str, str]]], **__: Any) -> None:
        raise Told(providers)

    def ask(device: str) -> tuple[str, dict[str, str]]:
        with pytest.raises(Exception, match=r"not available|can't load") as caught:
            open_session(encoder(112, 7), device)
        cause = caught.value.__cause__ or caught.value.__context__
        assert isinstance(cause, Told)
        (asked,) = cause.args[0]
        return asked

    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    return ask


def test_the_cpu_is_asked_for_alone_and_no_gpu_ever_with_it(
    told: Callable[[str], tuple[str, dict[str, str]]],
) -> None:
    assert told("cpu") == (CPU, {})
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"
    assert told("cuda")[0] == "CUDAExecutionProvider"
    assert told("tensorrt-ep")[0] == "TensorrtExecutionProvider"


def test_tf32_is_off_on_every_gpu(told: Callable[[str], tuple[str, dict[str, str]]]) -> None:
    assert told("cuda")[1] == {"use_tf32": "0"}
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    os.environ["NVIDIA_TF32_OVERRIDE"] = "1"
    told("tensorrt-ep")
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


def test_tensorrt_takes_types_from_the_graph_and_engines_from_nowhere(
    told: Callable[[str], tuple[str, dict[str, str]]],
) -> None:
    settings = told("tensorrt-ep")[1]
    assert set(settings) <= set(TENSORRT_SWITCHES.split())
    assert set(settings.values()) == {"False"}
    for part in ("fp16", "bf16", "int8", "engine_cache", "timing_cache"):
        assert f"trt_{part}_enable" in settings


# Names of libraries.


def test_libraries_are_named_without_folders() -> None:
    words = (
        "[ONNXRuntimeError] : 1 : FAIL : Failed to load library /home/somebody/lib/"
        "libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open shared object "
        "file: No such file or directory"
    )
    told = refusal("cuda", words)
    assert "libcublasLt.so.12 can't be loaded; pip install 'tier-cxr[gpu]'" in told
    assert "somebody" not in told


def test_every_library_that_a_provider_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A string table as linkers write it; onnxruntime and the loader name the first at most."""
    (tmp_path / "capi").mkdir()
    names = b"\0libcunothere.so.13\0libc.so.6\0libnvnowhere.so.10\0"
    library = tmp_path / "capi/libonnxruntime_providers_tensorrt.so"
    library.write_bytes(b"\x7fELF" + names)
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(provider_libraries.platform, "system", lambda: "Linux")
    told = refusal("tensorrt-ep", "Please install TensorRT libraries")
    assert "libcunothere.so.13, libnvnowhere.so.10 can't be loaded" in told
    assert "tier-cxr[trt-ep]" in told
    library.unlink()
    assert "libonnxruntime_providers_tensorrt.so can't be" in refusal("tensorrt-ep", "")
    assert sessions.linked_tensorrt() == ""


def test_another_refusal_says_where_its_words_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "unloadable", lambda *_: [])
    told = refusal("cuda", "CUDA failure 2: out of memory; file=/home/somebody/cuda_call.cc")
    assert "--debug shows its own words" in told
    assert "somebody" not in told


def test_the_tensorrt_that_is_linked_tells_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def getInferLibVersion(self) -> int:
            return 101601  # NV_TENSORRT_VERSION of 10.16.1: major, then two digits each

    monkeypatch.setattr(provider_libraries.ctypes, "CDLL", lambda _: Library())
    assert sessions.linked_tensorrt() == "10.16.1"
