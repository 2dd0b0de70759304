"""What an encoder gives, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BATCH = 16  # images per run; bounds memory, not results


@dataclass(frozen=True)
class Embeddings:
    image: NDArray[np.float32]  # [N, D], unit norm
    patches: NDArray[np.float32]  # [N, g, g, D], unit norm over D


class Encoder(Protocol):
    """One encoder graph on one device. `identity` names whatever its numbers depend on: the
    bundle's graph, libraries with versions, GPU, driver, plan."""

    device: str
    precision: str

    @property
    def identity(self) -> dict[str, str]: ...

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        """pixels: uint8 [N, H, W], N ≥ 1, any N. Rows are independent."""
