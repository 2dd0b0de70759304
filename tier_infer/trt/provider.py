"""Under construction."""

from __future__ import annotations

from tier_infer.bundle import Bundle
from tier_infer.embeddings import Encoder
from tier_infer.errors import DeviceError


def open_provider(bundle: Bundle, precision: str) -> Encoder:
    raise DeviceError("device tensorrt-ep is not available: not built yet")
