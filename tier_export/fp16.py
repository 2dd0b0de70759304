"""The FP16 twin: precision in the graph, strongly typed, float32 at both ends.

TensorRT 11 has no FP16 flag any more: an engine computes in the types that the graph states. So
the tower becomes half, that is every operator between the heavy products of a ResNet or a vision
transformer. The division by 255, the normalisation, the unit norms, the mean and every LayerNorm
stay float32, where half would lose what it gains. So do the first convolutions, as far as they have
few weights per output (`MIN_FAN_IN`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tier_infer.errors import ParityError, UsageError

HEAVY = {"Conv", "Gemm", "MatMul"}
SHAPES = {"Concat", "Reshape", "Shape", "Squeeze", "Transpose", "Unsqueeze"}
PARTS = {"Gather", "Slice", "Split"}
TOWER = HEAVY | SHAPES | PARTS | {"Add", "MaxPool", "Mul", "Relu", "Sigmoid", "Softmax"}
KEPT = {"LayerNormalization"}  # as in CLIP's own half arithmetic: squares beyond 65504 are infinite
# Half begins at the first convolution with so many weights per output: errors average out over
# them, and what the first layers err passes through all others. The narrow network's stem (9) made
# two thirds of its FP16 error. In a trained ResNet-50 the stem (147), layer1.0.conv1 (64) and its
# downsample (64), 0.1 % of the weights and 4 % of the products, made half of 1.4e-2 in a cell.
MIN_FAN_IN = 256
MIN_SHARE = 0.95  # of the weights: below it the twin is none
UP, DOWN = "_fp32", "_fp16"  # what a tensor is called in the precision it was not made in


def to_fp16(source: onnx.ModelProto) -> onnx.ModelProto:
    """The BN-folded fp32 encoder → its FP16 twin; the source is left as it is.

    ParityError for a weight that half can't hold, UsageError for an operator that is not known.
    """
    model = onnx.shape_inference.infer_shapes(source, strict_mode=True)
    floats = _tensors(model, TensorProto.FLOAT)
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
        raise UsageError("the encoder has no Conv to begin the half tower with; leave --fp16 out")
    foreign = sorted({nodes[i].op_type for i in tower} - TOWER - KEPT)
    if foreign:
        raise UsageError(
            f"the encoder holds {', '.join(foreign)}, which is not known to keep its precision in "
            f"half ({', '.join(sorted(TOWER | KEPT))} are); leave --fp16 out"
        )
    return tower


def _tensors(model: onnx.ModelProto, wanted: int) -> set[str]:
    """Names of the tensors of one type; shapes and indices are integers and have no half."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    kinds = {v.name: v.type.tensor_type.elem_type for v in values}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    unknown = {name for node in model.graph.node for name in node.output} - set(kinds)
    if unknown:
        raise RuntimeError(f"the type of {min(unknown)} can't be inferred")
    return {name for name, kind in kinds.items() if kind == wanted}


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
            largest, most = np.abs(values).max(initial=0), np.finfo(np.float16).max
            if not largest <= most:  # NaN, too
                raise ParityError(
                    f"{tensor.name} has a weight of {largest:.3g}, beyond the {most:g} of half "
                    "precision; leave --fp16 out"
                )
            half = numpy_helper.from_array(values.astype(np.float16), tensor.name + DOWN)
            model.graph.initializer.append(half)
        if tensor.name in used:
            model.graph.initializer.append(tensor)


def half_share(model: onnx.ModelProto) -> float:
    """Share of the initializers' elements that are half: the proof that the twin is one."""
    sizes = [(t.data_type, int(np.prod(t.dims))) for t in model.graph.initializer]
    half = sum(size for kind, size in sizes if kind == TensorProto.FLOAT16)
    return half / max(1, sum(size for _, size in sizes))


def half_facts(half: bytes, source: bytes) -> dict[str, Any]:
    """What the written FP16 twin is made of, read from its bytes and those of the fp32 encoder.

    half_share 0 to 1, bytes, ratio to fp32's bytes, casts_added, and `kept`: every operator that
    computes in float32 with its weight, if it has one, and the reason. ParityError for a twin that
    is hardly half.
    """
    model, exact = (onnx.load_model_from_string(data) for data in (half, source))
    share = half_share(model)
    if share < MIN_SHARE:
        raise ParityError(
            f"only {share:.0%} of the weights of the FP16 encoder are half, at least "
            f"{MIN_SHARE:.0%} are needed; leave --fp16 out"
        )
    casts = [[n.op_type for n in m.graph.node].count("Cast") for m in (model, exact)]
    kept = _kept(model)
    reasons = ", ".join(dict.fromkeys(row["reason"].partition(":")[0] for row in kept))
    return {
        "half_share": share,
        "bytes": len(half),
        "ratio": len(half) / len(source),
        "casts_added": casts[0] - casts[1],
        "kept": kept,
        "summary": f"{share:.1%} of weights half, {casts[0] - casts[1]} casts; "
        f"in float32: {reasons}",
    }


def _kept(model: onnx.ModelProto) -> list[dict[str, str]]:
    """The operators that compute in float32; what only moves values computes nothing."""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    floats, halves = _tensors(model, TensorProto.FLOAT), _tensors(model, TensorProto.FLOAT16)
    weights = {t.name: t for t in model.graph.initializer if np.prod(t.dims) > 1}
    nodes = list(model.graph.node)
    before = _before_half(nodes, halves)
    behind_stem: set[str] = set()  # float32 tensors that a float32 Conv leads to
    rows = []
    for i, node in enumerate(nodes):
        if node.output[0] not in floats:
            continue
        if i in before and (node.op_type == "Conv" or behind_stem & set(node.input)):
            behind_stem |= set(node.output)
        if node.op_type in SHAPES | PARTS | {"Cast", "Expand"}:
            continue
        weight = next((name for name in node.input[1:] if name in weights), "")
        row = {"node": node.name, "op": node.op_type}
        if weight and node.op_type in HEAVY | KEPT:
            row["weight"] = weight
        few = behind_stem & set(node.output)
        fan_in = int(np.prod(weights[weight].dims[1:])) if node.op_type == "Conv" else 0
        rows.append(row | {"reason": _reason(node, i in before, bool(few), fan_in)})
    return rows


def _before_half(nodes: list[onnx.NodeProto], halves: set[str]) -> set[int]:
    """Indices of the nodes that something half is made of."""
    needed = set(halves)
    found = set()
    for i in reversed(range(len(nodes))):
        if needed & set(nodes[i].output):
            needed |= set(nodes[i].input)
            found.add(i)
    return found


def _reason(node: onnx.NodeProto, before: bool, in_stem: bool, fan_in: int) -> str:
    if node.op_type in KEPT:
        return "LayerNorm: squares beyond 65504 are infinite in half"
    if in_stem:
        if not fan_in:
            return "stem: it follows the Conv of few weights"
        return f"stem: {fan_in} weights per output, rounding errors do not average out"
    if before:
        return "resampling of the pixels" if node.op_type in HEAVY else "normalisation"
    if node.op_type == "ReduceMean":
        return "mean over patches"
    joins = node.op_type == "Mul" and node.input[0] != node.input[1]
    return "joining of the members" if joins else "unit norm"
