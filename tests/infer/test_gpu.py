"""python -m pytest -m gpu tests/infer/test_gpu.py -- the same scores on an NVIDIA GPU.

Needs: an NVIDIA GPU with a driver for CUDA 13 (r580 or later) and `TORCH=cuda make test`, which
installs onnxruntime-gpu with its CUDA libraries. Skipped elsewhere; never run so far.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tier_infer.bundle import load_bundle
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError
from tier_infer.query_table import QueryTable


def cuda_runs(bundle: Path) -> bool:
    try:
        Engine(load_bundle(bundle), "cuda", "fp32")
    except DeviceError:
        return False
    return True


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("fp16", 2e-3)])
def test_cuda_gives_the_scores_of_the_cpu(site: Path, precision: str, allowed: float) -> None:
    if not cuda_runs(site / "bundle"):
        pytest.skip("no NVIDIA GPU with onnxruntime-gpu")
    bundle = load_bundle(site / "bundle")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 112, 112), dtype=np.uint8)
    table = QueryTable(bundle, "chexpert")
    cpu = Engine(bundle, "cpu", "fp32").encode(pixels)
    gpu = Engine(bundle, "cuda", precision).encode(pixels)
    assert np.abs(table.image_scores(gpu) - table.image_scores(cpu)).max() <= allowed
    assert Engine(bundle, "auto").device == "cuda"


def test_auto_is_the_cpu_where_there_is_no_gpu(site: Path) -> None:
    if cuda_runs(site / "bundle"):
        pytest.skip("this machine has a GPU")
    engine = Engine(load_bundle(site / "bundle"), "auto")
    assert (engine.device, engine.precision) == ("cpu", "fp32")
