"""A GPU made of host memory, behind the names of `cuda.bindings.runtime` that the product calls.

Copies and kernels wait in their stream until it is synchronised, so a forgotten wait reads old
bytes; what is captured runs at no time but when its graph is launched. Addresses are looked up: a
copy out of bounds, from the wrong side or after a free raises AssertionError.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
from cuda.bindings import runtime

OK = runtime.cudaError_t.cudaSuccess
Work = Callable[[], None]
REPLACED = (
    "cudaSetDevice", "cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaFreeHost", "cudaMemcpyAsync",
    "cudaStreamCreateWithFlags", "cudaStreamSynchronize", "cudaStreamDestroy",
    "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy",
    "cudaGraphLaunch", "cudaGraphExecDestroy", "cudaGetLastError",
)  # fmt: skip


class FakeGpu:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device: dict[int, Any] = {}  # address → bytes
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.capturing: tuple[int, list[Work]] | None = None
        self.calls: list[str] = []
        self.failing: dict[str, Any] = {}  # function → its code from now on
        self._next = 100
        for name in REPLACED:
            assert callable(getattr(runtime, name))  # NVIDIA has it
            monkeypatch.setattr(runtime, name, self._counted(name))

    def free_of(self) -> bool:
        """Everything was given back."""
        return not (self.device or self.pinned or self.streams or self.graphs or self.executables)

    def enqueue(self, stream: int, work: Work) -> None:
        assert stream in self.streams
        if self.capturing and self.capturing[0] == stream:
            self.capturing[1].append(work)
        else:
            self.streams[stream].append(work)

    def bytes_at(self, address: int, size: int) -> Any:
        """A view of device memory."""
        assert address in self.device, "no such device memory"
        assert size <= len(self.device[address])
        return memoryview(self.device[address]).cast("B")[:size]

    def _counted(self, name: str) -> Callable[..., Any]:
        answer = getattr(self, name[4].lower() + name[5:])

        def call(*args: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                if name == "cudaStreamEndCapture":
                    self.capturing = None  # CUDA ends it, with or without a graph
                return (self.failing[name], None)
            value = answer(*args)
            return (OK,) if value is None else (OK, value)

        return call

    def _number(self) -> int:
        self._next += 1
        return self._next

    def setDevice(self, device: int) -> None:
        assert device == 0

    def getLastError(self) -> None:
        self.failing.pop("cudaGetLastError", None)

    def malloc(self, size: int) -> int:
        raw = (ctypes.c_uint8 * size)(*(size * b"\xee"))
        self.device[ctypes.addressof(raw)] = raw
        return ctypes.addressof(raw)

    def hostAlloc(self, size: int, flags: int) -> int:
        raw = (ctypes.c_uint8 * size)()
        self.pinned[ctypes.addressof(raw)] = raw
        return ctypes.addressof(raw)

    def free(self, address: int) -> None:
        del self.device[address]

    def freeHost(self, address: int) -> None:
        del self.pinned[address]

    def memcpyAsync(self, to: int, source: int, size: int, kind: Any, stream: Any) -> None:
        up = kind == runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        assert up or kind == runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for address, side in ((to, self.device), (source, self.pinned)) if up else (
            (to, self.pinned), (source, self.device)
        ):  # fmt: skip
            assert address in side
            assert size <= len(side[address])

        def copy() -> None:
            ctypes.memmove(to, source, size)

        self.enqueue(int(stream), copy)

    def streamCreateWithFlags(self, flags: int) -> int:
        assert flags == runtime.cudaStreamNonBlocking
        handle = self._number()
        self.streams[handle] = []
        return handle

    def streamSynchronize(self, stream: int) -> None:
        assert self.capturing is None
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()

    def streamDestroy(self, stream: int) -> None:
        left = self.streams.pop(stream)
        assert not left or "cudaStreamSynchronize" in self.failing, "destroyed with work in it"

    def streamBeginCapture(self, stream: int, mode: Any) -> None:
        assert self.capturing is None
        assert not self.streams[stream]
        self.capturing = (stream, [])

    def streamEndCapture(self, stream: int) -> int:
        assert self.capturing
        assert self.capturing[0] == stream
        graph = self._number()
        self.graphs[graph] = self.capturing[1]
        self.capturing = None
        return graph

    def graphInstantiate(self, graph: int, flags: int) -> int:
        executable = self._number()
        self.executables[executable] = list(self.graphs[graph])
        return executable

    def graphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def graphLaunch(self, executable: int, stream: int) -> None:
        for step in self.executables[executable]:
            self.enqueue(stream, step)

    def graphExecDestroy(self, executable: int) -> None:
        del self.executables[executable]
