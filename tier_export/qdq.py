"""A graph becomes 8-bit: onnxruntime's static quantisation, told what to take and what to leave.

Activations are uint8 with one step per tensor, weights int8 with one step per output channel.
Quantised are products with constant weights behind the first Conv, and in a ResNet what lies
between them. The stem (the first Conv with its pool), the normalisation, LayerNorm, the products of
attention, the mean and the unit norms stay float32.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import QDQQuantizer, QuantType, TensorsData
from onnxruntime.quantization.calibrate import create_calibrator

from tier_export.fp16 import HEAVY
from tier_export.graphs import quiet, strip

KINDS = sorted(HEAVY | {"Add", "Relu"})
BATCH = 4  # crops at a time while ranges are measured; nothing is fused then, which takes memory
STEM = "stem: the most sensitive layer, and as fast in float32"


@dataclass(frozen=True)
class Layers:
    """Names of nodes; products with their multiply-adds for one image."""

    products: dict[str, int]  # that can be 8-bit
    stems: dict[str, int]
    sums: list[str]  # that can be 8-bit, of two 8-bit tensors
    follow: list[str]  # 8-bit where their input is
    apart: dict[str, str]  # products that stay float32, stems included → why


def prepared(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with all shapes, and a second Relu behind the pool of each stem.

    onnxruntime moves the step into 8 bits to before a MaxPool, where its pool takes 2.7 ms of a
    ResNet-50's 15. It doesn't move it past a Relu, and a second one changes nothing.
    """
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "MaxPool" and makers[node.input[0]].op_type == "Relu":
            output = node.output[0]
            node.output[0] = f"{output}_pooled"
            nodes.append(
                helper.make_node("Relu", [node.output[0]], [output], name=f"{node.name}_relu")
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def layers_of(model: onnx.ModelProto) -> Layers:
    """`model` has all its shapes."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = Layers({}, {}, [], [], {})
    behind: set[str] = set()  # tensors that a stem leads to
    whole: set[str] = set()  # tensors that are 8-bit when all layers are
    for node in model.graph.node:
        led = bool(behind & set(node.input))
        if led or node.op_type == "Conv":
            behind |= set(node.output)
        if node.op_type == "Conv" and not led:
            found.stems[node.name] = _multiply_adds(model, node)
            found.apart[node.name] = STEM
        elif node.op_type in HEAVY and not led:
            found.apart[node.name] = "resampling of the pixels"
        elif node.op_type in HEAVY and node.input[1] not in weights:
            found.apart[node.name] = "attention: no factor is constant"
        elif node.op_type in HEAVY:
            found.products[node.name] = _multiply_adds(model, node)
            if node.op_type == "Conv":  # a MatMul gives float32, for LayerNorm and residuals
                whole |= {node.input[0], *node.output}
        elif node.op_type in ("Add", "Relu") and whole >= set(node.input):
            (found.sums if node.op_type == "Add" else found.follow).append(node.name)
            whole |= set(node.output)
    return found


def _multiply_adds(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    (weights,) = (t.dims for t in model.graph.initializer if t.name == node.input[1])
    (value,) = (v for v in model.graph.value_info if v.name == node.output[0])
    sides = [int(d.dim_value) for d in value.type.tensor_type.shape.dim][1:]  # the first is N
    channels = sides[0] if node.op_type == "Conv" else sides[-1]
    return math.prod(map(int, weights)) * math.prod(sides) // channels


def ranges_of(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> TensorsData:
    """tensor → its least and largest value on the crops [N, H, W]."""
    feeds = iter([{"pixels": p} for p in np.split(pixels, range(BATCH, len(pixels), BATCH))])
    with tempfile.TemporaryDirectory() as folder, _silent():
        plain = Path(folder) / "plain.onnx"
        onnx.save(model, str(plain))
        calibrator = create_calibrator(plain, KINDS, str(Path(folder) / "augmented.onnx"))
        calibrator.collect_data(SimpleNamespace(get_next=lambda: next(feeds, None)))
        return calibrator.compute_data()


def quantised(
    model: onnx.ModelProto, ranges: TensorsData, nodes: list[str], reduce_range: bool
) -> onnx.ModelProto:
    """A copy of the model in which only `nodes` are 8-bit; the library makes the copy."""
    with _silent():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=KINDS,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    return result


def sealed(model: onnx.ModelProto, encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Checked, and with what the encoder says of itself instead of what the library says."""
    strip(model)
    model.producer_name, model.ir_version = encoder.producer_name, encoder.ir_version
    model.metadata_props.extend(encoder.metadata_props)
    del model.graph.value_info[:]  # some of them of tensors that are gone
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The library logs by the root logger, which sets up a handler where there is none."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        with quiet():
            yield
    finally:
        logging.getLogger().removeHandler(handler)
