"""The trained checkpoint and its bundle side by side, and graphs with a planted fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.conftest import DATA
from tier_export.crops import phantom_crops
from tier_export.export import half_encoder
from tier_export.heads import GraphScore, TableScore
from tier_export.members import members_of
from tier_export.parity import Crops, Outputs, compare, onnx_encoder, outputs
from tier_infer.bundle import load_bundle
from tier_infer.geometry import Geometry, to_crop
from tier_infer.images import load_image
from tier_infer.label_sets import load_label_set
from tier_train.checkpoint import load_checkpoint

Weights = NDArray[np.float32]


class Sides:
    """What PyTorch and the exported graphs give for two kinds of pictures."""

    def __init__(self, site: Path) -> None:
        self.checkpoint, self.bundle = (
            load_checkpoint(site / "ckpt.pt"),
            load_bundle(site / "bundle"),
        )
        self.members = members_of([self.checkpoint])
        presets = self.members.geometry, self.checkpoint.intensity
        films = [load_image(p, presets[1]).grey for p in sorted((DATA / "nih").glob("*.jpg"))]
        real = Crops(np.stack([to_crop(film, presets[0]) for film in films]), {}, "NIH")
        self.crops = {"phantoms": phantom_crops(*presets), "real": real}
        labels = load_label_set("chexpert")
        self.labels = [label.id for label in labels.labels]
        self.table = self.members.table(labels)
        self.query = self.bundle.query_graph("chexpert")
        self.encoders = {
            "torch": self.members.encode,
            "fp32": onnx_encoder(self.bundle.encoder("fp32")),
            "fp16": onnx_encoder(self.bundle.encoder("fp16")),
            "fp16 half activations": half_encoder(self.members),
        }
        self.right = self.reference(self.phantoms.pixels)  # PyTorch on phantoms

    @property
    def phantoms(self) -> Crops:
        return self.crops["phantoms"]

    def reference(self, pixels: NDArray[np.uint8]) -> Outputs:
        return outputs(self.encoders["torch"], TableScore(self.table), pixels)

    def exported(self, proof: str, pixels: NDArray[np.uint8]) -> Outputs:
        return outputs(self.encoders[proof], GraphScore(self.query), pixels)

    def measured(self, graph: bytes, query: bytes | None = None) -> dict[str, Any]:
        """Figures of a graph on the phantoms, whose AUC is gated."""
        score = GraphScore(query or self.query)
        other = outputs(onnx_encoder(graph), score, self.phantoms.pixels)
        return compare(self.right, other, self.labels, self.phantoms)


def reweighted(graph: bytes, change: Callable[[str, Weights], Weights]) -> bytes:
    """The graph with `change(name, weights)` for the weights of every Conv; types stay."""
    model = onnx.load_model_from_string(graph)
    convs = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    for tensor in model.graph.initializer:
        if tensor.name in convs:
            old = numpy_helper.to_array(tensor)
            new = change(tensor.name, old.astype(np.float32)).astype(old.dtype)
            tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    return bytes(model.SerializeToString())


def of_bits(values: Weights, bits: int) -> Weights:
    """The nearest values with a mantissa of `bits`; half has 11, bfloat16 8."""
    mantissa, exponent = np.frexp(values)
    rounded: Weights = np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)
    return rounded


def brighter(graph: bytes, geometry: Geometry, levels: float) -> bytes:
    """The graph with the shift of its normalisation, −mean / std, moved by grey levels of 255."""
    model = onnx.load_model_from_string(graph)
    mean, std = geometry.mean[0], geometry.std[0]
    hits = [
        t
        for t in model.graph.initializer
        if np.prod(t.dims) == 1 and np.isclose(numpy_helper.to_array(t).item(), -mean / std)
    ]
    assert hits, "the shift of the normalisation is not in the graph"
    for tensor in hits:
        moved = numpy_helper.to_array(tensor) + np.float32(levels / 255 / std)
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())
