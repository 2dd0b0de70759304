"""The two places where engines lie. What is handed out has this installation's seal and the hash
that the sidecar tells; what has not is an IntegrityError with its name. Nothing is deserialised.

TIER_CACHE/engines/<bundle12>/NAME.engine, NAME.json   each with its .seal, see `cache`
bundle/engines/NAME.engine, NAME.json, NAME.seal       the seal is of NAME.json
NAME is sm86-trt11.4.0.106-fp16, or sm86-rtx1.7.1.116-fp16
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tier_infer.bundle import Bundle, sha256
from tier_infer.cache import Cache
from tier_infer.errors import IntegrityError
from tier_infer.trt.sidecar import MAX_BYTES, WARMUP, Sidecar

PRECISIONS = ("fp16", "fp32")


def checked(plan: bytes, sidecar: Sidecar) -> bytes:
    if len(plan) != sidecar.plan_bytes or sha256(plan) != sidecar.plan_sha256:
        raise IntegrityError(f"the plan is not the one that its sidecar describes; run {WARMUP}")
    return plan


def stem(name: str) -> str:
    return name.removesuffix(".engine")


def sealed_as(name: str) -> str:
    """What the seal in a bundle is of; under this name nothing lies in TIER_CACHE."""
    return f"bundle/{stem(name)}.json"


class Shelf:
    """One place for a bundle's engines."""

    place: str  # of messages

    def __init__(self, cache: Cache, folder: Path) -> None:
        self._cache, self._folder = cache, folder

    def names(self, precision: str) -> list[str]:
        """Of plans, whether they have a sidecar or not, and the other way round."""
        ours = re.compile(rf"([A-Za-z0-9.+]+-[A-Za-z0-9.+]+-{precision})\.(?:engine|json)")
        try:
            found = [ours.fullmatch(name) for name in os.listdir(self._folder)]
        except OSError:  # none, or a folder that is not for us
            return []
        return sorted({f"{match[1]}.engine" for match in found if match})

    def sidecar(self, name: str) -> bytes:
        """Sealed by this installation."""
        return self._read(f"{stem(name)}.json", MAX_BYTES, name)

    def plan(self, name: str, size: int) -> bytes:
        """At most `size` bytes and one: to be held against the sidecar, see `checked`."""
        return self._read(name, size, name)

    def _read(self, file: str, limit: int, name: str) -> bytes:
        path, what = self._folder / file, f"{name} {self.place}"
        if path.is_symlink() or not path.is_file():
            part = {".json": "sidecar", ".seal": "seal"}.get(path.suffix, "plan")
            raise IntegrityError(f"{what} has no {part} that is a file; run {WARMUP}")
        if path.stat().st_size > limit:
            raise IntegrityError(
                f"{file} {self.place} has {path.stat().st_size} bytes, at most {limit} are "
                f"allowed; run {WARMUP}"
            )
        return self._bytes(path, limit, what)

    def _bytes(self, path: Path, limit: int, what: str) -> bytes:
        try:
            with path.open("rb") as opened:
                return opened.read(limit + 1)
        except OSError as error:
            raise IntegrityError(f"{what} can't be read ({error.strerror}); run {WARMUP}") from None


class CacheShelf(Shelf):
    """TIER_CACHE/engines/<bundle12>. Every file has a seal of its own."""

    place = "in TIER_CACHE"

    def __init__(self, cache: Cache, bundle: Bundle) -> None:
        self.folder = f"engines/{bundle.manifest.bundle_sha256[:12]}"
        super().__init__(cache, cache.folder / self.folder)

    def _bytes(self, path: Path, limit: int, what: str) -> bytes:
        data = self._cache.read(f"{self.folder}/{path.name}")
        if data is None:
            raise IntegrityError(
                f"{what} was changed, or made on another installation; run {WARMUP}"
            )
        return data


class BundleShelf(Shelf):
    """bundle/engines, which anybody may have filled. The seal of the sidecar is that of the plan,
    whose hash the sidecar tells."""

    place = "in the bundle"

    def __init__(self, cache: Cache, bundle: Bundle) -> None:
        super().__init__(cache, bundle.folder / "engines")

    def sidecar(self, name: str) -> bytes:
        data = super().sidecar(name)
        seal = self._read(f"{stem(name)}.seal", 128, name).decode("ascii", "replace").strip()
        if not self._cache.holds(sealed_as(name), data, seal):
            raise IntegrityError(
                f"{name} {self.place} was made on another installation, or changed; run {WARMUP}"
            )
        return data


@dataclass(frozen=True)
class EngineFile:
    """An engine, or half of one. Its name is only a hint, its sidecar tells what it is."""

    name: str  # sm86-trt11.4.0.106-fp16.engine
    precision: str
    shelf: Shelf

    @property
    def cached(self) -> bool:
        return isinstance(self.shelf, CacheShelf)

    @property
    def place(self) -> str:
        return self.shelf.place

    def sidecar(self) -> bytes:
        """Sealed by this installation."""
        return self.shelf.sidecar(self.name)

    def plan(self, sidecar: Sidecar) -> bytes:
        """Exactly that of the sidecar."""
        return checked(self.shelf.plan(self.name, sidecar.plan_bytes), sidecar)


def engine_files(bundle: Bundle, cache: Cache) -> list[EngineFile]:
    """What lies there for this bundle, sound or not: TIER_CACHE first, what lies there is newer."""
    return [
        EngineFile(name, precision, shelf)
        for shelf in (CacheShelf(cache, bundle), BundleShelf(cache, bundle))
        for precision in PRECISIONS
        for name in shelf.names(precision)
    ]
