"""python -m pytest tests/infer/trt/test_store.py -- which plans may be loaded, and which are built.

Builders and GPUs are named, none is there: plans are bytes that nobody looks into.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.infer.tiny_bundle import write_bundle
from tests.infer.trt.place import AMPERE, NAME, TRT, WARMUP, Place, bundle_of_noise, changed, place
from tier_infer.bundle import load_bundle, sha256
from tier_infer.errors import DeviceError, IntegrityError, ParityError
from tier_infer.trt import build, store
from tier_infer.trt.build import Built, Wish
from tier_infer.trt.library import Library, find_library
from tier_infer.trt.shelves import engine_files
from tier_infer.trt.sidecar import parse_sidecar
from tier_infer.trt.store import engine_name, find_engine, open_cache

__all__ = ["bundle_of_noise", "place"]  # fixtures


def test_names_tell_gpu_library_and_precision() -> None:
    rtx = Library("tensorrt_rtx", "1.7.1.116", ModuleType("tensorrt_rtx"))
    assert engine_name(TRT, AMPERE, "fp16") == "sm86-trt11.4.0.106-fp16.engine"
    assert engine_name(rtx, replace(AMPERE, sm="sm120"), "fp32") == (
        "sm120-rtx1.7.1.116-fp32.engine"
    )


def test_what_is_there_is_not_built_again(place: Place) -> None:
    place.refused("no engine of this bundle's fp32 encoder for sm86 and TensorRT 11.4.0.106; run")
    first = place.warm()
    assert (first.built, first.seconds, first.name) == (True, 2.5, f"{NAME}.engine")
    assert "no engine" in first.reason
    assert "run tier-infer" not in first.reason  # it has just been run
    again = place.warm()
    assert (again.built, again.reason, again.sidecar) == (False, "", first.sidecar)
    plan, sidecar = place.find()
    assert plan == b"plan 1"
    assert sidecar == first.sidecar
    assert len(place.wishes) == 1


def test_a_rebuild_takes_the_timing_cache_along(place: Place) -> None:
    place.warm()
    assert place.warm(rebuild=True).reason == "a rebuild was asked for"
    assert place.find()[0] == b"plan 2"
    assert place.timing == [b"", b"timing 1"]
    timing = place.cache.folder / "timing" / "trt11.4.0.106-sm86.cache"
    timing.write_bytes(b"somebody's")
    place.warm(rebuild=True)
    place.warm(rebuild=True, here=replace(AMPERE, sm="sm89"))
    assert place.timing[2:] == [b"", b""]  # neither a changed one, nor another GPU's


def test_another_option_is_another_engine(place: Place) -> None:
    """What is asked is granted: the engine of before would be found and has the option not."""
    place.warm()
    wish = Wish("fp32", hardware_compatibility="ampere+", version_compatible=True)
    made = place.warm(wish=wish)
    assert made.built
    assert made.reason == "it has hardware compatibility none and version compatibility off"
    assert made.sidecar.hardware_compatibility == "ampere+"
    assert not place.warm(wish=wish).built
    assert place.warm().built


def test_in_the_bundle(place: Place) -> None:
    made = place.warm(into=place.engines)
    assert sorted(os.listdir(place.engines)) == [
        f"{NAME}{e}" for e in (".engine", ".json", ".seal")
    ]
    assert (place.engines / made.name).read_bytes() == b"plan 1"  # raw, for trtexec
    assert not place.cached.exists()
    assert place.find()[0] == b"plan 1"
    assert not place.warm().built
    told = json.loads((place.engines / f"{NAME}.json").read_bytes())
    assert (told["sm"], told["version"], told["plan_bytes"]) == ("sm86", "11.4.0.106", 6)


def test_what_the_cache_holds_is_copied_into_a_bundle(place: Place) -> None:
    place.warm()
    assert not place.warm(into=place.engines).built
    shutil.rmtree(place.cached)
    assert place.find()[0] == b"plan 1"


def test_the_cache_comes_before_the_bundle(place: Place) -> None:
    """tier-infer warmup --rebuild must win over what the export left."""
    place.warm(into=place.engines)
    place.warm(rebuild=True)
    assert place.find()[0] == b"plan 2"


def test_an_engine_for_something_else_is_refused(place: Place) -> None:
    place.warm()
    place.refused(f"sm86.*sm89.*{WARMUP}", here=replace(AMPERE, sm="sm89"))
    place.refused(rf"11\.4\.0\.106.*10\.16\.1\.11.*{WARMUP}", replace(TRT, version="10.16.1.11"))


def test_an_engine_of_another_encoder_is_refused(place: Place, tmp_path: Path) -> None:
    """Exported again into the same folder: the engine has the old weights."""
    place.warm(into=place.engines)
    other = load_bundle(write_bundle(tmp_path / "other", "small-112", cells=5))
    shutil.copytree(place.engines, other.folder / "engines")
    with pytest.raises(DeviceError, match=f"encoder.*{WARMUP}"):
        find_engine(other, "fp32", TRT, AMPERE, place.cache)


def test_an_engine_for_newer_gpus_too_is_taken(place: Place) -> None:
    place.warm(wish=Wish("fp32", hardware_compatibility="ampere+"))
    assert place.find(here=replace(AMPERE, sm="sm89"))[0] == b"plan 1"
    place.refused("sm86.*sm75", here=replace(AMPERE, sm="sm75"))


def test_the_reason_is_that_of_the_engine_for_this_machine(place: Place) -> None:
    place.warm(here=replace(AMPERE, sm="sm80"))
    place.warm()
    changed(".engine")(place, place.cached)
    place.refused(f"{NAME}.engine in TIER_CACHE was changed")


def test_names_that_nobody_wrote_are_not_repeated(place: Place) -> None:
    place.engines.mkdir()
    (place.engines / "x\n; rm-fp32.engine").write_bytes(b"")
    (place.engines / "SMITH JOHN-fp32.json").write_bytes(b"{}")
    place.refused("there is no engine")


def test_a_refused_build_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.warm()

    def refused(*given: Any) -> Built:
        raise ParityError("the plan computes in fp32")

    monkeypatch.setattr(store, "build_plan", refused)
    with pytest.raises(ParityError):
        place.warm(rebuild=True)
    assert place.find()[0] == b"plan 1"


def test_a_full_disk_for_the_timing_cache_costs_no_engine(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = place.cache.write

    def write(name: str, data: bytes) -> Path:
        if name.startswith("timing"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(name, data)

    monkeypatch.setattr(place.cache, "write", write)
    assert place.warm().built
    assert place.find()[0] == b"plan 1"


def test_kernels_are_kept_under_their_plan(place: Place) -> None:
    sidecar = place.warm().sidecar
    assert store.kernels_of(sidecar, place.cache) == b""
    store.keep_kernels(sidecar, place.cache, b"compiled")
    assert store.kernels_of(sidecar, place.cache) == b"compiled"
    assert store.kernels_of(replace(sidecar, plan_sha256="1" * 64), place.cache) == b""
    next((place.cache.folder / "kernels").glob("*.cache")).write_bytes(b"planted")
    assert store.kernels_of(sidecar, place.cache) == b""


def test_a_cache_that_can_not_be_trusted_is_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--device auto goes on to the next one; DeviceError is what it catches."""
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "open"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(DeviceError, match="TIER_CACHE is not private"):
        open_cache()
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DeviceError, match="TIER_CACHE can't be used") as caught:
        open_cache()
    assert str(tmp_path) not in str(caught.value)


def test_a_real_plan_of_rtx_is_stored_and_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVIDIA's own builder and bytes, for a GPU that is not here."""
    pytest.importorskip("tensorrt_rtx", reason="needs pip install 'tier-cxr[rtx]'")
    monkeypatch.setattr(store, "build_plan", build.build_plan)
    rtx = find_library("tensorrt_rtx")
    wish = Wish("fp32", capabilities=("sm86",))
    made = place.warm(rtx, wish=wish)
    plan, sidecar = place.find(rtx)
    assert (sidecar.sm, sidecar.library, len(plan)) == (
        "sm86",
        "tensorrt_rtx",
        made.sidecar.plan_bytes,
    )
    assert sha256(plan) == sidecar.plan_sha256
    place.refused("sm86.*sm89", rtx, replace(AMPERE, sm="sm89"))
    assert not place.warm(rtx, wish=wish).built


def test_what_lies_there_is_listed_with_its_place(place: Place) -> None:
    """For the doctor: sound or not, and never deserialised."""
    place.warm(into=place.engines)
    place.warm(rebuild=True)
    (place.engines / "sm75-trt10.13.0.35-fp16.json").write_bytes(b"{}")
    found = engine_files(place.bundle, place.cache)
    assert [(file.name, file.precision, file.place) for file in found] == [
        (f"{NAME}.engine", "fp32", "in TIER_CACHE"),
        ("sm75-trt10.13.0.35-fp16.engine", "fp16", "in the bundle"),
        (f"{NAME}.engine", "fp32", "in the bundle"),
    ]
    assert found[0].plan(parse_sidecar(found[0].sidecar())) == b"plan 2"
    with pytest.raises(IntegrityError, match="has no seal that is a file"):
        found[1].sidecar()


def test_a_file_that_can_not_be_read_is_a_reason(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root reads everything, so the refusal is planted."""
    place.warm(into=place.engines)
    real = Path.open

    def closed(path: Path, *args: Any, **more: Any) -> Any:
        if path.suffix == ".engine":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(Path, "open", closed)
    place.refused(rf"in the bundle can't be read \(Permission denied\); {WARMUP}")
