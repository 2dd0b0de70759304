"""A label set becomes a graph: one product, with its sentences' directions as a constant.

Needs no torch: the table may come from a checkpoint or from an exported text tower.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tier_export import OPSET
from tier_infer.bundle import sha256
from tier_infer.errors import UsageError
from tier_infer.label_sets import LabelSet

IR_VERSION = 10
EQUAL = 1e-6  # components of two directions that differ by less are rounding
SHOWN = 60  # characters of a prompt that a message repeats
BLOCK = 256  # rows of a table held against all others at once; bounds memory


class Reads(Protocol):
    """What a tokenizer must tell, PyTorch's or an exported one."""

    max_tokens: int

    def uncut(self, sentence: str) -> list[int]: ...

    def can_read(self, sentence: str) -> bool: ...


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


def check_prompts(tokenizer: Reads, labels: LabelSet) -> None:
    """A prompt that the text tower can't read would still get an embedding, of nothing."""
    asked = {prompt: x.id for x in labels.labels for prompt in (*x.positive, *x.negative)}
    for prompt, label in asked.items():
        shown = repr(prompt if len(prompt) <= SHOWN else prompt[: SHOWN - 1] + "…")
        if not tokenizer.can_read(prompt):
            raise UsageError(
                f"label {label}: the vocabulary has no letters for part of {shown}, or a part of "
                "it is a sign that means something else to it; write plain words in the language "
                "of the training text"
            )
        count = len(tokenizer.uncut(prompt))
        if count > tokenizer.max_tokens:
            raise UsageError(
                f"label {label}: {shown} has {count} tokens, longer than {tokenizer.max_tokens} "
                "tokens is cut; make two sentences of it"
            )


def check_directions(table: NDArray[np.float32], labels: LabelSet) -> None:
    """q⁺ − q⁻ of zero scores every image 0; two equal rows are one label under two names."""
    names = [label.id for label in labels.labels]
    zero = np.flatnonzero(np.abs(table).max(1) < EQUAL)
    if len(zero):
        raise UsageError(
            f"label {names[zero[0]]}: its positive and negative sentences mean the same"
        )
    exact = table.astype(np.float64)  # so that the difference of squares is a distance
    squares = (exact * exact).sum(1)
    for start in range(0, len(exact), BLOCK):
        rows, rest = slice(start, start + BLOCK), slice(start, None)
        apart = squares[rows, None] + squares[rest] - 2 * exact[rows] @ exact[rest].T
        near = np.argwhere(apart <= table.shape[1] * EQUAL**2) + start
        for i, j in near[near[:, 0] < near[:, 1]]:
            if np.abs(exact[i] - exact[j]).max() < EQUAL:
                raise UsageError(f"labels {names[i]} and {names[j]} have the same sentences")
