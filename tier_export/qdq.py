"""A graph becomes 8-bit: onnxruntime's static quantisation, told what to take and what to leave.

Activations are uint8 with one step per tensor, weights int8 with one step per output channel.
Quantised are products with constant weights from the first Conv on, and in a ResNet what lies
between them. The resampling of pixels, the normalisation, LayerNorm, the products of attention, the
mean and the unit norms stay float32.
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
from onnxruntime.quantization import QDQQuantizer, QuantType, TensorData, TensorsData
from onnxruntime.quantization.calibrate import create_calibrator

from tier_export.fp16 import HEAVY
from tier_export.graphs import quiet, strip

FOLLOW = {"MaxPool", "Relu"}  # 8-bit where their input is
KINDS = sorted(HEAVY | FOLLOW | {"Add"})
BATCH = 4  # crops at a time while ranges are measured; nothing is fused then, which takes memory


@dataclass(frozen=True)
class Layers:
    """Names of nodes."""

    products: dict[str, int]  # that can be 8-bit → multiply-adds of one image
    sums: list[str]  # that can be 8-bit, of two 8-bit tensors
    follow: list[str]
    apart: dict[str, str]  # products that stay float32 → why


def layers_of(model: onnx.ModelProto) -> Layers:
    """What can be 8-bit. From the first Conv on: the resampling of pixels comes before it."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = Layers({}, [], [], {})
    behind: set[str] = set()  # tensors that a Conv leads to
    whole: set[str] = set()  # tensors that are 8-bit when all layers are
    for node in model.graph.node:
        if node.op_type == "Conv" or behind & set(node.input):
            behind |= set(node.output)
        if node.op_type in HEAVY:
            if node.output[0] not in behind:
                found.apart[node.name] = "resampling of the pixels"
            elif node.input[1] not in weights:
                found.apart[node.name] = "attention: no factor is constant"
            else:
                found.products[node.name] = _multiply_adds(model, node)
                if node.op_type == "Conv":  # a MatMul gives float32, for LayerNorm and residuals
                    whole |= set(node.output)
        elif node.op_type in FOLLOW | {"Add"} and whole >= set(node.input):
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
    """tensor → its least and largest value on the crops [N, H, W].

    What the first Conv takes gets the range of all grey levels: else a border that is blacker than
    every crop would be clipped.
    """
    ranges = _measured(model, pixels)
    flat = _measured(model, np.stack([np.full_like(pixels[0], grey) for grey in (0, 255)]))
    first = next(n for n in model.graph.node if n.op_type == "Conv").input[0]  # of all members
    found, extreme = ranges[first].range_value, flat[first].range_value
    ranges[first] = TensorData(
        lowest=np.minimum(found[0], extreme[0]), highest=np.maximum(found[1], extreme[1])
    )
    return ranges


def _measured(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> TensorsData:
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
