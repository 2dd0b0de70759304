"""python -m pytest tests/infer/trt/test_buffers.py -- CUDA's memory, streams and graphs.

On a GPU made of host memory; the error codes and their names are CUDA's own.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cuda.bindings import runtime

from tests.infer.trt.fake_cuda import FakeGpu
from tier_infer.errors import DeviceError
from tier_infer.gpu import obstacles
from tier_infer.trt.buffers import Memory, Stream, call

CODES = runtime.cudaError_t


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return FakeGpu(monkeypatch)


@pytest.mark.skipif(not obstacles(), reason="needs a machine without a GPU")
def test_the_real_runtime_without_a_driver_is_refused_in_cudas_words() -> None:
    """Nothing is faked here: code 35 comes from NVIDIA's library."""
    with pytest.raises(DeviceError, match="cudaMalloc: cudaErrorInsufficientDriver; tier-infer"):
        Memory(16)
    with pytest.raises(DeviceError, match="cudaStreamCreateWithFlags: cudaErrorInsufficient"):
        Stream()


def test_without_the_bindings_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DeviceError, match=r"not installed; pip install 'tier-cxr\[tensorrt\]'"):
        call("cudaMalloc", 1)


def test_bytes_go_up_and_come_back(gpu: FakeGpu) -> None:
    memory, stream = Memory(8), Stream()
    memory.host[:] = range(8)
    stream.upload(memory, 8)
    memory.host[:4] = 9  # too early on purpose: the copy has not happened
    stream.wait()
    assert bytes(gpu.bytes_at(memory.device, 8)) == bytes([9, 9, 9, 9, 4, 5, 6, 7])
    memory.host[:] = 0
    stream.download(memory, 6)
    assert memory.host.tolist() == [0] * 8
    stream.wait()
    assert memory.host.tolist() == [9, 9, 9, 9, 4, 5, 0, 0]
    for thing in (stream, memory, stream, memory):  # twice does no harm
        thing.close()
    assert gpu.free_of()
    assert len(memory.host) == 0


def test_a_graph_does_its_work_at_every_launch_and_not_before(gpu: FakeGpu) -> None:
    memory, stream = Memory(4), Stream()
    graph = stream.captured(lambda: stream.upload(memory, 4))
    stream.wait()
    assert bytes(gpu.bytes_at(memory.device, 4)) == b"\xee" * 4
    for value in (1, 2):
        memory.host[:] = value
        graph.launch()
        stream.wait()
        assert bytes(gpu.bytes_at(memory.device, 4)) == bytes([value] * 4)
    assert not gpu.graphs  # only what is launched stays
    for thing in (graph, graph, stream, memory):
        thing.close()
    assert gpu.free_of()


@pytest.mark.parametrize("failing", ["work", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_after_a_failed_capture_the_stream_works(gpu: FakeGpu, failing: str) -> None:
    memory, stream = Memory(4), Stream()
    code = CODES.cudaErrorStreamCaptureInvalidated

    def work() -> None:
        stream.upload(memory, 4)
        if failing == "work":
            raise DeviceError("TensorRT refuses")

    if failing != "work":
        gpu.failing[failing] = code
    told = "TensorRT refuses" if failing == "work" else f"{failing}: {code.name}"
    with pytest.raises(DeviceError, match=told):
        stream.captured(work)
    gpu.failing.clear()
    memory.host[:] = 3
    stream.upload(memory, 4)
    stream.wait()
    assert bytes(gpu.bytes_at(memory.device, 4)) == b"\3" * 4
    assert not gpu.graphs
    assert not gpu.executables
    if failing != "cudaGraphInstantiate":
        assert gpu.calls.count("cudaGetLastError") == 1


def test_memory_that_was_half_given_is_given_back(gpu: FakeGpu) -> None:
    gpu.failing["cudaHostAlloc"] = CODES.cudaErrorMemoryAllocation
    with pytest.raises(DeviceError, match="cudaErrorMemoryAllocation; end other programs on it"):
        Memory(8)
    assert gpu.free_of()


def test_every_return_code_is_looked_at(gpu: FakeGpu) -> None:
    memory, stream = Memory(4), Stream()
    graph = stream.captured(lambda: stream.upload(memory, 4))
    uses = {
        "cudaMalloc": lambda: Memory(4),
        "cudaMemcpyAsync": lambda: stream.upload(memory, 4),
        "cudaStreamSynchronize": stream.wait,
        "cudaStreamCreateWithFlags": Stream,
        "cudaStreamBeginCapture": lambda: stream.captured(lambda: None),
        "cudaGraphLaunch": graph.launch,
        "cudaGraphExecDestroy": graph.close,
        "cudaStreamDestroy": stream.close,
        "cudaFree": memory.close,
        "cudaFreeHost": Memory(4).close,
    }
    for name, use in uses.items():
        gpu.failing = {name: CODES.cudaErrorIllegalAddress}
        with pytest.raises(DeviceError, match=f"{name}: cudaErrorIllegalAddress"):
            use()


def test_pinned_bytes_are_typed_views(gpu: FakeGpu) -> None:
    memory = Memory(8)
    memory.host.view(np.float32)[:] = [1.5, -2]
    assert np.frombuffer(bytes(memory.host), "<f4").tolist() == [1.5, -2]
    memory.close()
