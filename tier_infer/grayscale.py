"""Grey values as one function of the stored value (PS3.3 C.11, PS3.4 N.2.1).

Modality LUT or rescale, VOI LUT or window, presentation polarity: all act on one pixel alone. So
they are worked out once per possible stored value, in float64, and pixels look them up.

pydicom's own window code is not used: at a negative rescale slope it takes the output range from
the slope and turns the picture black for white.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import FailedImage

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
LARGE = 1e6  # slopes, intercepts, windows: 16-bit values need no more
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Lut:
    """A lookup table: inputs below `first` take the first entry, above the last (C.11.1.1.1)."""

    first: int
    table: Float  # [n]
    bits: int  # of an entry

    def __call__(self, x: Float) -> Float:
        index = np.clip(np.floor(x) - self.first, 0, len(self.table) - 1).astype(np.int64)
        values: Float = self.table[index]
        return values


@dataclass(frozen=True)
class Window:
    center: float
    width: float
    function: str

    def __post_init__(self) -> None:
        least = 1 if self.function == "LINEAR" else 1 / LARGE
        if self.function not in FUNCTIONS or not least <= self.width <= LARGE:
            raise FailedImage(
                "window",
                "(0028,1051) WindowWidth must be at least 1 for LINEAR, above 0 for LINEAR_EXACT "
                "and SIGMOID, and no other (0028,1056) VOILUTFunction is known",
            )
        if abs(self.center) > LARGE:
            raise FailedImage("window", "(0028,1050) WindowCenter is beyond all reason")

    def __call__(self, x: Float) -> Float:
        """Display value in 0..1 (PS3.3 C.11.2.1.2.1 linear, C.11.2.1.3.1 sigmoid, .3.2 exact)."""
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # exp overflows to inf, and 1 / inf is the black meant
                return 1 / (1 + np.exp(-4 * (x - self.center) / self.width))
        if self.function == "LINEAR_EXACT":
            return np.clip((x - self.center) / self.width + 0.5, 0, 1)
        if self.width == 1:
            return np.where(x <= self.center - 0.5, 0.0, 1.0)
        return np.clip((x - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)


@dataclass(frozen=True)
class Grayscale:
    """Grey values of one image, header only. `window` may hold the FailedImage that it deserves:
    a broken window matters only where a window is used."""

    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: Lut | None = None
    voi: Lut | Window | FailedImage | None = None
    monochrome1: bool = False
    several_windows: bool = False
    padding: tuple[int, int] | None = None  # lowest and highest stored value that is no image

    def __post_init__(self) -> None:
        if not 1 / LARGE <= abs(self.slope) <= LARGE or abs(self.intercept) > LARGE:
            raise FailedImage(
                "rescale",
                "(0028,1053) RescaleSlope is 0, or it or the intercept is beyond all reason",
            )

    @property
    def inverted(self) -> bool:
        """Dense tissue is dark in the values that the presets without VOI scale."""
        return self.monochrome1 != (self.modality_lut is None and self.slope < 0)

    def modality(self, stored: Float) -> Float:
        """Stored → modality values, C.11.1."""
        if self.modality_lut is not None:
            return self.modality_lut(stored)
        return stored * self.slope + self.intercept
