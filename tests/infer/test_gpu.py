"""python -m pytest -m gpu -rs tests/infer/test_gpu.py -- the same scores on an NVIDIA GPU.

Each needs an NVIDIA GPU with a driver for CUDA 13 (r580 or later), and
- cuda: `TORCH=cuda make test`, which installs onnxruntime-gpu with its CUDA libraries
- tensorrt-ep: pip install 'tier-cxr[trt-ep]', onnxruntime-gpu with the TensorRT 10 that it links
- tensorrt: pip install 'tier-cxr[tensorrt]', or 'tier-cxr[rtx]' for GPUs of workstations
Skipped elsewhere, with what is missing; never run so far.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tier_infer.bundle import Bundle, load_bundle
from tier_infer.cache import Cache
from tier_infer.devices import GPU_DEVICES
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError
from tier_infer.gpu import obstacles
from tier_infer.query_table import QueryTable

SIZES = (1, 3, 8, 33)  # a single image, part of a batch, one batch, more than the largest


def engine(bundle: Bundle, device: str, precision: str) -> Engine:
    """Made for this GPU first where the device needs that; skips where it is not to be had."""
    try:
        if device == "tensorrt-ep":
            from tier_infer.trt.provider import warm_provider

            warm_provider(bundle, precision, Cache(), print)
        elif device == "tensorrt":
            from tier_infer.trt.build import Wish
            from tier_infer.trt.store import warm_engine

            warm_engine(bundle, precision, Wish(precision), Cache(), print)
        return Engine(bundle, device, precision)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.gpu
@pytest.mark.parametrize("device", GPU_DEVICES)
@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("fp16", 2e-3)])
def test_a_gpu_gives_the_scores_of_the_cpu(
    site: Path, device: str, precision: str, allowed: float
) -> None:
    bundle = load_bundle(site / "bundle")
    gpu = engine(bundle, device, precision)
    assert (gpu.device, gpu.precision) == (device, precision)
    pixels = np.random.default_rng(0).integers(0, 256, (max(SIZES), 112, 112), dtype=np.uint8)
    table = QueryTable(bundle, "chexpert")
    wanted = table.image_scores(Engine(bundle, "cpu", "fp32").encode(pixels))
    for size in SIZES:
        found = table.image_scores(gpu.encode(pixels[:size]))
        furthest = float(np.abs(found - wanted[:size]).max())
        print(f"{device} {precision}, {size} images: max |dZ| {furthest:.1e}")
        assert furthest <= allowed


@pytest.mark.gpu
def test_auto_takes_a_gpu(site: Path) -> None:
    """CUDA needs no warm-up, so where it can be had auto never ends at the CPU."""
    bundle = load_bundle(site / "bundle")
    engine(bundle, "cuda", "auto")
    chosen = Engine(bundle, "auto")
    print(chosen.choice)
    assert chosen.device in GPU_DEVICES
    assert chosen.precision == "fp16"


def test_auto_is_the_cpu_where_there_is_no_gpu(site: Path) -> None:
    if not obstacles():
        pytest.skip("this machine has a GPU")
    chosen = Engine(load_bundle(site / "bundle"), "auto")
    assert (chosen.device, chosen.precision) == ("cpu", "fp32")
    assert set(chosen.passed_over) == set(GPU_DEVICES)
