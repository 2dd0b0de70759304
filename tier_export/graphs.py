"""The exported graphs. `forward` of each wrapper is the signature of its graph."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tier_export import OPSET
from tier_export.members import Members, joined
from tier_infer.bundle import NOTICE
from tier_infer.geometry import described
from tier_train.model import DualEncoder


class ImageEncoderGraph(nn.Module):
    """pixels: uint8 [N, H, W] → image_embedding [N, D], patch_embeddings [N, g, g, D], float32."""

    def __init__(self, models: Sequence[DualEncoder]) -> None:
        super().__init__()
        self.images = nn.ModuleList(model.image for model in models)
        self.network_input = models[0].network_input  # one geometry, so one for all

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.network_input(pixels)
        parts = [image(x) for image in self.images]  # K of image_e [N, Dₖ], patch_e [N, g, g, Dₖ]
        return joined([p[0] for p in parts]), joined([p[1] for p in parts])


def encoder_graph(members: Members, opset: int = OPSET) -> onnx.ModelProto:
    """The fp32 encoder, BatchNorm folded, one file, N dynamic; equal weights give equal bytes."""
    side = members.geometry.crop
    wrapper = ImageEncoderGraph([network.model for network in members.networks]).eval()
    example = torch.zeros(2, side, side, dtype=torch.uint8)
    outputs = ("image_embedding", "patch_embeddings")
    graph = exported(wrapper, {"pixels": (example, {0: "N"})}, outputs, opset)
    helper.set_model_props(graph, properties(members))
    onnx.checker.check_model(graph, full_check=True)
    return graph


def exported(
    module: nn.Module,
    inputs: dict[str, tuple[Tensor, dict[int, str]]],
    outputs: Sequence[str],
    opset: int,
) -> onnx.ModelProto:
    """`module` as a graph in one file; of each argument of its forward an example and its dynamic
    axes by name. Nothing in it tells where it was made."""
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(example for example, _ in inputs.values()),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: axes for name, (_, axes) in inputs.items()},
            external_data=False,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns one
    graph = strip(program.model_proto)
    found = {o.domain: o.version for o in graph.opset_import}.get("")
    if found != opset:  # torch falls back to another opset without an error
        raise RuntimeError(f"torch exported opset {found}, {opset} was asked for")
    return graph


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes what the exporter notes about where our source files lie; it is also not stable."""
    model.doc_string = ""
    model.producer_version = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.metadata_props[:]
    return model


def properties(members: Members) -> dict[str, str]:
    """What a user of the file alone must know: how its pixels are made, and what it is for."""
    found = {
        "geometry": json.dumps(described(members.geometry), sort_keys=True),
        "intensity": members.networks[0].intensity,
        "checkpoints": json.dumps([source.sha256 for source in members.sources]),
        "notice": NOTICE,
    }
    averaged = len(members.networks) < len(members.sources)
    return found | ({"combined": "average"} if averaged else {})


def check_signature(model: onnx.ModelProto, members: Members) -> dict[str, Any]:
    """The graph's inputs and outputs as the manifest states them; RuntimeError if they differ."""
    side, cells, dim = members.geometry.crop, members.cells, members.embed_dim
    stated = {
        "pixels": {"dtype": "uint8", "shape": ["N", side, side]},
        "image_embedding": {"dtype": "float32", "shape": ["N", dim]},
        "patch_embeddings": {"dtype": "float32", "shape": ["N", cells, cells, dim]},
    }
    names = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
    for value in (*model.graph.input, *model.graph.output):
        tensor = value.type.tensor_type
        shape = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        found = {"dtype": names.get(tensor.elem_type), "shape": shape}
        if found != stated[value.name]:
            raise RuntimeError(f"{value.name} is {found}, it must be {stated[value.name]}")
    inputs = {value.name: stated.pop(value.name) for value in model.graph.input}
    opset = next(o.version for o in model.opset_import if not o.domain)
    return {"opset": opset, "inputs": inputs, "outputs": stated}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter talks on stdout and through warnings of its own deprecations; stdout is data."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
