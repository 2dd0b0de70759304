"""What an encoder's twin is made of, from its bytes: held against the facts in parity.json.

Takes onnx, and for int8 what the export itself imports; so `verify` asks for it and may do without.
"""

from __future__ import annotations

from typing import Any

import onnx

from tier_infer.bundle import Bundle
from tier_infer.errors import IntegrityError


def facts_of(bundle: Bundle, precision: str) -> dict[str, Any]:
    """The certificate's facts that are numbers, of fp16 or int8."""
    from tier_export.fp16 import HEAVY, half_share

    data, source = bundle.encoder(precision), bundle.encoder("fp32")
    graph, exact = onnx.load_model_from_string(data), onnx.load_model_from_string(source)
    if precision == "fp16":
        casts = [[n.op_type for n in m.graph.node].count("Cast") for m in (graph, exact)]
        sizes = {"bytes": len(data), "ratio": len(data) / len(source)}
        return sizes | {"half_share": half_share(graph), "casts_added": casts[0] - casts[1]}
    from tier_export.qdq import layers_of

    eight = {name for n in graph.graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    products = {
        n.name for n in graph.graph.node if n.op_type in HEAVY and eight >= set(n.input[:2])
    }
    try:
        model = onnx.shape_inference.infer_shapes(exact, strict_mode=True)
        layers = layers_of(model)
    except Exception as error:  # onnx raises bare classes
        raise IntegrityError(f"the fp32 encoder is not one of tier-export: {error}") from None
    cost = layers.stems | layers.products
    share = sum(cost.get(name, 0) for name in products) / max(1, sum(cost.values()))
    return {"quantised": len(products), "share": share}
