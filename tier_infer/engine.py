"""The encoder of a bundle on the device that was asked for, proven before its first answer.

devices → which one, and why not the others · sessions → onnxruntime · trt → TensorRT · proof → the
bundle's golden vectors, once per bundle, library, driver and GPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import Bundle
from tier_infer.devices import choice_words, choose
from tier_infer.embeddings import Embeddings
from tier_infer.proof import prove


class Engine:
    """`device` and `precision` are those that answer. Of `asked` = auto, `passed_over` holds each
    device that came before and why it was not taken."""

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        precision: str = "auto",
        *,
        unproven: bool = False,
    ) -> None:
        """DeviceError where the device is not there. ParityError where it is and computes something
        else: then no other answers in its place, of auto neither.

        `unproven`: for those who replay the golden vectors themselves, `doctor` and `verify`."""
        self.asked = device
        geometry = bundle.manifest.resolved_geometry()
        self._shape = (geometry.crop, geometry.crop)
        self._encoder, self.passed_over = choose(bundle, device, precision)
        self.device, self.precision = self._encoder.device, self._encoder.precision
        if not unproven:
            prove(bundle, self._encoder)

    @property
    def identity(self) -> dict[str, str]:
        return self._encoder.identity

    @property
    def choice(self) -> str:
        """What auto chose and why not the others, in words; empty where a device was named."""
        return choice_words(self.device, self.passed_over) if self.asked == "auto" else ""

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        """pixels: uint8 [N, H, W], N ≥ 1. Rows are independent; check them for finite values."""
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._shape:
            raise ValueError(f"pixels must be uint8 [N, {self._shape[0]}, {self._shape[1]}]")
        return self._encoder.encode(pixels)
