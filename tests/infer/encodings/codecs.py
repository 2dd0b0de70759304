"""Writers of compressed pixel data. imagecodecs is a development extra, never the runtime's."""

from __future__ import annotations

import io
from typing import Any

import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import compress
from pydicom.uid import RLELossless

from tests.infer.encodings.base import dataset

try:
    import imagecodecs
except ImportError:  # the cases that need it are left out, and the count of them is asserted
    imagecodecs = None

JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS, JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_LS_NEAR = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
J2K_LOSSLESS, J2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS, HTJ2K_RPCL, HTJ2K = (f"1.2.840.10008.1.2.4.20{i}" for i in "123")
Pixels = NDArray[Any]


def jpeg_baseline(grey: Pixels, quality: int = 95) -> bytes:
    return _pillow(grey, "JPEG", quality=quality)


def jpeg_2000(grey: Pixels, ratio: float | None = None, box: bool = False) -> bytes:
    """Lossless, or at a compression ratio; a bare codestream unless a JP2 box is asked for."""
    rates = {"quality_mode": "rates", "quality_layers": [ratio]} if ratio else {}
    return _pillow(grey, "JPEG2000", irreversible=ratio is not None, no_jp2=not box, **rates)


def _pillow(grey: Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_ls_stream(grey: Pixels, near: int = 0) -> bytes:
    return bytes(jpeg_ls.encode_array(np.ascontiguousarray(grey), lossy_error=near))


def jpeg_lossless(grey: Pixels, bits: int, predictor: int = 1) -> bytes:
    """T.81 process 14; predictor 1 is the one that ...4.70 demands."""
    return bytes(
        imagecodecs.jpeg8_encode(grey, lossless=True, bitspersample=bits, predictor=predictor)
    )


def jpeg_extended(grey: Pixels, quality: int = 97) -> bytes:
    """T.81 process 4: 12 bits, lossy."""
    return bytes(imagecodecs.jpeg8_encode(grey, level=quality, bitspersample=12))


def htj2k(grey: Pixels, step: float | None = None) -> bytes:
    """Lossless, or irreversible with a quantisation step (1 is the whole range)."""
    if step is None:
        return bytes(imagecodecs.htj2k_encode(grey, reversible=True))
    return bytes(imagecodecs.htj2k_encode(grey, step, reversible=False))


def j2k_12_bit(grey: Pixels) -> bytes:
    """A codestream of 12 bits, where Pillow's says 16; signed when the values are."""
    return bytes(
        imagecodecs.jpeg2k_encode(
            grey, codecformat="j2k", reversible=True, bitspersample=12, level=0
        )
    )


def rle(ds: Dataset) -> Dataset:
    compress(ds, RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return ds


def rle_frame(grey: Pixels) -> bytes:
    """The frame that `rle` writes, without its item header."""
    data = rle(dataset(grey)).PixelData
    return bytes(next(generate_frames(data, number_of_frames=1)))
