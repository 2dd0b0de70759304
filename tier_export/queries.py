"""A label set becomes a graph: one product, with its sentences' directions as a constant.

Needs no torch: the table may come from a checkpoint or from an exported text tower.
"""

from __future__ import annotations

import itertools
import json
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tier_infer.errors import UsageError
from tier_infer.label_sets import LabelSet

OPSET = 18
IR_VERSION = 10


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


def check_prompts(tokenizer: Reads, labels: LabelSet) -> None:
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
