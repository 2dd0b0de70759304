"""python -m pytest -m gpu tests/infer/trt/test_gpu_engine.py -- engines built and run for real.

Needs: an NVIDIA GPU with its driver, TensorRT (pip install 'tier-cxr[tensorrt]', on an RTX
workstation 'tier-cxr[rtx]') and onnxruntime for the numbers to compare with. Skipped elsewhere,
with what is missing; never run so far.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tier_infer.bundle import Bundle, load_bundle
from tier_infer.embeddings import Embeddings
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError
from tier_infer.golden import read_golden, replay
from tier_infer.gpu import gpu, obstacles
from tier_infer.query_table import QueryTable
from tier_infer.trt.buffers import cuda
from tier_infer.trt.build import Wish
from tier_infer.trt.library import Library, find_library
from tier_infer.trt.run import NativeEncoder, open_engine
from tier_infer.trt.store import open_cache, warm_engine

pytestmark = pytest.mark.gpu
GATES = {"fp32": (1e-5, 1e-4), "fp16": (2e-3, 1e-2)}  # |dZ|, cells: design.md 4
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def library() -> Library:
    missing = obstacles()
    if missing:
        pytest.skip(f"needs an NVIDIA GPU with its driver: {'; '.join(missing)}")
    try:
        cuda()
        return find_library()
    except DeviceError as error:
        pytest.skip(f"needs TensorRT: {error}")


@pytest.fixture(scope="module")
def bundle(site: Path, library: Library) -> Bundle:
    """With engines of both precisions, as tier-infer warmup leaves them."""
    found = load_bundle(site / "bundle")
    for precision in GATES:
        made = warm_engine(found, precision, Wish(precision), open_cache(), print)
        print(f"{made.name}: {made.seconds:.1f} s, {made.sidecar.precision_proof}")
    return found


@pytest.fixture(params=list(GATES))
def encoder(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[NativeEncoder]:
    opened = open_engine(bundle, request.param)
    yield opened
    opened.close()


def crops(count: int) -> NDArray[np.uint8]:
    """Noise over a gradient: flat and busy parts, all grey levels."""
    rng = np.random.default_rng(count)
    slope = np.linspace(0, 255, 112 * 112).reshape(112, 112)
    return np.clip(slope + rng.normal(0, 60, (count, 112, 112)), 0, 255).astype(np.uint8)


def differ(one: Embeddings, other: Embeddings, table: QueryTable) -> tuple[float, float]:
    """|dZ| of images, and of every patch's score."""
    dz = np.abs(table.image_scores(one) - table.image_scores(other)).max()
    return float(dz), float(np.abs(one.patches - other.patches).max())


@pytest.mark.parametrize("count", [1, 2, 8, 32, 33, 70])
def test_engines_give_the_scores_of_the_cpu(
    encoder: NativeEncoder, bundle: Bundle, count: int
) -> None:
    pixels = crops(count)
    cpu = Engine(bundle, "cpu", "fp32").encode(pixels)
    dz, cells = differ(encoder.encode(pixels), cpu, QueryTable(bundle, "chexpert"))
    print(f"{encoder.precision}, {count} images: |dZ| {dz:.1e}, cells {cells:.1e}")
    assert dz <= GATES[encoder.precision][0]
    assert cells <= GATES[encoder.precision][1]


def test_the_golden_vectors(encoder: NativeEncoder, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    assert golden
    found = replay(bundle, encoder, golden)
    print(found)
    assert found.breaches == []


def test_batches_agree_with_single_images(encoder: NativeEncoder, bundle: Bundle) -> None:
    """The CUDA graph of one image against the batch of 32, twice."""
    pixels = crops(32)
    together = encoder.encode(pixels)
    for _ in range(2):
        parts = [encoder.encode(pixels[i : i + 1]) for i in range(len(pixels))]
        image = np.concatenate([part.image for part in parts])
        patches = np.concatenate([part.patches for part in parts])
        dz, cells = differ(Embeddings(image, patches), together, QueryTable(bundle, "chexpert"))
        print(f"{encoder.precision}, 1 against 32: |dZ| {dz:.1e}, cells {cells:.1e}")
        assert dz <= GATES[encoder.precision][0]
        assert cells <= GATES[encoder.precision][1]


def test_single_images_are_a_graph(encoder: NativeEncoder) -> None:
    assert "CUDA graph" in encoder.identity["single_images"]


def test_the_same_picture_gives_the_same_bytes(encoder: NativeEncoder) -> None:
    pixels = crops(9)
    first, again = encoder.encode(pixels), encoder.encode(pixels)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.patches.tobytes() == again.patches.tobytes()


def test_memory_is_given_back(bundle: Bundle) -> None:
    """Ten engines one after another need the memory of one."""
    free = []
    for _ in range(10):
        opened = open_engine(bundle, "fp32")
        opened.encode(crops(2))
        opened.close()
        free.append(cuda().cudaMemGetInfo()[1])
    assert abs(free[-1] - free[1]) < 2**26


def test_auto_takes_the_engine(bundle: Bundle) -> None:
    engine = Engine(bundle, "auto")
    assert (engine.device, engine.precision) == ("tensorrt", "fp16")
    assert engine.identity["gpu"].endswith(gpu().uuid)


def test_the_command_end_to_end(site: Path, bundle: Bundle) -> None:
    """In a process of its own: it must also end well."""
    scores = {}
    for device in ("cpu", "tensorrt"):
        command = [str(BIN / "tier-infer"), "study.dcm", "--json", "--device", device]
        done = subprocess.run(
            command, cwd=site, env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["device"] == device
        scores[device] = told["studies"][0]["scores"]
    for label, score in scores["cpu"].items():
        assert abs(score - scores["tensorrt"][label]) <= GATES["fp16"][0]


@pytest.mark.parametrize("level", ["ampere+", "same-cc"])
def test_compatible_engines_run_here(bundle: Bundle, library: Library, level: str) -> None:
    if library.rtx:
        pytest.skip("needs TensorRT 10 or 11: TensorRT-RTX has no such level")
    wish = Wish("fp16", hardware_compatibility=level, version_compatible=True)
    warm_engine(bundle, "fp16", wish, open_cache(), print)
    opened = open_engine(bundle, "fp16")
    assert len(opened.encode(crops(3)).image) == 3
    opened.close()
    warm_engine(bundle, "fp16", Wish("fp16"), open_cache(), print)
