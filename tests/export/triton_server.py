"""What a Triton server does with a model repository, as far as its configuration says: the same
ONNX files under onnxruntime, ensembles by their maps, and the same gRPC protocol on loopback.

    with serving(folder) as url: …

It follows config.pbtxt as the official protobuf reads it and knows nothing of how that was written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

DTYPES = {"UINT8": np.uint8, "FP32": np.float32}
Tensors = Mapping[str, NDArray[Any]]


def config_of(folder: Path) -> Any:
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def dtype_of(row: Any) -> type:
    return DTYPES[model_config_pb2.DataType.Name(row.data_type).removeprefix("TYPE_")]


class Refused(Exception):
    """The server's answer to a request that its configuration does not allow."""


class Models:
    """A repository whose every model is ready."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.configs = {p.name: config_of(p) for p in sorted(folder.iterdir()) if p.is_dir()}
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        for name, config in self.configs.items():  # as the server checks when it starts
            assert config.name == name
            assert (folder / name / "1").is_dir()

    def infer(self, name: str, given: Tensors) -> dict[str, NDArray[Any]]:
        if name not in self.configs:
            raise Refused(f"Request for unknown model: '{name}' is not found")
        config = self.configs[name]
        _check(config, given)
        if config.platform == "ensemble":
            return self._follow(config, given)
        return self._run(config, given)

    def _follow(self, config: Any, given: Tensors) -> dict[str, NDArray[Any]]:
        known = dict(given)
        for step in config.ensemble_scheduling.step:
            assert self.configs[step.model_name].max_batch_size >= config.max_batch_size
            inner = {key: known[value] for key, value in step.input_map.items()}
            found = self.infer(step.model_name, inner)
            known |= {value: found[key] for key, value in step.output_map.items()}
        return {row.name: known[row.name] for row in config.output}

    def _run(self, config: Any, given: Tensors) -> dict[str, NDArray[Any]]:
        batch = len(next(iter(given.values())))
        shapes = {
            row.name: row.reshape.shape if row.HasField("reshape") else row.dims
            for row in config.input
        }
        feeds = {name: given[name].reshape(batch, *shape) for name, shape in shapes.items()}
        names = [row.name for row in config.output]
        found = self._session(config).run(names, feeds)
        return {
            row.name: array.reshape(batch, *row.dims)
            for row, array in zip(config.output, found, strict=True)
        }

    def _session(self, config: Any) -> onnxruntime.InferenceSession:
        assert config.platform == "onnxruntime_onnx"
        if config.name not in self._sessions:
            path = self._folder / config.name / "1" / "model.onnx"
            self._sessions[config.name] = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
        return self._sessions[config.name]


def _check(config: Any, given: Tensors) -> None:
    wanted = {row.name: (list(row.dims), dtype_of(row)) for row in config.input}
    if set(given) != set(wanted):
        raise Refused(f"model '{config.name}' takes {sorted(wanted)}, got {sorted(given)}")
    for name, array in given.items():
        dims, dtype = wanted[name]
        if list(array.shape[1:]) != dims or array.dtype != dtype:
            raise Refused(f"unexpected shape or type of input '{name}' for model '{config.name}'")
        if not 1 <= len(array) <= config.max_batch_size:
            raise Refused(f"inference request batch-size must be <= {config.max_batch_size}")


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`asked`: the models that were asked to infer, in order, and the last request whole."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.asked: list[tuple[str, int]] = []  # model, rows
        self.last: Any = None

    def ServerReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name not in self.models.configs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: '{request.name}'")
        return service_pb2.ModelConfigResponse(config=self.models.configs[request.name])

    def ModelInfer(self, request: Any, context: Any) -> Any:
        given, self.last = {}, request
        for row, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            array = np.frombuffer(raw, DTYPES[row.datatype])
            if array.size != math.prod(row.shape):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"wrong byte size of {row.name}")
            given[row.name] = array.reshape(row.shape)
        self.asked.append((request.model_name, len(next(iter(given.values())))))
        try:
            found = self.models.infer(request.model_name, given)
        except Refused as refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        for row in request.outputs:
            array = np.ascontiguousarray(found[row.name], np.float32)
            answer.outputs.add(name=row.name, datatype="FP32", shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer


class Running:
    def __init__(self, servicer: Servicer, server: grpc.Server, port: int) -> None:
        self.servicer, self._server, self._port = servicer, server, port

    @cached_property
    def url(self) -> str:
        return f"127.0.0.1:{self._port}"

    def stop(self) -> None:
        self._server.stop(None).wait()


@contextmanager
def serving(folder: Path) -> Iterator[Running]:
    servicer = Servicer(Models(folder))
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        running = Running(servicer, server, port)
        try:
            yield running
        finally:
            running.stop()
