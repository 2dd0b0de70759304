"""python -m pytest tests/infer/trt/test_run.py -- a plan at work, without a GPU.

The library has NVIDIA's recorded names and types, its GPU is host memory whose work waits for a
synchronisation, and its numbers are onnxruntime's. What runs for real: tests/infer/trt/
test_gpu_engine.py.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest
from cuda.bindings import runtime

import tier_infer.devices
from tests.infer.trt.recorded import VERSIONS
from tests.infer.trt.station import (
    RTX,
    Station,
    pictures,
    same,
    sound,
    station,
)
from tier_infer.bundle import sha256
from tier_infer.devices import choose
from tier_infer.engine import Engine
from tier_infer.errors import ParityError
from tier_infer.sessions import open_session, run_encoder
from tier_infer.trt.run import batch_size

__all__ = ["sound", "station"]  # fixtures


RUNS = {  # images → (profile, batch) by hand, for sizes 1, 8 and 32
    1: [(0, 1)],
    2: [(1, 8)],
    6: [(1, 8)],
    9: [(1, 8), (0, 1)],
    31: [(1, 8), (1, 8), (1, 8), (1, 8)],
    32: [(1, 32)],
    33: [(1, 32), (0, 1)],
    70: [(1, 32), (1, 32), (1, 8)],
}


@pytest.mark.parametrize("version", VERSIONS)
def test_any_number_of_images(station: Station, version: str) -> None:
    """On every library whose names are recorded, with the numbers of the graph, row by row."""
    station.install(version)
    encoder = station.open()
    for count, runs in RUNS.items():
        pixels = pictures(count)
        station.engine.ran.clear()
        found = encoder.encode(pixels)
        assert station.engine.ran == runs
        np.testing.assert_allclose(found.image, station.right(pixels).image, atol=1e-6)
        np.testing.assert_allclose(found.patches, station.right(pixels).patches, atol=1e-6)
    encoder.close()
    assert station.gpu.free_of()


def test_the_smallest_batch_that_holds_the_rest() -> None:
    assert [batch_size(n, (8, 32)) for n in (1, 8, 9, 40)] == [8, 8, 8, 32]
    assert [batch_size(n, (1,)) for n in (1, 5)] == [1, 1]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_single_image_is_one_launch(station: Station, version: str) -> None:
    """Captured once, launched for every picture. TensorRT-RTX does it itself, and must be told."""
    recorded = station.install(version)
    encoder = station.open()
    before = station.gpu.calls.count("cudaGraphLaunch")
    executed = len(recorded.called("IExecutionContext.execute_async_v3"))
    for seed in range(3):
        pixels = pictures(1) + np.uint8(seed)
        assert same(encoder.encode(pixels), station.right(pixels))
    launched = station.gpu.calls.count("cudaGraphLaunch") - before
    again = len(recorded.called("IExecutionContext.execute_async_v3")) - executed
    rtx = version == RTX
    assert (launched, again) == ((0, 3) if rtx else (3, 0))
    assert station.gpu.calls.count("cudaStreamBeginCapture") == (0 if rtx else 1)
    assert encoder.identity["single_images"] == (
        "CUDA graph of the library" if rtx else "CUDA graph"
    )


def test_rtx_runs_the_kernels_that_were_proven(station: Station) -> None:
    """The other strategies swap kernels in behind the golden vectors' back."""
    trt = station.install(RTX).module
    station.open()
    told = "IRuntimeConfig.{}=".format
    strategies = station.recorded.called(told("dynamic_shapes_kernel_specialization_strategy"))
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert [row["value"] for row in strategies] == [eager, eager]
    graphs = [row["value"] for row in station.recorded.called(told("cuda_graph_strategy"))]
    assert graphs == [trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE, trt.CudaGraphStrategy.DISABLED]


def test_rtx_keeps_its_kernels_sealed(station: Station) -> None:
    station.install(RTX)
    station.open().close()
    assert station.recorded.called("IRuntimeCache.deserialize") == []
    station.open().close()
    assert station.recorded.called("IRuntimeCache.deserialize") == [{"blob": b"kernels"}]
    kept = next((station.cache.folder / "kernels").glob("*.cache"))
    kept.write_bytes(b"planted")
    station.open()
    assert len(station.recorded.called("IRuntimeCache.deserialize")) == 1


def test_what_cuda_can_not_record_runs_as_before(station: Station) -> None:
    station.install()
    station.gpu.failing["cudaStreamEndCapture"] = (
        runtime.cudaError_t.cudaErrorStreamCaptureUnsupported
    )
    encoder = station.open()
    assert encoder.identity["single_images"] == "stream"
    pixels = pictures(1)
    assert same(encoder.encode(pixels), station.right(pixels))


def test_answers_outlive_the_next_call_and_the_engine(station: Station) -> None:
    station.install()
    encoder = station.open()
    pixels = [pictures(1), pictures(6), pictures(33)]
    found = [encoder.encode(each) for each in pixels]
    right = [station.right(each) for each in pixels]
    encoder.encode(255 - pictures(33))
    encoder.close()
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one.image, other.image, atol=1e-6)
        np.testing.assert_allclose(one.patches, other.patches, atol=1e-6)


def test_everything_is_given_back(station: Station) -> None:
    station.install()
    encoder = station.open()
    assert len(station.gpu.device) == len(station.gpu.pinned) == 6  # 2 profiles × 3 tensors
    assert len(station.gpu.streams) == 2
    encoder.close()
    encoder.close()
    assert station.gpu.free_of()
    with pytest.raises(RuntimeError, match="closed"):
        encoder.encode(pictures(1))
    forgotten = station.open()
    del forgotten
    gc.collect()
    assert station.gpu.free_of()


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_a_batch_size_that_is_wrong_never_answers(station: Station, batch: int) -> None:
    """The golden vectors are two crops; the fault is in the last row of the batch."""
    station.install()
    station.engine.spoilt = {batch: 0.01}
    station.refused(f"golden vectors in batches of {batch} .*image embedding", ParityError)


def test_not_a_number_is_a_breach(station: Station) -> None:
    station.install()
    station.engine.spoilt = {32: np.nan}
    station.refused("in batches of 32", ParityError)


def test_engine_proves_it_again_and_says_what_answers(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier_infer.devices, "obstacles", list)
    station.install()
    engine = Engine(station.bundle, "tensorrt", "fp32")
    assert (engine.device, engine.precision) == ("tensorrt", "fp32")
    assert engine.identity | {"single_images": ""} == {
        "device": "tensorrt",
        "precision": "fp32",
        "graph": station.bundle.manifest.files["image_encoder.onnx"]["sha256"],
        "plan": sha256(station.graph),
        "runtime": "TensorRT 11.4.0.106",
        "gpu": "NVIDIA RTX 4000 Ada sm89 GPU-7",
        "driver": "580.65.06",
        "single_images": "",
    }
    pixels = pictures(3)
    np.testing.assert_allclose(engine.encode(pixels).image, station.right(pixels).image, atol=1e-6)


def test_auto_takes_the_engine_that_warmup_left(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier_infer.devices, "obstacles", list)
    station.install()
    encoder, passed_over = choose(station.bundle, "auto", "auto")
    assert (encoder.device, passed_over) == ("tensorrt", {})


def test_the_graph_is_what_the_fake_computes(station: Station) -> None:
    """Else every test above could pass on constants."""
    session = open_session(station.graph, "cpu")
    bright, dark = np.full((1, 112, 112), 255, np.uint8), np.zeros((1, 112, 112), np.uint8)
    assert run_encoder(session, bright).image.tolist() == [[1, 0]]
    assert run_encoder(session, dark).image.tolist() == [[0, 1]]
