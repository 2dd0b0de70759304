"""Which plans may be deserialised: those that this installation made for this machine and bundle.

A plan is code that runs with the user's rights. Before a byte of one reaches TensorRT, its sidecar
has this installation's seal, names this machine and this bundle's graph, and has the plan's length
and hash: see `shelves` and `sidecar`. What fails is left where it is and named; `tier-infer warmup`
builds in its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tier_infer.bundle import ENCODERS, Bundle, sha256
from tier_infer.cache import Cache
from tier_infer.errors import DeviceError, IntegrityError
from tier_infer.files import sync_folder, write_atomic
from tier_infer.gpu import Gpu, gpu
from tier_infer.trt.build import Wish, build_plan
from tier_infer.trt.library import Library, find_library
from tier_infer.trt.shelves import BundleShelf, CacheShelf, checked, engine_files, sealed_as, stem
from tier_infer.trt.sidecar import WARMUP, Sidecar, mismatch, parse_sidecar, sidecar_of

MAX_CACHE_BYTES = 2**30  # timing caches and kernels, which the library writes
SHORT = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


@dataclass(frozen=True)
class Warmed:
    """What `warm_engine` did, for people and for JSON."""

    name: str  # sm86-trt11.4.0.106-fp16.engine
    sidecar: Sidecar
    built: bool  # False: it was there
    seconds: float  # of the build
    reason: str  # why what was there was not taken; "" where it was


def open_cache() -> Cache:
    """TIER_CACHE; DeviceError where it can't be trusted or made, so that --device auto goes on."""
    try:
        return Cache()
    except OSError as error:
        raise DeviceError(
            f"TIER_CACHE can't be used ({error.strerror}), and no engine without it; name a folder "
            "of your own in TIER_CACHE, or use --device cpu"
        ) from None
    except IntegrityError as error:
        raise DeviceError(str(error)) from None


def engine_name(library: Library, here: Gpu, precision: str) -> str:
    return f"{here.sm}-{SHORT[library.name]}{library.version}-{precision}.engine"


def find_engine(
    bundle: Bundle, precision: str, library: Library, here: Gpu, cache: Cache
) -> tuple[bytes, Sidecar]:
    """The plan and what it was made for, both verified. TIER_CACHE comes before the bundle: what
    lies there is newer. DeviceError with the first reason against what there is."""
    own = engine_name(library, here, precision)
    digest = str(bundle.manifest.files[ENCODERS[precision]]["sha256"])
    reasons = []
    # Names are only hints: an engine for several GPUs carries the name of one.
    files = [file for file in engine_files(bundle, cache) if file.precision == precision]
    for file in sorted(files, key=lambda file: (not file.cached, file.name != own)):
        try:
            sidecar = parse_sidecar(file.sidecar())
            wrong = mismatch(sidecar, library, here, digest, precision)
            if wrong:
                raise DeviceError(wrong)
            return file.plan(sidecar), sidecar
        except (DeviceError, IntegrityError) as error:
            reasons.append(str(error))
    if reasons:
        raise DeviceError(reasons[0])
    raise DeviceError(
        f"there is no engine of this bundle's {precision} encoder for {here.sm} and "
        f"{library}; run {WARMUP}"
    )


def save_engine(
    bundle: Bundle, plan: bytes, sidecar: Sidecar, name: str, cache: Cache, into: Path | None = None
) -> None:
    """Into TIER_CACHE, or `into` a bundle's folder engines. The sidecar goes first and comes last:
    a kill leaves the old engine or none. OSError on a full disk."""
    told = sidecar.to_json().encode()
    if into is None:
        place = CacheShelf(cache, bundle).folder
        for file in (f"{stem(name)}.json", name):  # a link, too, which `write` would refuse
            cache.remove(f"{place}/{file}")
        cache.write(f"{place}/{name}", plan)
        cache.write(f"{place}/{stem(name)}.json", told)
        return
    remove_engine(into, name)
    write_atomic(into / name, plan)
    write_atomic(into / f"{stem(name)}.json", told)
    seal = cache.seal(sealed_as(name), told)
    write_atomic(into / f"{stem(name)}.seal", f"{seal}\n".encode())
    sync_folder(into.parent)


def kernels_of(sidecar: Sidecar, cache: Cache) -> bytes:
    """What an RTX library compiled from this plan before; empty for the first time."""
    return _kept(cache, _kernels(sidecar))


def keep_kernels(sidecar: Sidecar, cache: Cache, kernels: bytes) -> None:
    if kernels and kernels != kernels_of(sidecar, cache):
        with contextlib.suppress(OSError):  # the next start compiles them again
            cache.write(_kernels(sidecar), kernels)


def remove_engine(folder: Path, name: str) -> None:
    """Of a bundle's folder engines; the seal first."""
    for ending in (".seal", ".json", ".engine"):
        (folder / f"{stem(name)}{ending}").unlink(missing_ok=True)


def warm_engine(
    bundle: Bundle,
    precision: str,
    wish: Wish,
    cache: Cache,
    say: Callable[[str], None] | None = None,
    rebuild: bool = False,
    *,
    library: Library | None = None,
    here: Gpu | None = None,
    into: Path | None = None,
) -> Warmed:
    """An engine that fits this machine, this bundle and the wish: the one that is there, or a new
    one. `into`: a bundle's folder engines. Errors are those of `gpu`, `find_library` and
    `build_plan`; then nothing is changed."""
    here, library = here or gpu(), library or find_library()  # the driver before its libraries
    wish = replace(wish, precision=precision)
    graph, name = bundle.encoder(precision), engine_name(library, here, precision)
    reason = "a rebuild was asked for"
    if not rebuild:
        try:
            plan, sidecar = find_engine(bundle, precision, library, here, cache)
        except DeviceError as error:
            reason = str(error).removesuffix(f"; run {WARMUP}")
        else:
            reason = _unlike(sidecar, wish)
            if not reason:
                if into:
                    save_engine(bundle, plan, sidecar, name, cache, into)
                return Warmed(name, sidecar, False, 0.0, "")
    timing = f"timing/{SHORT[library.name]}{library.version}-{here.sm}.cache"
    built = build_plan(library, graph, wish, _kept(cache, timing), say)
    sidecar = sidecar_of(library, here, wish, built, sha256(graph))
    save_engine(bundle, built.plan, sidecar, name, cache, into)
    if built.timing_cache:
        with contextlib.suppress(OSError):  # the next build takes longer
            cache.write(timing, built.timing_cache)
    return Warmed(name, sidecar, True, built.seconds, reason)


def _unlike(sidecar: Sidecar, wish: Wish) -> str:
    asked = (wish.hardware_compatibility, wish.version_compatible)
    there = (sidecar.hardware_compatibility, sidecar.version_compatible)
    if asked == there:
        return ""
    return (
        f"it has hardware compatibility {there[0]} and version compatibility "
        f"{'on' if there[1] else 'off'}"
    )


def _kernels(sidecar: Sidecar) -> str:
    return f"kernels/{sidecar.plan_sha256}.cache"


def _kept(cache: Cache, name: str) -> bytes:
    path = cache.folder / name
    with contextlib.suppress(OSError):
        if path.stat().st_size <= MAX_CACHE_BYTES:
            return cache.read(name) or b""
    return b""


_InBundle = BundleShelf  # names of before; `doctor` and `tier_export.triton_plans` still use them
_Cached = CacheShelf
_checked = checked
