"""A label set becomes a graph: one product, with its sentences' directions as a constant.

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

IR_VERSION = 10


def query_graph(
    table: NDArray[np.float32], labels: LabelSet, text_sha256: str, opset: int = OPSET
) -> onnx.ModelProto:
    """embeddings: float32 [M, D] → scores: float32 [M, L]; `table` [L, D] is an initializer.

    `text_sha256` is the identity of the text towers that the table was made with.
    """
    n_labels, dim = table.shape
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["embeddings", "table"], ["scores"], name="scores", transB=1)],
        labels.id,
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["M", dim])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["M", n_labels])],
        [numpy_helper.from_array(table, "table")],
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
    helper.set_model_props(model, meta | {"labels": json.dumps(rows, sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    return model


def set_entry(labels: LabelSet, graph: bytes) -> dict[str, Any]:
    """What the manifest says of a label set."""
    ids = [label.id for label in labels.labels]
    path = f"queries/{labels.id}.onnx"
    return {"path": path, "sha256": sha256(graph), "bytes": len(graph), "labels": ids}
