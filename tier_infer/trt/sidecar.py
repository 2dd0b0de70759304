"""What a plan was made for: NAME.engine is TensorRT's raw plan, NAME.json says the rest.

trtexec, Triton and Polygraphy load the plan as it is. Before this runtime deserialises it, the
sidecar must fit this machine and this bundle, and its seal must be of this installation's key.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tier_infer.bundle import canonical
from tier_infer.errors import IntegrityError

SCHEMA = "tier-engine/1"
WARMUP = "tier-infer warmup"


@dataclass(frozen=True)
class Sidecar:
    """Keys of NAME.json. All of it is sealed, `plan_sha256` and with it the plan included."""

    plan_sha256: str
    plan_bytes: int
    library: str  # tensorrt, tensorrt_rtx
    version: str  # 11.4.0.106
    cuda: str  # 13.0, of the driver when it was built
    driver: str
    gpu: str  # name
    sm: str  # sm86
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


def parse_sidecar(raw: bytes) -> Sidecar:
    """IntegrityError for anything but a sidecar of this version."""
    try:
        table = json.loads(raw.decode())
        if table["schema"] != SCHEMA or set(table) != {f.name for f in fields(Sidecar)}:
            raise ValueError
        profiles = tuple((int(a), int(b), int(c)) for a, b, c in table["profiles"])
        return Sidecar(**(table | {"profiles": profiles}))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise IntegrityError(
            f"the engine's sidecar is not a table of {SCHEMA}; run {WARMUP}"
        ) from None
