"""TensorRT, and what this workstation made for itself in TIER_CACHE.

Versions are read from the packages' metadata. NVIDIA's libraries are loaded only where a driver
offers a GPU: without one some of them end the process.
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from tier_infer import gpu
from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.cache import Cache, cache_folder
from tier_infer.doctor.installation import Check
from tier_infer.errors import DeviceError, IntegrityError
from tier_infer.trt.library import Library, find_library
from tier_infer.trt.shelves import BundleShelf, CacheShelf, checked
from tier_infer.trt.sidecar import WARMUP, mismatch, parse_sidecar

DISTRIBUTIONS = {  # module → the distributions that may bring it
    "tensorrt": (
        "tensorrt",
        *(f"tensorrt-cu{cuda}{part}" for cuda in (13, 12) for part in ("", "-bindings")),
    ),
    "tensorrt_rtx": ("tensorrt-rtx",),
}
LINKED = "libnvinfer.so.10"  # what onnxruntime-gpu 1.31 is linked with (readelf -d)


def libraries() -> Iterator[Check]:
    """TensorRT's packages; with a GPU, whether one of them loads, too."""
    found = [f"{name} {version}" for name in DISTRIBUTIONS if (version := _version(name))]
    missing = gpu.obstacles()
    told = ", ".join(found) or "neither tensorrt nor tensorrt_rtx is installed"
    linked = _linked()
    told += f"; for tensorrt-ep {linked}" if linked else f"; no {LINKED} for tensorrt-ep"
    if missing:
        yield Check("tensorrt", "ok", f"{told}; not loaded: there is no GPU here")
        return
    try:
        library = find_library()
    except DeviceError as error:
        yield Check("tensorrt", "warn", str(error))
        return
    yield Check("tensorrt", "ok", f"{told}; {library} loads")


def _version(module: str) -> str | None:
    if find_spec(module) is None:
        return None
    for name in DISTRIBUTIONS[module]:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _linked() -> str | None:
    """Looked up where NVIDIA's wheels and the system keep it, not loaded."""
    spec = find_spec("tensorrt_libs")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / LINKED).exists() or (Path(folder) / "nvinfer_10.dll").exists():
            return f"{LINKED} of the package tensorrt_libs"
    if ctypes.util.find_library("nvinfer") == LINKED:
        return f"{LINKED} of the system"
    return None


def open_cache() -> tuple[Cache | None, Check]:
    """TIER_CACHE as it is; where there is none, none is made. IntegrityError: open to others."""
    try:
        if not cache_folder().is_symlink() and not cache_folder().exists():
            return None, Check("cache", "ok", "TIER_CACHE is not there yet; what needs it makes it")
        cache = Cache()
    except OSError as error:
        words = f"TIER_CACHE can't be used: {error.strerror}; every run replays the golden vectors"
        return None, Check("cache", "warn", words)
    kept = [path for path in cache.folder.glob("proofs/*.json") if path.is_file()]
    sealed = sum(cache.read(f"proofs/{path.name}") is not None for path in kept)
    foreign = len(kept) - sealed
    words = f"TIER_CACHE is private, its key whole; proofs sealed by this installation: {sealed}"
    if not foreign:
        return cache, Check("cache", "ok", words)
    words += f"; {foreign} of another installation, or changed, are not believed"
    return cache, Check("cache", "warn", words)


def engines(bundle: Bundle, cache: Cache | None) -> Iterator[Check]:
    """Each engine of this bundle: by whom it was sealed, and whether it fits this machine."""
    if cache is None:
        yield Check("engines", "ok", "none that this installation sealed: there is no TIER_CACHE")
        return
    shelves: dict[str, CacheShelf | BundleShelf] = {
        "TIER_CACHE": CacheShelf(cache, bundle),
        "the bundle": BundleShelf(cache, bundle),
    }
    found = [
        (place, name, precision)
        for place, shelf in shelves.items()
        for precision in ENCODERS
        for name in shelf.names(precision)
    ]
    contexts = sorted(
        f"contexts/{bundle.manifest.bundle_sha256[:12]}/{path.name}"
        for path in cache.folder.glob(f"contexts/{bundle.manifest.bundle_sha256[:12]}/*.onnx")
    )
    if not found and not contexts:
        words = f"none for this bundle; on a machine with an NVIDIA GPU {WARMUP} makes one"
        yield Check("engines", "ok", words)
    for place, name, precision in found:
        status, words = _state(bundle, shelves[place], name, precision)
        yield Check("engine", status, f"{name} in {place}: {words}")
    for path in contexts:  # of tensorrt-ep; whether one fits `device` tells
        whole = None not in (cache.read(path), cache.read(f"{path.removesuffix('.onnx')}.json"))
        words = "sealed by this installation" if whole else (
            "not loaded: it was changed, or made on another installation; run "
            f"{WARMUP} --device tensorrt-ep"
        )  # fmt: skip
        yield Check("engine", "ok" if whole else "warn", f"{path} in TIER_CACHE: {words}")


def _state(
    bundle: Bundle, shelf: CacheShelf | BundleShelf, name: str, precision: str
) -> tuple[str, str]:
    """A plan is read and its hash compared, never deserialised."""
    try:
        sidecar = parse_sidecar(shelf.sidecar(name))
        checked(shelf.plan(name, sidecar.plan_bytes), sidecar)
    except IntegrityError as error:
        return "warn", f"not loaded: {error}"
    made = f"sealed by this installation, built for {sidecar.sm}"
    here = _here()
    if here is None:
        return "ok", f"{made}; whether it fits only a machine with that GPU can tell"
    digest = str(bundle.manifest.files.get(ENCODERS[precision], {}).get("sha256", "none"))
    wrong = mismatch(sidecar, *here, digest, precision)
    return ("warn", f"not loaded: {wrong}") if wrong else ("ok", f"{made}, fits this machine")


def _here() -> tuple[Library, gpu.Gpu] | None:
    if gpu.obstacles():
        return None
    try:
        return find_library(), gpu.gpu()
    except DeviceError:
        return None
