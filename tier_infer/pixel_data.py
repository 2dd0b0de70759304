"""(7FE0,0010) PixelData → stored values (PS3.5 section 8 and annex A), checked before decoding.

Each transfer syntax has exactly one decoder and no fallback: pydicom would otherwise try a lenient
decoder after a strict one has refused.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

from tier_infer.codestream import describe
from tier_infer.dicom_rules import tag, value_of, whole
from tier_infer.errors import FailedImage

MAX_PIXELS = 64 * 2**20
DECODERS = {  # transfer syntax UID → pydicom decoding plugin; "" is plain memory
    "1.2.840.10008.1.2": "",  # implicit VR little endian
    "1.2.840.10008.1.2.1": "",  # explicit VR little endian
    "1.2.840.10008.1.2.1.99": "",  # deflated
    "1.2.840.10008.1.2.2": "",  # explicit VR big endian
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
}


def stored_pixels(ds: Dataset) -> tuple[NDArray[np.integer], list[str]]:
    """Stored values [H, W], masked to BitsStored and sign-extended (PS3.5 8.1.1, 8.1.2)."""
    rows, cols, bits_allocated, bits_stored, signed = _check_pixel_module(ds)
    syntax = str(getattr(ds.file_meta, "TransferSyntaxUID", ""))
    if syntax not in DECODERS:
        known = syntax if pydicom.uid.UID(syntax).is_transfer_syntax else "not a transfer syntax"
        raise FailedImage(
            "transfer_syntax", f"(0002,0010) TransferSyntaxUID {known}: there is no decoder for it"
        )
    plugin = DECODERS[syntax]
    if not plugin:
        _check_length(ds, rows * cols * bits_allocated // 8)
    elif plugin != "pydicom":
        _check_codestream(ds, rows, cols, bits_allocated, signed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a decoder that warns is not sure; neither are we
        try:
            raw = _decoded(ds, syntax, bits_allocated)
        except Exception as error:
            kind = type(error).__name__
            raise FailedImage(
                "decode", f"(7FE0,0010) PixelData can't be decoded ({kind})"
            ) from None
    if raw.shape != (rows, cols):
        raise FailedImage("decode", "decoded pixels do not have the Rows and Columns of the header")
    stored = _stored_values(raw, bits_stored, signed)
    return stored, _above_bits_stored(raw, stored, bits_stored)


def _above_bits_stored(
    raw: NDArray[np.integer], stored: NDArray[np.integer], bits_stored: int
) -> list[str]:
    """What stands above BitsStored: nothing or the sign, junk (masked, flagged), or the picture.

    PS3.5 8.1.1 leaves those bits to the sign, older files kept overlays there. Where most
    neighbours share them and they vary, they are the picture's own high bits and BitsStored lies:
    masking would wrap its grey values.
    """
    plain = (stored.astype(raw.dtype) == raw) | ((raw >> bits_stored) == 0)
    if plain.all():
        return []
    high = raw >> bits_stored
    smooth = float(np.mean(high[:, 1:] == high[:, :-1])) if high.shape[1] > 1 else 1.0
    if plain.mean() < 0.9 and smooth > 0.5 and high.min() != high.max():
        raise FailedImage(
            "bits_stored",
            f"{tag('BitsStored')} is too small for the pixels, which reach beyond it",
        )
    return ["high_bits_masked"]


def _decoded(ds: Dataset, syntax: str, bits_allocated: int) -> NDArray[np.integer]:
    """Values as the decoder gives them, [H, W]. Where bytes are copied, all bits are asked for as
    unsigned: pydicom would mask those above BitsStored without a word."""
    options: dict[str, Any] = {"raw": True, "decoding_plugin": DECODERS[syntax]}
    if DECODERS[syntax] in ("", "pydicom"):
        options |= {"bits_stored": bits_allocated, "pixel_representation": 0}
    array: NDArray[np.integer] = get_decoder(pydicom.uid.UID(syntax)).as_array(ds, **options)[0]
    return array


def _stored_values(raw: NDArray[np.integer], bits_stored: int, signed: bool) -> NDArray[np.integer]:
    low = raw.astype(np.int32) & ((1 << bits_stored) - 1)
    value = low - ((low >> (bits_stored - 1)) << bits_stored) if signed else low
    return value.astype(np.int16 if signed else np.uint16)


def _check_pixel_module(ds: Dataset) -> tuple[int, int, int, int, bool]:
    """Type 1 attributes of PS3.3 C.7.6.3 must be there and agree.

    Returns rows, columns, bits allocated, bits stored and whether values are signed.
    """
    need = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    rows, cols, allocated, stored, high, signed = (whole(ds, keyword) for keyword in need)
    if whole(ds, "SamplesPerPixel") != 1:
        raise FailedImage("pixel_module", f"{tag('SamplesPerPixel')} is not 1; only grey images")
    if rows < 1 or cols < 1:
        raise FailedImage("pixel_module", f"{tag('Rows')} and {tag('Columns')} must be above 0")
    if rows * cols > MAX_PIXELS:
        raise FailedImage(
            "too_large", f"{tag('Rows')} times {tag('Columns')} is over {MAX_PIXELS} pixels"
        )
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        words = ", ".join(tag(k) for k in ("BitsAllocated", "BitsStored", "HighBit"))
        raise FailedImage(
            "pixel_module", f"{words} do not fit together; allowed: 8 or 16, up to that, one less"
        )
    if signed not in (0, 1):
        raise FailedImage("pixel_module", f"{tag('PixelRepresentation')} must be 0 or 1")
    return rows, cols, allocated, stored, signed == 1


def _check_length(ds: Dataset, expected: int) -> None:
    found = len(_pixel_bytes(ds))
    if found < expected:
        raise FailedImage(
            "truncated", f"(7FE0,0010) PixelData has {found} bytes, {expected} are needed"
        )
    if found > expected + expected % 2:  # one padding byte makes the length even, PS3.5 8.1.1
        raise FailedImage(
            "pixel_length", f"(7FE0,0010) PixelData has {found} bytes, {expected} are described"
        )


def _check_codestream(ds: Dataset, rows: int, cols: int, allocated: int, signed: bool) -> None:
    """The codestream's own size and depth against the header's, before anything is decoded."""
    try:
        frame = next(generate_frames(_pixel_bytes(ds), number_of_frames=1))
        stream = describe(frame)
    except Exception as error:
        kind = type(error).__name__
        raise FailedImage("decode", f"(7FE0,0010) PixelData can't be decoded ({kind})") from None
    jpeg_ls = str(ds.file_meta.TransferSyntaxUID).startswith("1.2.840.10008.1.2.4.8")
    same_sign = jpeg_ls or stream.signed == signed  # JPEG-LS has no sign of its own
    if (stream.rows, stream.cols, stream.components) != (rows, cols, 1) or not same_sign:
        raise FailedImage("decode", "the compressed image has another size or sign than the header")
    if stream.bits > allocated:
        raise FailedImage("decode", f"the compressed image is deeper than {tag('BitsAllocated')}")


def _pixel_bytes(ds: Dataset) -> bytes:
    data = value_of(ds, "PixelData")
    return data if isinstance(data, bytes) else b""
