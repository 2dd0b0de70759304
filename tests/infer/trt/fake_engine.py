"""An engine of TensorRT at work on the fake GPU: NVIDIA's recorded names, onnxruntime's numbers.

The plan is the ONNX graph itself; deserialising anything else fails the test. Shapes and addresses
are taken when work is enqueued, as TensorRT does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.infer.trt.fake_cuda import FakeGpu
from tests.infer.trt.recorded import Recorded
from tier_infer.sessions import open_session
from tier_infer.trt.build import PROFILES

OUTPUTS = ("image_embedding", "patch_embeddings")


@dataclass
class FakeEngine:
    """`answers` of a call replace the right ones."""

    gpu: FakeGpu
    graph: bytes
    side: int
    cells: int
    dim: int
    answers: dict[str, Any] = field(default_factory=dict)
    profiles: Any = PROFILES
    ran: list[tuple[int, int]] = field(default_factory=list)  # (profile, batch) of every execution
    trt: Recorded = field(init=False)  # see `library`
    spoilt: dict[int, float] = field(default_factory=dict)  # batch → added to its last row

    def __post_init__(self) -> None:
        self.session = open_session(self.graph, "cpu")
        self.rows = {
            "pixels": (self.side, self.side),
            "image_embedding": (self.dim,),
            "patch_embeddings": (self.cells, self.cells, self.dim),
        }
        self.state: dict[int, dict[str, Any]] = {}

    def library(self, version: str) -> Recorded:
        """The module of this version."""
        behaviour: dict[str, Callable[..., Any]] = {
            "Runtime.deserialize_cuda_engine": self.deserialize,
            "ICudaEngine.get_tensor_name": lambda this, index: list(self.rows)[index],
            "ICudaEngine.get_tensor_mode": lambda this, name: self.mode(name),
            "ICudaEngine.get_tensor_dtype": lambda this, name: self.dtype(name),
            "ICudaEngine.get_tensor_location": lambda this, name: (
                self.trt.module.TensorLocation.DEVICE
            ),
            "ICudaEngine.get_tensor_shape": lambda this, name: (-1, *self.rows[name]),
            "ICudaEngine.get_tensor_profile_shape": self.profile_shape,
            "ICudaEngine.create_execution_context": self.context,
            "IExecutionContext.set_optimization_profile_async": self.set_profile,
            "IExecutionContext.set_tensor_address": self.set_address,
            "IExecutionContext.set_input_shape": self.set_shape,
            "IExecutionContext.infer_shapes": lambda this: [],
            "IExecutionContext.get_tensor_shape": self.shape_of,
            "IExecutionContext.execute_async_v3": self.execute,
        }
        if version.startswith("tensorrt_rtx"):
            behaviour |= {
                "ICudaEngine.create_runtime_config": lambda this: self.trt.new("IRuntimeConfig"),
                "IRuntimeConfig.create_runtime_cache": lambda this: self.trt.new("IRuntimeCache"),
                "IRuntimeConfig.set_runtime_cache": lambda this, cache: True,
                "IRuntimeCache.serialize": lambda this: self.trt.memory(b"kernels"),
                "IRuntimeCache.deserialize": lambda this, blob: True,
            }
        self.trt = Recorded(version, behaviour)
        self.trt.behaviour |= self.answers
        return self.trt

    def deserialize(self, this: Any, serialized_engine: bytes) -> Any:
        assert serialized_engine == self.graph, "these bytes were never verified"
        return self.trt.new(
            "ICudaEngine",
            num_io_tensors=len(self.rows),
            num_optimization_profiles=len(self.profiles),
        )

    def mode(self, name: str) -> Any:
        modes = self.trt.module.TensorIOMode
        return modes.INPUT if name == "pixels" else modes.OUTPUT

    def dtype(self, name: str) -> Any:
        types = self.trt.module.DataType
        return types.UINT8 if name == "pixels" else types.FLOAT

    def profile_shape(self, this: Any, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "pixels"
        return [(n, *self.rows[name]) for n in self.profiles[profile_index]]

    def context(self, this: Any, **config: Any) -> Any:
        made = self.trt.new("IExecutionContext")
        self.state[id(made)] = {"keep": made, "at": {}, "batch": 0, "config": config}
        return made

    def set_profile(self, this: Any, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self.gpu.streams
        self.state[id(this)]["profile"] = profile_index
        return True

    def set_address(self, this: Any, name: str, memory: int) -> bool:
        assert memory in self.gpu.device
        self.state[id(this)]["at"][name] = memory
        return True

    def set_shape(self, this: Any, name: str, shape: tuple[int, ...]) -> bool:
        state = self.state[id(this)]
        least, _, most = self.profiles[state["profile"]]
        state["batch"] = shape[0]
        return bool(name == "pixels" and shape[1:] == self.rows[name] and least <= shape[0] <= most)

    def shape_of(self, this: Any, name: str) -> tuple[int, ...]:
        return (self.state[id(this)]["batch"], *self.rows[name])

    def execute(self, this: Any, stream_handle: int) -> bool:
        state = self.state[id(this)]
        batch, at, profile = state["batch"], dict(state["at"]), state["profile"]
        shape = (batch, *self.rows["pixels"])

        def kernel() -> None:
            pixels = np.frombuffer(
                self.gpu.bytes_at(at["pixels"], int(np.prod(shape))), np.uint8
            ).reshape(shape)
            answer = self.session.run(list(OUTPUTS), {"pixels": pixels})
            for name, found in zip(OUTPUTS, answer, strict=True):
                found[-1] += np.float32(self.spoilt.get(batch, 0))
                self.gpu.bytes_at(at[name], found.nbytes)[:] = found.tobytes()
            self.ran.append((profile, batch))

        self.gpu.enqueue(stream_handle, kernel)
        return True
