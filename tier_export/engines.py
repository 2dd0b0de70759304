"""bundle/engines: a plan for the GPU of the machine that exports, where there is one.

A convenience of that machine: only the installation that built a plan ever loads it. Every other
one builds its own with `tier-infer warmup`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tier_infer.bundle import ENCODERS, load_bundle
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError
from tier_infer.gpu import obstacles
from tier_infer.trt.build import Wish
from tier_infer.trt.sidecar import WARMUP
from tier_infer.trt.store import open_cache, remove_engine, warm_engine

NO_GPU = "no GPU here"


def add_engine(target: Path, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], str]:
    """Of the best precision in the bundle: what was built, or nothing and why. The engine has
    given the golden vectors; ParityError, and no engine, where it does not."""
    if obstacles():
        return [], NO_GPU
    bundle = load_bundle(target)
    precision = "fp16" if ENCODERS["fp16"] in bundle.manifest.files else "fp32"
    folder = target / "engines"
    try:
        made = warm_engine(bundle, precision, Wish(precision), open_cache(), say, into=folder)
    except DeviceError as error:
        return [], str(error)
    except OSError as error:
        return [], f"it can't be written ({error.strerror})"
    try:
        Engine(bundle, "tensorrt", precision)
    except BaseException:
        remove_engine(folder, made.name)
        raise
    row = {
        "path": f"engines/{made.name}",
        "sha256": made.sidecar.plan_sha256,
        "bytes": made.sidecar.plan_bytes,
        "precision": precision,
        "sm": made.sidecar.sm,
        "library": f"{made.sidecar.library} {made.sidecar.version}",
    }
    return [row], ""


def skipped(reason: str) -> str:
    """The line that is said; a reason may name the command itself."""
    advice = "" if WARMUP in reason else f"; run {WARMUP} on the target"
    return f"engine skipped: {reason}{advice}"
