"""Under construction."""

from __future__ import annotations

from tier_infer.bundle import Bundle
from tier_infer.embeddings import Encoder
from tier_infer.errors import DeviceError


def open_engine(bundle: Bundle, precision: str) -> Encoder:
    raise DeviceError("device tensorrt is not available: not built yet")
