"""Grey radiographs in colour clothes: RGB, YBR or palette whose channels agree (C.7.6.3.1.2).

Screenshots, colour overlays and false-colour pictures are no radiographs and get no score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut

from tier_infer.dicom.header import text
from tier_infer.errors import FailedImage, NotEvaluated

MAX_DIFFERENCE = 2  # grey levels between channels that lossy coding may leave in a grey picture


def grey_of_colour(ds: Dataset, pixels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], or [H, W] palette indices → uint8 [H, W]. NotEvaluated when in colour."""
    photometric = text(ds, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        return grey_of_rgb(_through_palette(ds, pixels))
    # Decoders hand JPEG 2000 out as RGB whatever the colour transform was called.
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        if np.abs(pixels[..., 1:].astype(np.int16) - 128).max() > MAX_DIFFERENCE:
            raise _in_colour()
        return np.ascontiguousarray(pixels[..., 0]).astype(np.uint8)
    return grey_of_rgb(np.ascontiguousarray(pixels).astype(np.uint8))


def grey_of_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] → uint8 [H, W], the luminance of three channels that agree."""
    if int(np.ptp(rgb.astype(np.int16), axis=2).max()) > MAX_DIFFERENCE:
        raise _in_colour()
    return np.array(Image.fromarray(rgb).convert("L"))


def _in_colour() -> NotEvaluated:
    return NotEvaluated("colour", "the picture is in colour; only grey radiographs are scored")


def _through_palette(ds: Dataset, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
    try:
        colour = apply_color_lut(indices, ds)
    except Exception as error:
        kind = type(error).__name__
        raise FailedImage("photometric", f"the colour palette can't be read ({kind})") from None
    if colour.dtype == np.uint16:
        colour = colour >> 8
    return np.ascontiguousarray(colour[..., :3]).astype(np.uint8)
