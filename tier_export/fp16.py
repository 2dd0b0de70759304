"""The FP16 twin: precision in the graph, strongly typed, float32 at both ends.

TensorRT 11 has no FP16 flag any more: an engine computes in the types that the graph states. So
the tower becomes half, that is every operator between the heavy products of a ResNet or a vision
transformer. The division by 255, the normalisation, the unit norms, the mean and every LayerNorm
stay float32, where half would lose what it gains. A stem with few weights per output stays float32
too (`MIN_FAN_IN`).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEAVY = {"Conv", "Gemm", "MatMul"}
SHAPES = {"Concat", "Reshape", "Shape", "Squeeze", "Transpose", "Unsqueeze"}
PARTS = {"Gather", "Slice", "Split"}
TOWER = HEAVY | SHAPES | PARTS | {"Add", "MaxPool", "Mul", "Relu", "Sigmoid", "Softmax"}
KEPT = {"LayerNormalization"}  # as in CLIP's own half arithmetic: squares beyond 65504 are infinite
# Rounding errors average out over the weights of one output. The narrow network's stem has 9 of
# them and alone made two thirds of the FP16 error (1.5e-3 of 2.1e-3 in Z); ResNet-50's has 147.
MIN_FAN_IN = 32
UP, DOWN = "_fp32", "_fp16"  # what a tensor is called in the precision it was not made in


def to_fp16(source: onnx.ModelProto) -> onnx.ModelProto:
    """The BN-folded fp32 encoder → its FP16 twin; the source is left as it is."""
    model = onnx.shape_inference.infer_shapes(source, strict_mode=True)
    floats = _float_tensors(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    tower = _tower(model)
    half = [i in tower and node.op_type not in KEPT for i, node in enumerate(model.graph.node)]
    made_half = {
        name for node, h in zip(model.graph.node, half, strict=True) if h for name in node.output
    }
    cast: set[str] = set()
    nodes = []
    for node, is_half in zip(model.graph.node, half, strict=True):
        for slot, name in enumerate(node.input):
            if name not in floats:
                continue
            if is_half != (name in made_half):  # the edge leads from one precision into the other
                node.input[slot] = name + (DOWN if is_half else UP)
                if name not in cast and name not in weights:
                    kind = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
                    nodes.append(_cast(name, node.input[slot], kind))
                cast.add(name)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _halve_weights(model)
    del model.graph.value_info[:]  # stated float32; shape inference states them anew
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _tower(model: onnx.ModelProto) -> set[int]:
    """Indices of the nodes with a heavy product at or before them, and one at or behind them.

    So the unit norms, which come last, and the resampling before the first Conv stay outside.
    """
    nodes = list(model.graph.node)
    fan_in = {t.name: int(np.prod(t.dims[1:])) for t in model.graph.initializer}
    reached: set[str] = set()  # tensors behind the first Conv
    behind = []
    for i, node in enumerate(nodes):
        starts = node.op_type == "Conv" and fan_in[node.input[1]] >= MIN_FAN_IN
        if starts or reached & set(node.input):
            reached |= set(node.output)
            behind.append(i)
    needed: set[str] = set()  # tensors that a heavy product is made of
    tower = set()
    for i in reversed(behind):
        if nodes[i].op_type in HEAVY or needed & set(nodes[i].output):
            needed |= set(nodes[i].input)
            tower.add(i)
    if not tower:
        raise RuntimeError("the encoder has no Conv, so there is no tower to convert")
    foreign = sorted({nodes[i].op_type for i in tower} - TOWER - KEPT)
    if foreign:
        raise RuntimeError(
            f"the tower holds {', '.join(foreign)}, which this converter leaves alone"
        )
    return tower


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the float32 tensors; shapes and indices are integers and have no half."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    kinds = {v.name: v.type.tensor_type.elem_type for v in values}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    unknown = {name for node in model.graph.node for name in node.output} - set(kinds)
    if unknown:
        raise RuntimeError(f"the type of {min(unknown)} can't be inferred")
    return {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}


def _cast(name: str, to: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [to], name=f"cast_{to}", to=kind)


def _halve_weights(model: onnx.ModelProto) -> None:
    """Adds what half operators ask for, drops what nobody asks for any more. The exporter stores
    equal weights once, so one may be needed in both precisions."""
    used = {name for node in model.graph.node for name in node.input}
    stored = list(model.graph.initializer)
    del model.graph.initializer[:]
    for tensor in stored:
        if tensor.name + DOWN in used:
            values = numpy_helper.to_array(tensor)
            if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                raise RuntimeError(f"{tensor.name} does not fit into half precision")
            half = numpy_helper.from_array(values.astype(np.float16), tensor.name + DOWN)
            model.graph.initializer.append(half)
        if tensor.name in used:
            model.graph.initializer.append(tensor)


def half_share(model: onnx.ModelProto) -> float:
    """Share of the initializers' elements that are half: the proof that the twin is one."""
    sizes = [(t.data_type, int(np.prod(t.dims))) for t in model.graph.initializer]
    half = sum(size for kind, size in sizes if kind == TensorProto.FLOAT16)
    return half / max(1, sum(size for _, size in sizes))
