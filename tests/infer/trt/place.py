"""A bundle, a cache, and a builder that counts: plans are bytes that nobody looks into."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.infer.tiny_bundle import write_bundle
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.cache import Cache
from tier_infer.errors import DeviceError
from tier_infer.gpu import Gpu
from tier_infer.trt import store
from tier_infer.trt.build import Built, Wish
from tier_infer.trt.library import Library
from tier_infer.trt.sidecar import Sidecar
from tier_infer.trt.store import find_engine, warm_engine

AMPERE = Gpu("NVIDIA RTX A4000", "GPU-1", "sm86", "580.65.06", "13.0")
TRT = Library("tensorrt", "11.4.0.106", ModuleType("tensorrt"))
NAME = "sm86-trt11.4.0.106-fp32"
WARMUP = "run tier-infer warmup$"


@dataclass
class Place:
    """A bundle, a cache, and a builder that counts."""

    bundle: Bundle
    cache: Cache
    wishes: list[Wish] = field(default_factory=list)
    timing: list[bytes] = field(default_factory=list)  # what each build was given

    def build(
        self, library: Library, graph: bytes, wish: Wish, timing: bytes = b"", say: Any = None
    ) -> Built:
        self.wishes.append(wish)
        self.timing.append(timing)
        number = len(self.wishes)
        return Built(b"plan %d" % number, b"timing %d" % number, 2.5, {"layers": number})

    def warm(self, library: Library = TRT, here: Gpu = AMPERE, **more: Any) -> store.Warmed:
        wish = more.pop("wish", Wish("fp32"))
        return warm_engine(
            self.bundle, "fp32", wish, self.cache, library=library, here=here, **more
        )

    def find(self, library: Library = TRT, here: Gpu = AMPERE) -> tuple[bytes, Sidecar]:
        return find_engine(self.bundle, "fp32", library, here, self.cache)

    @property
    def cached(self) -> Path:
        return self.cache.folder / "engines" / self.bundle.manifest.bundle_sha256[:12]

    @property
    def engines(self) -> Path:
        return self.bundle.folder / "engines"

    def refused(self, words: str, library: Library = TRT, here: Gpu = AMPERE) -> None:
        with pytest.raises(DeviceError, match=words) as caught:
            self.find(library, here)
        assert "\n" not in str(caught.value)
        assert str(self.cache.folder) not in str(caught.value)


@pytest.fixture(scope="module")
def bundle_of_noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("sound") / "bundle", "small-112")


@pytest.fixture
def place(bundle_of_noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    folder = shutil.copytree(bundle_of_noise, tmp_path / "bundle")
    made = Place(load_bundle(folder), Cache(tmp_path / "cache"))
    monkeypatch.setattr(store, "build_plan", made.build)
    return made


Damage = Callable[[Place, Path], None]


def changed(ending: str) -> Damage:
    def damage(place: Place, folder: Path) -> None:
        path = folder / f"{NAME}{ending}"
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))

    return damage
