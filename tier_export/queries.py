"""A label set becomes a graph: one product, with its sentences' directions as a constant; a set of
patch scores pools what the product gives.

Needs no torch: the table may come from a checkpoint or from an exported text tower.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tier_export import OPSET
from tier_infer.bundle import sha256
from tier_infer.label_sets import LabelSet
from tier_infer.pooling import Pool, TopK, described

IR_VERSION = 10


def query_graph(
    table: NDArray[np.float32], labels: LabelSet, text_sha256: str, opset: int = OPSET
) -> onnx.ModelProto:
    """embeddings: float32 [M, D] → scores: float32 [M, L]; `table` [L, D] is an initializer. Of a
    set of patch scores the input is patch_embeddings: float32 [M, P, D].

    `text_sha256` is the identity of the text towers that the table was made with.
    """
    n_labels, dim = table.shape
    if labels.pool is None:
        asked, sizes = "embeddings", ["M", dim]
        nodes = [helper.make_node("Gemm", [asked, "table"], ["scores"], name="scores", transB=1)]
        constants: list[onnx.TensorProto] = []
    else:
        asked, sizes = "patch_embeddings", ["M", "P", dim]
        nodes, constants = _pooled(labels.pool, n_labels, dim)
    graph = helper.make_graph(
        nodes,
        labels.id,
        [helper.make_tensor_value_info(asked, TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["M", n_labels])],
        [numpy_helper.from_array(table, "table"), *constants],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION
    )
    rows = [
        {
            "id": label.id,
            "name": label.name,
            "names": label.names,
            "positive": list(label.positive),
            "negative": list(label.negative),
            "codes": label.codes,
        }
        for label in labels.labels
    ]
    meta = {"set": labels.id, "text_sha256": text_sha256}
    if labels.pool:
        meta["pool"] = json.dumps(described(labels.pool), sort_keys=True)
    helper.set_model_props(model, meta | {"labels": json.dumps(rows, sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    return model


def _pooled(
    pool: Pool, labels: int, dim: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The formulas of `tier_infer.pooling`. The product is the same Gemm over as many rows as in
    the graph of an unpooled set, so that cells are the same to the bit."""
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Reshape", ["patch_embeddings", "rows"], ["flat"], {}),  # [M P, D]
        ("Gemm", ["flat", "table"], ["each"], {"transB": 1}),  # [M P, L]
        ("Shape", ["patch_embeddings"], ["images"], {"start": 0, "end": 2}),
        ("Concat", ["images", "labels"], ["sizes"], {"axis": 0}),
        ("Reshape", ["each", "sizes"], ["z"], {}),  # [M, P, L]
    ]
    constants: dict[str, Any] = {
        "rows": np.array([-1, dim], np.int64),
        "labels": np.array([labels], np.int64),
        "patches": np.array([1], np.int64),
    }
    if isinstance(pool, TopK):
        constants["k"] = np.array([pool.k], np.int64)
        steps += [
            ("Shape", ["patch_embeddings"], ["there"], {"start": 1, "end": 2}),
            ("Min", ["k", "there"], ["taken"], {}),
            ("TopK", ["z", "taken"], ["best", "places"], {"axis": 1}),
            ("ReduceMean", ["best", "patches"], ["scores"], {"keepdims": 0}),
        ]
    else:  # less the maximum, so that nothing overflows and one patch keeps its score to the bit
        constants["temperature"] = np.float32(pool.temperature)
        steps += [
            ("ReduceMax", ["z", "patches"], ["top"], {"keepdims": 1}),
            ("Sub", ["z", "top"], ["below"], {}),
            ("Div", ["below", "temperature"], ["cooled"], {}),
            ("Exp", ["cooled"], ["weights"], {}),
            ("ReduceMean", ["weights", "patches"], ["mean"], {"keepdims": 1}),
            ("Log", ["mean"], ["depth"], {}),
            ("Mul", ["depth", "temperature"], ["warmed"], {}),
            ("Add", ["top", "warmed"], ["soft"], {}),
            ("Squeeze", ["soft", "patches"], ["scores"], {}),
        ]
    nodes = [
        helper.make_node(op, given, out, name=out[0], **more) for op, given, out, more in steps
    ]
    return nodes, [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]


def set_entry(labels: LabelSet, graph: bytes) -> dict[str, Any]:
    """What the manifest says of a label set."""
    ids = [label.id for label in labels.labels]
    path = f"queries/{labels.id}.onnx"
    entry = {"path": path, "sha256": sha256(graph), "bytes": len(graph), "labels": ids}
    return entry | ({"pool": described(labels.pool)} if labels.pool else {})
