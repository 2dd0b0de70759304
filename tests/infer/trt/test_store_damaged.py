"""python -m pytest tests/infer/trt/test_store_damaged.py -- changed, foreign and half engines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.infer.trt.place import NAME, WARMUP, Damage, Place, bundle_of_noise, changed, place
from tier_infer.cache import Cache
from tier_infer.errors import DeviceError
from tier_infer.trt.store import save_engine

__all__ = ["bundle_of_noise", "place"]  # fixtures


def without(ending: str) -> Damage:
    return lambda place, folder: (folder / f"{NAME}{ending}").unlink()


def linked(ending: str) -> Damage:
    def damage(place: Place, folder: Path) -> None:
        path = folder / f"{NAME}{ending}"
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")

    return damage


def longer(ending: str) -> Damage:
    """Sparse: nobody may read 8 GiB to find out."""
    return lambda place, folder: os.truncate(folder / f"{NAME}{ending}", 2**33)


def foreign(place: Place, folder: Path) -> None:
    """Another installation's key, everything else as it was."""
    place.cache = Cache(place.cache.folder.with_name("another"))
    if folder != place.engines:
        shutil.copytree(folder, place.cached)


def resealed(place: Place, folder: Path) -> None:
    """A sidecar of another plan under the same key."""
    other = replace(place.find()[1], plan_sha256="0" * 64)
    into = None if folder == place.cached else folder
    save_engine(place.bundle, b"plan 1", other, f"{NAME}.engine", place.cache, into)


CASES: dict[str, tuple[Damage, str, str]] = {  # damage, words in the cache, words in the bundle
    "plan": (changed(".engine"), "in TIER_CACHE was changed, or", "the plan is not the one that"),
    "sidecar": (changed(".json"), "was changed, or made on another", "another installation, or ch"),
    "seal": (changed(".json.seal"), "was changed, or made on", ""),
    "plan's seal": (changed(".engine.seal"), "was changed, or made on", ""),
    "bundle's seal": (changed(".seal"), "", "made on another installation, or changed"),
    "no seal": (without(".json.seal"), "was changed, or made on", ""),
    "bundle's no seal": (without(".seal"), "", "has no seal that is a file"),
    "no sidecar": (without(".json"), "has no sidecar that is a file", "has no sidecar that is"),
    "no plan": (without(".engine"), "has no plan that is a file", "has no plan that is a file"),
    "linked plan": (linked(".engine"), "has no plan that is a file", "has no plan that is a file"),
    "linked sidecar": (linked(".json"), "has no sidecar that is", "has no sidecar that is"),
    "long plan": (longer(".engine"), "8589934592 bytes, at most 6 are", "at most 6 are allowed"),
    "long sidecar": (longer(".json"), "at most 65536 are", "at most 65536 are allowed"),
    "foreign": (foreign, "made on another installation", "made on another installation, or"),
    "other plan": (resealed, "the plan is not the one that its sidecar", "the plan is not the one"),
}


def cases() -> Iterator[Any]:
    for name, (damage, cached, bundled) in CASES.items():
        for shelf, words in (("cache", cached), ("bundle", bundled)):
            if words:
                yield pytest.param(damage, shelf, words, id=f"{name} in the {shelf}")


@pytest.mark.parametrize(("damage", "shelf", "words"), list(cases()))
def test_a_damaged_engine_is_refused_and_built_again(
    place: Place, damage: Damage, shelf: str, words: str
) -> None:
    """Nothing of it is handed out, one sentence says why, and warm-up puts a new one there."""
    place.warm(into=place.engines if shelf == "bundle" else None)
    damage(place, place.engines if shelf == "bundle" else place.cached)
    place.refused(rf"{words}.*{WARMUP}")
    made = place.warm()
    assert made.built
    assert words[:20] in made.reason
    assert place.find()[0] == b"plan 2"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("shelf", ["cache", "bundle"])
def test_killed_at_every_write(place: Place, shelf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old engine, the new one, or none that is loaded; warm-up mends it."""
    into = place.engines if shelf == "bundle" else None
    found = set()
    for at in range(1, 40):
        place.warm(into=into, rebuild=True)
        before, left = place.find()[0], at
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                real = getattr(Path, name)

                def step(path: Path, *args: Any, _real: Any = real, **more: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left <= 0:
                        raise Killed
                    return _real(path, *args, **more)

                patch.setattr(Path, name, step)
            try:
                place.warm(into=into, rebuild=True)
            except Killed:
                pass
            else:
                break
        try:
            found.add("old" if place.find()[0] == before else "new")
        except DeviceError:
            found.add("none")
    assert left > 0, "the loop ended before every write was cut"
    assert {"old", "none"} <= found
    place.warm(into=into)
    place.find()
