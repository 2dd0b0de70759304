"""The exported graphs. `forward` of each wrapper is the signature of its graph."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_infer.label_sets import LabelSet
from tier_train.checkpoint import Checkpoint
from tier_train.model import DualEncoder
from tier_train.recipe import Recipe, grid_side
from tier_train.towers.text_encoder import Tokenizer
from tier_train.zero_shot import query_table

OPSET = 18
IR_VERSION = 10


class ImageEncoderGraph(nn.Module):
    """pixels: uint8 [N, H, W] → image_embedding [N, D], patch_embeddings [N, g, g, D], float32."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.image = model.image
        self.network_input = model.network_input

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        image_e, patch_e = self.image(self.network_input(pixels))
        return image_e, patch_e


def encoder_graph(model: DualEncoder, recipe: Recipe) -> onnx.ModelProto:
    """The fp32 encoder, BatchNorm folded, one file, N dynamic; equal weights give equal bytes."""
    side = GEOMETRIES[recipe.geometry].crop
    wrapper = ImageEncoderGraph(model).eval()
    example = torch.zeros(2, side, side, dtype=torch.uint8)
    with quiet():
        program = torch.onnx.export(
            wrapper,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["image_embedding", "patch_embeddings"],
            dynamic_shapes={"pixels": {0: "N"}},
            external_data=False,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns one
    graph = strip(program.model_proto)
    found = {o.domain: o.version for o in graph.opset_import}.get("")
    if found != OPSET:  # torch falls back to another opset without an error
        raise RuntimeError(f"torch exported opset {found}, {OPSET} was asked for")
    onnx.checker.check_model(graph, full_check=True)
    return graph


def query_graph(checkpoint: Checkpoint, labels: LabelSet) -> onnx.ModelProto:
    """embeddings: float32 [M, D] → scores: float32 [M, L]; the table q⁺ − q⁻ is an initializer."""
    check_prompts(checkpoint.tokenizer, labels)
    table = query_table(checkpoint.model, checkpoint.tokenizer, labels).numpy()  # [L, D]
    check_directions(table, labels)
    n_labels, dim = table.shape
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["embeddings", "table"], ["scores"], name="scores", transB=1)],
        labels.id,
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["M", dim])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["M", n_labels])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    rows = [
        {
            "id": label.id,
            "name": label.name,
            "positive": list(label.positive),
            "negative": list(label.negative),
            "codes": label.codes,
        }
        for label in labels.labels
    ]
    meta = {"set": labels.id, "text_sha256": checkpoint.text_sha256}
    helper.set_model_props(model, meta | {"labels": json.dumps(rows, sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    return model


def check_prompts(tokenizer: Tokenizer, labels: LabelSet) -> None:
    """A prompt that the text tower can't read would still get an embedding, of nothing."""
    for label in labels.labels:
        for prompt in (*label.positive, *label.negative):
            if not tokenizer.can_read(prompt):
                raise UsageError(
                    f"label {label.id}: the vocabulary of this checkpoint has no letters for part "
                    f"of {prompt!r}; write it in the language of the training text"
                )
            if len(tokenizer.uncut(prompt)) > tokenizer.max_tokens:
                raise UsageError(
                    f"label {label.id}: a prompt is longer than {tokenizer.max_tokens} tokens"
                )


def check_directions(table: NDArray[np.float32], labels: LabelSet) -> None:
    """q⁺ − q⁻ of zero scores every image 0; two equal rows are one label under two names."""
    names = [label.id for label in labels.labels]
    for row, name in zip(table, names, strict=True):
        if np.abs(row).max() < 1e-6:
            raise UsageError(f"label {name}: its positive and negative sentences mean the same")
    for first, second in itertools.combinations(range(len(names)), 2):
        if np.abs(table[first] - table[second]).max() < 1e-6:
            raise UsageError(f"labels {names[first]} and {names[second]} have the same sentences")


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


def check_signature(model: onnx.ModelProto, recipe: Recipe) -> dict[str, Any]:
    """The graph's inputs and outputs as the manifest states them; RuntimeError if they differ."""
    side, cells, dim = GEOMETRIES[recipe.geometry].crop, grid_side(recipe), recipe.embed_dim
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
    return {"opset": OPSET, "inputs": inputs, "outputs": stated}


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
