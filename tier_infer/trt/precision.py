"""What a plan computes in, proven, not believed: a plan of float32 from an FP16 graph has been
shipped before, by a builder that exited with success.

Three witnesses. The network, after parsing: it is strongly typed, so the builder must keep the
types that its layers have. The plan's size: weights are most of it. The engine inspector: what the
kernels of a loaded engine take and give; it needs a GPU, and where it speaks, it decides.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from tier_infer.errors import ParityError
from tier_infer.trt.library import Library

# A plan holds the graph's weights once and what every plan holds: 1.6 to 1.9 MB with two profiles
# (TensorRT-RTX 1.7.1), whatever the network and the number of GPU types. Of small graphs that is
# more than the weights, and their plans' sizes tell nothing.
SIZE_TELLS = 8_000_000  # bytes of graph
LEAST = 0.95  # plan : graph. No weight of a float32 graph gets smaller but by rounding
MOST = 1.5  # of an FP16 graph. ≥ 95 % of it are halves, so in float32 they would make it ≥ 1.9
HALF_SHARE = 0.75  # of the products; the narrow network, with the largest stem, has 10 of 11
NARROW = 256  # an FP16 graph keeps a convolution in float32 where it has fewer weights per output

KINDS = {  # as NVIDIA's inspectors write them: "Half", "Row major linear FP16 format"
    "half": re.compile(r"\b(half|fp16|float16)\b", re.IGNORECASE),
    "float": re.compile(r"\b(float|fp32|float32)\b", re.IGNORECASE),
    "other": re.compile(r"\b(bf16|bfloat16|int[48]|fp[48]\w*)\b", re.IGNORECASE),  # UInt8: pixels
}
PRODUCT = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected", re.IGNORECASE)
ROUNDED = re.compile(r"tf32|bf16|f16|16816|i8i8|e4m3", re.IGNORECASE)  # in names of float32 kernels


def network_types(library: Library, network: Any, precision: str) -> dict[str, int]:
    """Convolutions and matrix products by type: {"HALF": 10, "FLOAT": 1}.

    ParityError where an fp32 graph has anything but FLOAT, and where an fp16 graph has a float32
    product outside its stem.
    """
    kinds, types = library.module.LayerType, library.module.DataType
    found: Counter[str] = Counter()
    late = []  # float32 products that an fp16 graph should not have
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        convolution = layer.type == kinds.CONVOLUTION
        if not convolution and layer.type != kinds.MATRIX_MULTIPLY:
            continue
        kind = layer.get_output_type(0)
        found[kind.name] += 1
        narrow = convolution and layer.get_input(0).shape[1] < NARROW
        if kind != types.HALF and found["HALF"] and not narrow:
            late.append(layer.name)
    half, total = found["HALF"], sum(found.values())
    wanted = {"fp16": half >= HALF_SHARE * total and half > 0 and not late}
    if not wanted.get(precision, total > 0 and found["FLOAT"] == total):
        first = f", {late[0]} first" if late else ""
        raise ParityError(
            f"the {precision} graph computes in {described(found) or 'nothing'}{first}; export it "
            "again with tier-export"
        )
    return dict(sorted(found.items()))


def described(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} ({count} products)" for kind, count in sorted(counts.items()))


def plan_size(graph_bytes: int, plan_bytes: int, precision: str) -> dict[str, Any]:
    """The plan held against the graph's bytes, which are its weights but for some kB.

    `size_tells` False: the graph is too small. ParityError for a plan that must hold its weights in
    another type than the graph does.
    """
    ratio = plan_bytes / graph_bytes
    tells = graph_bytes >= SIZE_TELLS
    if tells and (ratio < LEAST or (precision == "fp16" and ratio > MOST)):
        raise ParityError(
            f"the plan of the {precision} graph has {plan_bytes / 1e6:.1f} MB, the graph "
            f"{graph_bytes / 1e6:.1f}: so its weights are not {precision} (allowed are {LEAST} to "
            f"{MOST} times the graph); run tier-infer warmup with another TensorRT"
        )
    return {"plan_bytes": plan_bytes, "graph_bytes": graph_bytes, "size_tells": tells}


def inspected(
    library: Library, engine: Any, side: tuple[int, int], precision: str
) -> dict[str, int]:
    """What the kernels of a loaded engine take and give; needs the GPU.

    Formats stay untold until the input's shape is set, so there is a context for one image.
    """
    context = engine.create_execution_context()
    if context is None or not context.set_input_shape("pixels", (1, *side)):
        raise ParityError("the engine makes no context, so its precision can't be proven")
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(library.module.LayerInformationFormat.JSON)
    return read_inspector(text, precision)


def read_inspector(text: str, precision: str) -> dict[str, int]:
    """Products by type, out of the inspector's JSON of TensorRT 10 and 11.

    ParityError for anything that is not understood: layers without details, products without
    types, none at all.
    """
    try:
        layers = json.loads(text)["Layers"]
        products = [layer for layer in layers if PRODUCT.search(_role(layer))]
        found = Counter(_kind(layer) for layer in products)
        kernels = [str(layer.get("TacticName", "")) for layer in products]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise ParityError(
            "the engine's inspector tells no layers with details, so its precision can't be proven"
        ) from None
    half, total = found["half"], sum(found.values())
    if precision == "fp16":
        proven = half > 0 and half >= HALF_SHARE * total and set(found) <= {"half", "float"}
    else:
        proven = total > 0 and set(found) == {"float"} and not any(map(ROUNDED.search, kernels))
    if not proven:
        rounded = [name for name in kernels if ROUNDED.search(name)] if precision == "fp32" else []
        raise ParityError(
            f"the engine of the {precision} graph computes in {described(found) or 'nothing known'}"
            f"{f', with {rounded[0]}' if rounded else ''}: so it is not {precision}; run "
            "tier-infer warmup with another TensorRT"
        )
    return dict(sorted(found.items()))


def _role(layer: dict[str, Any]) -> str:
    """What a layer does. A fused one may tell it by its name alone; a reformat is none, although it
    is named after the product that it serves."""
    kind = f"{layer['LayerType']} {layer.get('ParameterType', '')}"
    if re.search("reformat|shuffle|noop|constant|shape|cast", kind, re.IGNORECASE):
        return ""
    return f"{kind} {layer['Name']}"


def _kind(layer: dict[str, Any]) -> str:
    """half, float, other or untold: of the weights where they are told, else of the tensors."""
    weights = layer.get("Weights", {}).get("Type", "")
    told = weights or " ".join(
        str(tensor.get(key, ""))
        for tensor in [*layer["Inputs"], *layer["Outputs"]]
        for key in ("Format/Datatype", "Datatype", "DataType", "Format")
    )
    for kind in ("other", "half", "float"):
        if KINDS[kind].search(told):
            return kind
    return "untold"
