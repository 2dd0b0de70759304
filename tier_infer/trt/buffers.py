"""Memory, streams and graphs of CUDA, each given back by `close`; every return code is looked at.

Through `cuda.bindings.runtime`, imported when first needed. Call `gpu.obstacles` before.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import DeviceError

FULL = "cudaErrorMemoryAllocation"


def cuda() -> Any:
    """The module; DeviceError with the line that installs it."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise DeviceError(
            "the CUDA bindings are not installed; pip install 'tier-cxr[tensorrt]', or "
            "'tier-cxr[rtx]' on an RTX workstation"
        ) from None
    return runtime


def call(function: str, *args: Any) -> Any:
    """The value that this function of the CUDA runtime gives, if any. DeviceError with CUDA's own
    name of what went wrong."""
    runtime = cuda()
    code, *values = getattr(runtime, function)(*args)
    if int(code):
        _, name = runtime.cudaGetErrorName(code)
        told = name.decode() if isinstance(name, bytes) else str(name)
        advice = "end other programs on it" if told == FULL else "tier-infer doctor tells more"
        raise DeviceError(f"the GPU refuses {function}: {told}; {advice}, or use --device cpu")
    return values[0] if values else None


class Memory:
    """`size` bytes on the GPU and as many pinned ones of the host, of which a copy needs no other
    copy. `host` is gone after `close`: nothing that leaves this package may be a view of it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.device = int(call("cudaMalloc", size))
        try:
            self._pinned = int(call("cudaHostAlloc", size, cuda().cudaHostAllocDefault))
        except BaseException:
            call("cudaFree", self.device)
            raise
        raw = (ctypes.c_uint8 * size).from_address(self._pinned)
        self.host: NDArray[np.uint8] = np.ctypeslib.as_array(raw)  # [size]

    def close(self) -> None:
        if self.device:
            device, self.device = self.device, 0
            self.host = np.empty(0, np.uint8)
            try:
                call("cudaFree", device)
            finally:
                call("cudaFreeHost", self._pinned)


class Stream:
    """Work in order, none of it done before `wait` returns."""

    def __init__(self) -> None:
        self._stream = call("cudaStreamCreateWithFlags", cuda().cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def upload(self, memory: Memory, size: int) -> None:
        kind = cuda().cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(memory.device, memory.host.ctypes.data, size, kind)

    def download(self, memory: Memory, size: int) -> None:
        kind = cuda().cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(memory.host.ctypes.data, memory.device, size, kind)

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        call("cudaMemcpyAsync", to, source, size, kind, self._stream)

    def wait(self) -> None:
        call("cudaStreamSynchronize", self._stream)

    def captured(self, work: Callable[[], None]) -> Graph:
        """What `work` gives this stream to do, not done now but by every launch of the graph."""
        # Of this thread only: what others allocate meanwhile must not spoil it.
        mode = cuda().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", self._stream, mode)
        try:
            try:
                work()
            except BaseException:
                with contextlib.suppress(DeviceError):  # the stream must be usable again
                    call("cudaGraphDestroy", call("cudaStreamEndCapture", self._stream))
                raise
            graph = call("cudaStreamEndCapture", self._stream)
        except DeviceError:
            cuda().cudaGetLastError()  # else the next call would be blamed
            raise
        try:
            return Graph(call("cudaGraphInstantiate", graph, 0), self._stream)
        finally:
            call("cudaGraphDestroy", graph)

    def close(self) -> None:
        if self.handle:
            self.handle = 0
            call("cudaStreamDestroy", self._stream)


class Graph:
    """Recorded work: one launch instead of one per kernel. Close it before its stream."""

    def __init__(self, executable: Any, stream: Any) -> None:
        self._executable, self._stream = executable, stream
        self._open = True

    def launch(self) -> None:
        call("cudaGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        if self._open:
            self._open = False
            call("cudaGraphExecDestroy", self._executable)
