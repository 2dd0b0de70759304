"""What a plan was made for: NAME.engine is TensorRT's raw plan, NAME.json says the rest.

trtexec, Triton and Polygraphy load the plan as it is. Before this runtime deserialises it, the
sidecar must fit this machine and this bundle, and its seal must be of this installation's key.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tier_infer.bundle import canonical
from tier_infer.errors import IntegrityError
from tier_infer.gpu import Gpu
from tier_infer.trt.build import LEVELS, PRECISIONS, PROFILES, Built, Wish
from tier_infer.trt.library import EXTRAS, Library, title

SCHEMA = "tier-engine/1"
WARMUP = "tier-infer warmup"
MAX_BYTES = 2**16  # of a sidecar; it has 1 kB
AMPERE = 80  # the first capability of `ampere+`

SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){1,3}")
SM = re.compile(r"sm[0-9]{2,3}(,sm[0-9]{2,3}){0,15}")
TEXTS = {  # whole values; anything else is a line for people
    "plan_sha256": SHA256,
    "onnx_sha256": SHA256,
    "library": re.compile("|".join(EXTRAS)),
    "version": VERSION,
    "cuda": re.compile(rf"|{VERSION.pattern}"),
    "driver": re.compile(r"[0-9A-Za-z.-]{0,40}"),
    "gpu": re.compile(r"[^\x00-\x1f\x7f]{0,200}"),
    "sm": SM,
    "precision": re.compile("|".join(PRECISIONS)),
    "hardware_compatibility": re.compile("|".join(map(re.escape, LEVELS))),
    "notice": re.compile(r"[^\x00-\x1f\x7f]{1,200}"),
    "schema": re.compile(re.escape(SCHEMA)),
}


@dataclass(frozen=True)
class Sidecar:
    """Keys of NAME.json. All of it is sealed, `plan_sha256` and with it the plan included."""

    plan_sha256: str
    plan_bytes: int
    library: str  # tensorrt, tensorrt_rtx
    version: str  # 11.4.0.106
    cuda: str  # 13.0, of the driver when it was built; "" where there was none
    driver: str
    gpu: str  # name
    sm: str  # sm86; of a plan for several GPUs sm86,sm89
    precision: str  # fp32, fp16
    onnx_sha256: str  # of the encoder graph
    profiles: tuple[tuple[int, int, int], ...]  # batch: least, best, most
    hardware_compatibility: str  # none, ampere+, same-cc
    version_compatible: bool
    tf32: bool  # never for fp32
    precision_proof: dict[str, Any] = field(default_factory=dict)
    notice: str = "Research use only, not for diagnostic use."
    schema: str = SCHEMA

    def to_json(self) -> str:
        return canonical(asdict(self))


def sidecar_of(
    library: Library, gpu: Gpu | None, wish: Wish, built: Built, onnx_sha256: str
) -> Sidecar:
    """gpu: that the plan was built on; None where it was built for `wish.capabilities` without."""
    sm = ",".join(wish.capabilities) or (gpu.sm if gpu else "")
    return Sidecar(
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        library=library.name,
        version=library.version,
        cuda=gpu.cuda if gpu else "",
        driver=gpu.driver if gpu else "",
        gpu=gpu.name if gpu else "",
        sm=sm,
        precision=wish.precision,
        onnx_sha256=onnx_sha256,
        profiles=PROFILES,
        hardware_compatibility=wish.hardware_compatibility,
        version_compatible=wish.version_compatible,
        tf32=False,
        precision_proof=built.precision_proof,
    )


def parse_sidecar(raw: bytes) -> Sidecar:
    """IntegrityError for anything but a sidecar of this version, byte for byte as it is written."""
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError
        table = json.loads(raw.decode())
        if set(table) != {f.name for f in fields(Sidecar)}:
            raise ValueError
        profiles = tuple((a, b, c) for a, b, c in table["profiles"])
        sidecar = Sidecar(**(table | {"profiles": profiles}))
        if not _sound(sidecar) or sidecar.to_json().encode() != raw:
            raise ValueError
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise IntegrityError(
            f"the engine's sidecar is not a table of {SCHEMA}; run {WARMUP}"
        ) from None
    return sidecar


def _sound(sidecar: Sidecar) -> bool:
    """The types and ranges that a dataclass does not check. bool is an int, so `type`."""
    table = asdict(sidecar)
    numbers = [sidecar.plan_bytes, *(n for profile in sidecar.profiles for n in profile)]
    return (
        all(type(table[k]) is str and rule.fullmatch(table[k]) for k, rule in TEXTS.items())
        and all(type(n) is int and 0 < n < 2**40 for n in numbers)
        and all(a <= b <= c for a, b, c in sidecar.profiles)
        and type(sidecar.version_compatible) is bool
        and type(sidecar.tf32) is bool
        and type(sidecar.precision_proof) is dict
    )


def mismatch(
    sidecar: Sidecar, library: Library, gpu: Gpu, onnx_sha256: str, precision: str
) -> str | None:
    """Why this plan may not run here, with the command that makes one that may; None: it may.

    Another driver is no reason: a plan does not depend on it, and the proof by golden vectors,
    which does, is made again.
    """
    made = f"{title(sidecar.library)} {sidecar.version}"
    pairs = []  # what it was built for, what is here
    if not _sm_fits(sidecar, gpu):
        pairs.append((sidecar.sm, gpu.sm))
    elif not _board_fits(sidecar, gpu):
        pairs.append((sidecar.gpu, gpu.name))
    if sidecar.library != library.name or not _version_fits(sidecar, library):
        pairs.append((made, str(library)))
    if sidecar.cuda and _numbers(sidecar.cuda) > _numbers(gpu.cuda):
        pairs.append((f"CUDA {sidecar.cuda}", f"CUDA {gpu.cuda}"))
    if sidecar.precision != precision:
        pairs.append((sidecar.precision, precision))
    if sidecar.onnx_sha256 != onnx_sha256:
        pairs.append((f"encoder {sidecar.onnx_sha256[:12]}", f"encoder {onnx_sha256[:12]}"))
    if sidecar.profiles != PROFILES or sidecar.tf32:
        pairs.append(("other profiles", "those of this version"))
    if not pairs:
        return None
    built, here = (" and ".join(side) for side in zip(*pairs, strict=True))
    return f"built for {built}, here are {here}; run {WARMUP}"


def _sm_fits(sidecar: Sidecar, gpu: Gpu) -> bool:
    built = sidecar.sm.split(",")
    if sidecar.hardware_compatibility == "ampere+" and sidecar.library == "tensorrt":
        return int(gpu.sm[2:]) >= AMPERE <= min(int(sm[2:]) for sm in built)
    return gpu.sm in built


def _board_fits(sidecar: Sidecar, gpu: Gpu) -> bool:
    """TensorRT times its kernels on one board. TensorRT-RTX compiles them where they run."""
    free = sidecar.library == "tensorrt_rtx" or sidecar.hardware_compatibility != "none"
    return free or sidecar.gpu == gpu.name


def _version_fits(sidecar: Sidecar, library: Library) -> bool:
    """A version-compatible plan runs with later versions of the same major one."""
    built, here = _numbers(sidecar.version), _numbers(library.version)
    return built == here or (sidecar.version_compatible and built[:1] == here[:1] and built <= here)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split(".") if n.isdigit())
