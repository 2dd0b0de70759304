"""A workstation of which nothing is real: bundle, TIER_CACHE with an engine, GPU, library."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.infer.tiny_bundle import write_bundle
from tests.infer.trt.fake_cuda import FakeGpu
from tests.infer.trt.fake_engine import FakeEngine
from tests.infer.trt.recorded import VERSIONS, Recorded
from tier_infer.bundle import Bundle, load_bundle, sha256
from tier_infer.cache import Cache
from tier_infer.embeddings import Embeddings
from tier_infer.errors import DeviceError
from tier_infer.gpu import Gpu
from tier_infer.sessions import run_encoder
from tier_infer.trt import run
from tier_infer.trt.build import PROFILES
from tier_infer.trt.library import Library
from tier_infer.trt.run import NativeEncoder, open_engine
from tier_infer.trt.sidecar import Sidecar
from tier_infer.trt.store import engine_name, save_engine

ADA = Gpu("NVIDIA RTX 4000 Ada", "GPU-7", "sm89", "580.65.06", "13.0")
TRT, RTX = VERSIONS[-2], VERSIONS[-1]
DESERIALIZE = "Runtime.deserialize_cuda_engine"


class Station:
    """A workstation: bundle, cache with an engine, GPU, library. Nothing of it is real."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle: Bundle = load_bundle(folder)
        self.gpu = FakeGpu(monkeypatch)
        self.graph = self.bundle.encoder("fp32")
        self.engine = FakeEngine(self.gpu, self.graph, 112, 7, 2)
        self.cache = Cache()
        self._patch = monkeypatch
        monkeypatch.setattr(run, "obstacles", list)
        monkeypatch.setattr(run, "gpu", lambda: ADA)
        self.opened: weakref.WeakSet[NativeEncoder] = weakref.WeakSet()
        opened = self.opened

        class Watched(NativeEncoder):
            def __init__(self, *given: Any) -> None:
                opened.add(self)
                super().__init__(*given)

        monkeypatch.setattr(run, "NativeEncoder", Watched)

    def install(self, release: str = TRT, **changes: Any) -> Recorded:
        """The library, and an engine that warm-up left for it."""
        self.recorded = self.engine.library(release)
        name, _, number = release.partition(" ")
        self.library = Library(name, number, self.recorded.module)
        self._patch.setattr(run, "find_library", lambda: self.library)
        sidecar = Sidecar(
            plan_sha256=sha256(self.graph),
            plan_bytes=len(self.graph),
            library=name,
            version=number,
            cuda=ADA.cuda,
            driver=ADA.driver,
            gpu=ADA.name,
            sm=ADA.sm,
            precision="fp32",
            onnx_sha256=sha256(self.graph),
            profiles=PROFILES,
            hardware_compatibility="none",
            version_compatible=False,
            tf32=False,
            precision_proof={"inspector": {"float": 3}},
        )
        self.sidecar = replace(sidecar, **changes)
        self.file = engine_name(self.library, ADA, "fp32")
        save_engine(self.bundle, self.graph, self.sidecar, self.file, self.cache)
        return self.recorded

    def open(self) -> NativeEncoder:
        encoder = open_engine(self.bundle, "fp32")
        self.engine.ran.clear()
        return encoder

    def refused(self, words: str, error: type[Exception] = DeviceError) -> None:
        """And whatever was opened on the way is closed again."""
        with pytest.raises(error, match=words) as caught:
            open_engine(self.bundle, "fp32")
        assert "\n" not in str(caught.value)
        assert self.gpu.free_of()

    def right(self, pixels: NDArray[np.uint8]) -> Embeddings:
        return run_encoder(self.engine.session, pixels)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("sound") / "bundle", "small-112")


@pytest.fixture
def station(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    made = Station(Path(shutil.copytree(sound, tmp_path / "bundle")), monkeypatch)
    yield made
    for encoder in list(made.opened):  # while the GPU is still the fake one
        encoder.close()


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 112, 112)).astype(np.uint8)


def same(found: Embeddings, right: Embeddings) -> bool:
    return np.array_equal(found.image, right.image) and np.array_equal(found.patches, right.patches)
