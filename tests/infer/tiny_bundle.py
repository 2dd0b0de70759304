"""Bundles of any geometry and grid, made in code: the encoder of a few kB measures brightness.

Patch (r, c) is the mean m of the pixels that its part of the input covers, as the unit vector along
(m, 1 - m); the image embedding is that of the mean over all patches. Labels `bright`, `dark`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tier_infer.bundle import Manifest, sha256
from tier_infer.geometry import GEOMETRIES, Geometry, described
from tier_infer.golden import Golden, SetScores, golden_files
from tier_infer.sessions import open_session, run_encoder

LABELS = ("bright", "dark")
DIM = 2  # D
BUILD = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 10}
NATURAL = {  # preset → grid of the network that it is made for
    "small-112": 7,
    "tier-224-imagenet": 7,
    "biovil-480-raw": 15,
    "biovil-t-448-raw": 14,
    "chexzero-320pad-224": 7,
    "medclip-224": 7,
}


def parts(cells: int, side: int) -> NDArray[np.float32]:
    """float32 [cells, side]: row r averages the r-th part of `side` pixels, whole or not."""
    edges = np.linspace(0, side, cells + 1)
    pixel = np.arange(side)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (covered.clip(0) * cells / side).astype(np.float32)


def encoder(crop: int, cells: int) -> bytes:
    """pixels: uint8 [N, crop, crop] → image_embedding [N, 2], patch_embeddings [N, g, g, 2]."""
    a = parts(cells, crop)
    constants = {
        "rows": a,
        "columns": a.T.copy(),
        "white": np.float32(255),
        "one": np.float32(1),
        "last": np.array([-1], np.int64),
        "both": np.array([1, 2], np.int64),
    }
    steps = [
        ("Cast", ["pixels"], "levels", {"to": TensorProto.FLOAT}),
        ("Div", ["levels", "white"], "x", {}),
        ("MatMul", ["rows", "x"], "by_row", {}),
        ("MatMul", ["by_row", "columns"], "m", {}),  # [N, g, g]
        ("Sub", ["one", "m"], "rest", {}),
        ("Unsqueeze", ["m", "last"], "m1", {}),
        ("Unsqueeze", ["rest", "last"], "rest1", {}),
        ("Concat", ["m1", "rest1"], "pair", {"axis": -1}),
        ("ReduceL2", ["pair", "last"], "length", {"keepdims": 1}),
        ("Div", ["pair", "length"], "patch_embeddings", {}),
        ("ReduceMean", ["pair", "both"], "mean", {"keepdims": 0}),
        ("ReduceL2", ["mean", "last"], "mean_length", {"keepdims": 1}),
        ("Div", ["mean", "mean_length"], "image_embedding", {}),
    ]
    nodes = [helper.make_node(op, given, [out], name=out, **more) for op, given, out, more in steps]
    row = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [row("pixels", TensorProto.UINT8, ["N", crop, crop])],
        [
            row("image_embedding", TensorProto.FLOAT, ["N", DIM]),
            row("patch_embeddings", TensorProto.FLOAT, ["N", cells, cells, DIM]),
        ],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return serialized(graph)


def queries() -> bytes:
    """Z of `bright` is the first part of the embedding less the second, of `dark` the reverse."""
    table = np.array([[1, -1], [-1, 1]], np.float32)
    row = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["embeddings", "table"], ["scores"], transB=1)],
        "light",
        [row("embeddings", TensorProto.FLOAT, ["M", DIM])],
        [row("scores", TensorProto.FLOAT, ["M", len(LABELS)])],
        [numpy_helper.from_array(table, "table")],
    )
    rows = [{"id": name, "name": name.capitalize(), "positive": [name]} for name in LABELS]
    return serialized(graph, labels=json.dumps(rows), text_sha256="words")


def serialized(graph: onnx.GraphProto, **meta: str) -> bytes:
    model = helper.make_model(graph, **BUILD)
    helper.set_model_props(model, meta)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def golden(encoder_graph: bytes, query_graph: bytes, geometry: Geometry) -> dict[str, bytes]:
    """Two crops of noise, what the graph makes of them, and Z by hand."""
    crops = np.random.default_rng(0).integers(0, 256, (2, geometry.crop, geometry.crop))
    pixels = crops.astype(np.uint8)
    found = run_encoder(open_session(encoder_graph, "cpu"), pixels)
    z = found.image @ np.array([[1, -1], [-1, 1]], np.float32)
    gates = {"fp32": {"max_dz": 1e-5, "max_dcell": 1e-4}}
    scores = {"light": SetScores(sha256(query_graph), z)}
    return golden_files(Golden(pixels, found.image, found.patches, scores, gates, "noise"))


def write_bundle(folder: Path, preset: str, cells: int | None = None, **changes: Any) -> Path:
    """A sound bundle of this geometry; `changes` replace fields of its manifest."""
    geometry = GEOMETRIES[preset]
    side = cells or NATURAL[preset]
    graph, table = encoder(geometry.crop, side), queries()
    vectors = golden(graph, table, geometry)
    files = {"image_encoder.onnx": graph, "queries/light.onnx": table, **vectors}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    entries = {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}
    fields: dict[str, Any] = {
        "name": f"tiny {preset}",
        "embed_dim": DIM,
        "grid": (side, side),
        "geometry": described(geometry),
        "intensity": "mimic-jpg",
        "global_pool": "mean_then_norm",
        "graph": {},
        "views": ("frontal", "lateral"),
        "files": {"image_encoder.onnx": entries["image_encoder.onnx"] | {"precision": "fp32"}},
        "label_sets": {
            "light": entries["queries/light.onnx"]
            | {"path": "queries/light.onnx", "labels": list(LABELS)}
        },
        "default_set": "light",
        "checkpoint": [],
        "training_data": "none",
        "parity": {},
        "golden": {name: entries[name] for name in vectors},
        "text": {"sha256": "words"},
    }
    (folder / "manifest.json").write_text(Manifest(**(fields | changes)).to_json())
    return folder
