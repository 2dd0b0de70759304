"""NVIDIA's own parser and builder, and the graphs that they are given."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tier_infer.trt.library import Library, find_library


@pytest.fixture(scope="session")
def library() -> Library:
    """TensorRT-RTX, whose parser and builder need no GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("needs tensorrt_rtx, which has wheels for x86-64 Linux and Windows alone")
    return find_library("tensorrt_rtx")


@pytest.fixture(scope="session")
def graphs(site: Path) -> dict[str, bytes]:
    """precision → encoder of the trained bundle."""
    names = {"fp32": "image_encoder.onnx", "fp16": "image_encoder.fp16.onnx"}
    return {key: (site / "bundle" / name).read_bytes() for key, name in names.items()}


@pytest.fixture(scope="session")
def resnet50() -> dict[str, bytes]:
    """precision → encoder in full size, 224 px, D = 128, with tame weights; 7 s of CPU."""
    from tests.export.test_imports_export import make_checkpoint
    from tier_export.fp16 import to_fp16
    from tier_export.graphs import encoder_graph
    from tier_export.members import Members

    checkpoint = make_checkpoint("tier")
    exact = encoder_graph(Members((checkpoint,), (checkpoint,)))
    return {"fp32": exact.SerializeToString(), "fp16": to_fp16(exact).SerializeToString()}
