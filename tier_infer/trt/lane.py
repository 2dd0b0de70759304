"""One optimisation profile of an engine at work: its context, its memory, its stream."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.embeddings import Embeddings
from tier_infer.errors import DeviceError
from tier_infer.trt.buffers import Graph, Memory, Stream

PIXELS, IMAGE, PATCHES = "pixels", "image_embedding", "patch_embeddings"
HINT = "tier-infer doctor tells more, or use --device cpu"


@dataclass(frozen=True)
class Tensor:
    """An input or output, per image of the batch."""

    dtype: str  # of NumPy
    row: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.row))


class Lane:
    """Runs batches of `sizes` images and no others, so that whatever is asked was proven before:
    libraries may choose another kernel for every shape."""

    def __init__(
        self,
        context: Any,
        profile: int,
        tensors: Mapping[str, Tensor],
        sizes: tuple[int, ...],
    ) -> None:
        """`tensors`: PIXELS, IMAGE and PATCHES. DeviceError where GPU memory runs out."""
        self.sizes = sizes
        self._context, self._tensors = context, tensors
        self._size = 0  # of which the context knows the shapes
        self._graph: Graph | None = None
        with contextlib.ExitStack() as open_things:
            self._memory: dict[str, Memory] = {}
            for name, tensor in tensors.items():
                self._memory[name] = Memory(max(sizes) * tensor.bytes)
                open_things.callback(self._memory[name].close)
            self._stream = Stream()
            open_things.callback(self._stream.close)
            open_things.callback(self._settle)  # before memory goes that work may still use
            _granted(
                "set_optimization_profile_async",
                context.set_optimization_profile_async(profile, self._stream.handle),
            )
            self._stream.wait()
            for name, memory in self._memory.items():
                address = context.set_tensor_address(name, memory.device)
                _granted(f"set_tensor_address({name})", address)
            self._open = open_things.pop_all()

    def run(self, pixels: NDArray[np.uint8], size: int) -> Embeddings:
        """pixels: uint8 [n, H, W], 1 ≤ n ≤ size; the rest of the batch repeats the last image and
        is thrown away. The result is a copy: the next run overwrites the buffers."""
        count = len(pixels)
        self._reshape(size)
        batch = self._host(PIXELS, size)
        batch[:count] = pixels
        batch[count:] = pixels[-1]
        if self._graph:
            self._graph.launch()
        else:
            self._enqueue(size)
        self._stream.wait()
        image, patches = (self._host(name, size)[:count].copy() for name in (IMAGE, PATCHES))
        return Embeddings(image, patches)

    def capture(self, size: int) -> bool:
        """From now on a batch of this size is one launch; no other size may follow. False where the
        engine holds work that CUDA can't record: then it runs as before.

        After a run of this size: the first one allocates, which no graph may."""
        self._reshape(size)
        try:
            self._graph = self._stream.captured(lambda: self._enqueue(size))
        except DeviceError:
            return False
        self._open.callback(self._graph.close)
        return True

    def close(self) -> None:
        """Graph, stream, buffers; then the context, which a caller must not hold any longer."""
        self._graph = None
        try:
            self._open.close()
        finally:
            self._context = None

    def _settle(self) -> None:
        with contextlib.suppress(DeviceError):  # a GPU that failed has nothing more to do
            self._stream.wait()

    def _enqueue(self, size: int) -> None:
        self._stream.upload(self._memory[PIXELS], size * self._tensors[PIXELS].bytes)
        _granted("execute_async_v3", self._context.execute_async_v3(self._stream.handle))
        for name in (IMAGE, PATCHES):
            self._stream.download(self._memory[name], size * self._tensors[name].bytes)

    def _reshape(self, size: int) -> None:
        if size == self._size:
            return
        if self._graph or size not in self.sizes:
            raise RuntimeError(f"this lane does not run batches of {size}")
        self._size = 0
        context = self._context
        shape = (size, *self._tensors[PIXELS].row)
        _granted(f"set_input_shape{shape}", context.set_input_shape(PIXELS, shape))
        _granted("infer_shapes", not context.infer_shapes())
        for name in (IMAGE, PATCHES):
            found = tuple(context.get_tensor_shape(name))
            if found != (size, *self._tensors[name].row):
                raise DeviceError(f"the engine gives {name} of shape {found}; {HINT}")
        self._size = size

    def _host(self, name: str, size: int) -> NDArray[Any]:
        tensor = self._tensors[name]
        raw = self._memory[name].host[: size * tensor.bytes]
        return raw.view(tensor.dtype).reshape(size, *tensor.row)


def _granted(what: str, answer: Any) -> None:
    if not answer:
        raise DeviceError(f"TensorRT refuses {what}; {HINT}")
