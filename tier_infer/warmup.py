"""tier-infer warmup: what is slow or can fail is done before the first patient.

TensorRT's engine is built, the device opened as scoring opens it, the golden vectors replayed
whatever is remembered, one image run. Afterwards scoring with the same options waits for none of
it. What can't be kept in TIER_CACHE is an error here: it would be done again for every patient.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tier_infer.bundle import NOTICE, Bundle
from tier_infer.cache import Cache, shown_folder
from tier_infer.devices import DEVICES, check_driver, choice_words, resolved_precision
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError, UsageError
from tier_infer.golden import Replay
from tier_infer.gpu import obstacles
from tier_infer.proof import prove, remembered

SCHEMA = "tier-warmup/1"
BUILT = ("tensorrt", "tensorrt-ep")  # the devices that need something made first, best first
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """The options of `tier-infer warmup`."""

    device: str = "auto"
    precision: str = "auto"
    hardware_compatibility: str = "none"  # none, ampere+, same-cc
    version_compatible: bool = False
    rebuild: bool = False


@dataclass(frozen=True)
class Warm:
    """What was done, and what it took."""

    engine: Engine
    passed_over: dict[str, str]  # device → why it is not the one that answers
    made: dict[str, Any] | None  # of TensorRT's engine: built or found, and facts
    golden: Replay | None  # None: a bundle of before golden vectors, on a CPU
    seconds: dict[str, float] = field(default_factory=dict)  # make, open, prove, image


def warm_up(bundle: Bundle, asked: Asked, say: Say) -> Warm:
    """UsageError, DeviceError, ParityError as scoring; IntegrityError or OSError for a TIER_CACHE
    that is open to others or can't be written. Nothing is kept of what does not pass."""
    _check(asked)
    cache, clock = Cache(), _Clock()
    made, failed = _make(bundle, asked, cache, say)
    clock.stop("make")
    say("opens the encoder")
    engine = Engine(bundle, asked.device, asked.precision, unproven=True)
    clock.stop("open")
    say(f"{engine.device} {engine.precision} replays the golden vectors")
    golden = prove(bundle, engine, cache, again=True)
    if golden is not None and not remembered(bundle, engine, cache):
        words = "can't be written, so that every run would replay the golden vectors; free space"
        raise OSError(errno.EIO, f"{words}, or name another folder in it", "TIER_CACHE")
    clock.stop("prove")
    side = bundle.manifest.resolved_geometry().crop
    for _ in range(2):  # the second is what a study will take
        engine.encode(np.zeros((1, side, side), np.uint8))
        clock.stop("image")
    passed_over = {name: failed.get(name, why) for name, why in engine.passed_over.items()}
    if engine.device not in BUILT:
        made = None
    return Warm(engine, passed_over, made, golden, clock.seconds)


def _check(asked: Asked) -> None:
    if asked.device not in DEVICES:
        raise UsageError(f"device {asked.device!r} is unknown; allowed: {', '.join(DEVICES)}")
    compatible = asked.hardware_compatibility != "none" or asked.version_compatible
    if compatible and asked.device != "tensorrt":
        raise UsageError(
            "--hardware-compat and --version-compat are about TensorRT's engines, not about "
            f"--device {asked.device}; name --device tensorrt with them"
        )
    if asked.rebuild and asked.device in ("cpu", "cuda"):
        raise UsageError(
            f"--rebuild is about TensorRT's engines, and --device {asked.device} has none; name "
            "--device tensorrt or tensorrt-ep with it"
        )


def _make(
    bundle: Bundle, asked: Asked, cache: Cache, say: Say
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """What the engine is that was made, and of auto why those before it were not."""
    if asked.device in BUILT:
        return _engine(bundle, asked.device, asked, cache, say), {}
    failed: dict[str, str] = {}
    if asked.device != "auto" or asked.precision == "int8" or obstacles():
        return None, failed
    for device in BUILT:
        try:
            return _engine(bundle, device, asked, cache, say), failed
        except DeviceError as error:
            failed[device] = str(error).removeprefix(f"device {device} is not available: ")
            say(f"{device} can't be had: {failed[device]}")
    return None, failed


def _engine(bundle: Bundle, device: str, asked: Asked, cache: Cache, say: Say) -> dict[str, Any]:
    precision = resolved_precision(bundle, device, asked.precision)
    check_driver(device)
    if device == "tensorrt-ep":
        from tier_infer.trt.provider import warm_provider

        warm_provider(bundle, precision, cache, say, rebuild=asked.rebuild)
        return {"device": device}
    from tier_infer.trt.build import Wish
    from tier_infer.trt.store import warm_engine

    wish = Wish(precision, asked.hardware_compatibility, asked.version_compatible)
    warmed = warm_engine(bundle, precision, wish, cache, say, rebuild=asked.rebuild)
    facts = asdict(warmed.sidecar)
    kept = ("plan_bytes", "library", "version", "gpu", "sm", "driver", "precision_proof")
    chosen = {key: facts[key] for key in (*kept, "hardware_compatibility", "version_compatible")}
    told = {"name": warmed.name, "built": warmed.built, "seconds": warmed.seconds}
    return {"device": device} | told | {"reason": warmed.reason} | chosen


class _Clock:
    """Seconds since the last stop, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def where() -> str:
    """An absolute path only where the user gave it."""
    return f"TIER_CACHE ({os.environ.get('TIER_CACHE') or shown_folder()})"


def to_lines(warm: Warm, bundle: Bundle) -> str:
    """A table for people: what was done, seconds, what proved it."""
    took, found, engine = warm.seconds, warm.golden, warm.engine
    rows = [("bundle", f"{bundle.manifest.name} {bundle.manifest.bundle_sha256[:12]}")]
    rows += [("device", f"{engine.device} {engine.precision}, opened in {took['open']:.2f} s")]
    if engine.choice:
        rows.append(("choice", choice_words(engine.device, warm.passed_over)))
    if warm.made is not None:
        rows.append(("engine", _engine_line(warm.made, took["make"])))
    if found is None:
        rows.append(("proof", "none: the bundle has no golden vectors; export it again"))
    else:
        scores = "" if found.max_dz is None else f", scores {found.max_dz:.1e}"
        rows.append(
            (
                "proof",
                f"{found.crops} golden vectors in {took['prove']:.2f} s: embeddings within "
                f"{found.max_dembedding:.1e}{scores}, allowed {found.allowed_dz:g}; kept in "
                f"{where()}",
            )
        )
        if found.replaced:
            sets = ", ".join(found.replaced)
            rows.append(("", f"scores of {sets} not compared: replaced after the export"))
    rows.append(("one image", f"{took['image'] * 1000:.1f} ms"))
    return "\n".join([*(f"{name:<11}{words}" for name, words in rows), NOTICE])


def _engine_line(made: dict[str, Any], seconds: float) -> str:
    if "name" not in made:
        return f"made or found in {seconds:.1f} s, lies in {where()}"
    did = f"built in {made['seconds']:.1f} s" if made["built"] else "was there and fits"
    size = f"{made['plan_bytes'] / 1e6:.1f} MB"
    return f"{made['name']}, {size}, {did}, lies in {where()}"


def to_json(warm: Warm, bundle: Bundle) -> str:
    manifest = bundle.manifest
    table = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "bundle": {"name": manifest.name, "sha256": manifest.bundle_sha256},
        "device": warm.engine.device,
        "precision": warm.engine.precision,
        "passed_over": warm.passed_over,
        "engine": warm.made,
        "golden": None if warm.golden is None else asdict(warm.golden),
        "remembered": warm.golden is not None,
        "cache": where(),
        "seconds": {name: round(value, 4) for name, value in warm.seconds.items()},
    }
    return json.dumps(table, indent=1, allow_nan=False)
