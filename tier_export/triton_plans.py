"""TensorRT plans of a bundle for a Triton server: those that this installation sealed.

A plan is code that the server will run. So none leaves the bundle that was changed, or that came
with the bundle from elsewhere. A server has one TensorRT, and takes plans of exactly that version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tier_export.triton_config import MAX_BATCH
from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.cache import Cache
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.trt.shelves import BundleShelf, checked
from tier_infer.trt.sidecar import Sidecar, parse_sidecar

T = TypeVar("T")


@dataclass(frozen=True)
class Plans:
    version: str  # of TensorRT
    profile: int  # index of the one for batches
    by_capability: dict[str, str]  # "8.6" → file name
    files: dict[str, bytes]


def read_plans(bundle: Bundle, precision: str, cache: Cache) -> Plans:
    """Every TensorRT plan in bundle/engines of this encoder. IntegrityError for one that is not
    sealed, changed or of another graph, UsageError where there is none."""
    shelf = BundleShelf(cache, bundle)
    found = []
    for name in shelf.names(precision):
        if "-rtx" in name:  # TensorRT-RTX writes another kind of file
            continue
        sidecar = parse_sidecar(shelf.sidecar(name))
        found.append((name, checked(shelf.plan(name, sidecar.plan_bytes), sidecar), sidecar))
    if not found:
        raise UsageError(
            f"the bundle has no TensorRT plan of its {precision} encoder in engines/; export on a "
            "GPU machine with tier-export --fp16, or leave --plans out: ONNX runs on any GPU"
        )
    return gathered(found, str(bundle.manifest.files[ENCODERS[precision]]["sha256"]))


def gathered(found: Sequence[tuple[str, bytes, Sidecar]], onnx_sha256: str) -> Plans:
    """Plans of one encoder, by GPU."""
    files: dict[str, bytes] = {}
    by_capability: dict[str, str] = {}
    for name, plan, sidecar in found:
        if sidecar.onnx_sha256 != onnx_sha256 or sidecar.library != "tensorrt":
            raise IntegrityError(
                f"{name} is no TensorRT plan of the bundle's encoder, but of another graph or "
                "library; export it again"
            )
        capability = _capability(sidecar.sm)
        if capability in by_capability:
            raise UsageError(
                f"the bundle has two plans for {sidecar.sm}; leave the right one in engines/"
            )
        by_capability[capability] = f"model_{sidecar.sm}.plan"
        files[by_capability[capability]] = plan
    return Plans(
        _one("TensorRT versions", [s.version for _, _, s in found]),
        _one("sets of profiles", [_widest(s) for _, _, s in found]),
        by_capability,
        files,
    )


def _widest(sidecar: Sidecar) -> int:
    """The first profile that takes what the repository promises."""
    for index, (least, _, most) in enumerate(sidecar.profiles):
        if least == 1 and most >= MAX_BATCH:
            return index
    raise UsageError(
        f"the plan for {sidecar.sm} has no profile for batches of 1 to {MAX_BATCH}; export it again"
    )


def _capability(sm: str) -> str:
    if not re.fullmatch(r"sm[1-9][0-9]{1,2}", sm):
        raise IntegrityError(f"the plan's sidecar names the GPU generation {sm!r}; export it again")
    return f"{sm[2:-1]}.{sm[-1]}"


def _one(what: str, values: Sequence[T]) -> T:
    if len(set(values)) > 1:
        told = ", ".join(sorted({str(v) for v in values}))
        raise UsageError(
            f"the bundle's plans have different {what}: {told}; a server takes one; leave those "
            "in engines/ that it takes"
        )
    return values[0]
