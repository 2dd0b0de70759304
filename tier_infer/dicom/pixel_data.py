"""(7FE0,0010) PixelData → stored values (PS3.5 section 8 and annex A), checked before decoding.

Each transfer syntax has exactly one decoder and no fallback: pydicom would otherwise try a lenient
decoder after a strict one has refused.
"""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

from tier_infer.dicom import codestream
from tier_infer.dicom.header import number, tag, text, value_of, whole
from tier_infer.dicom.syntaxes import (
    HTJ2K,
    IMAGECODECS,
    JPEG2000_LOSSLESS,
    LOSSY,
    PLAIN,
    RLE,
    Syntax,
    missing_decoder,
    syntax_of,
)
from tier_infer.errors import FailedImage

MAX_PIXELS = 64 * 2**20
MAX_RINGING = 0.05  # share of pixels that lossy coding may push beyond BitsStored
MAX_EXPANSION = 1000  # decoded bytes per compressed byte; a radiograph's noise allows about 50


@dataclass(frozen=True)
class PixelModule:
    """PS3.3 C.7.6.3, type 1 attributes."""

    rows: int
    cols: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def bytes(self) -> int:
        return self.rows * self.cols * self.samples * self.bits_allocated // 8


def stored_pixels(ds: Dataset) -> tuple[NDArray[np.integer], list[str]]:
    """Grey: stored values [H, W], masked to BitsStored and sign-extended (PS3.5 8.1.1, 8.1.2).
    Colour: uint8 [H, W, 3] as stored. Flags beside."""
    module = read_pixel_module(ds)
    uid, syntax = syntax_of(ds)
    if syntax.decoder == PLAIN:
        _check_length(ds, module)
    elif syntax.decoder != RLE:
        _check_codestream(ds, module, syntax)
    _check_expansion(ds, module)
    raw = _decoded(ds, uid, syntax, module)
    if raw.shape != (module.rows, module.cols) + (3,) * (module.samples == 3):
        raise FailedImage("decode", "decoded pixels do not have the Rows and Columns of the header")
    if module.samples == 3:
        return raw, []
    if uid in LOSSY and (raw.dtype.kind == "i") == module.signed:
        return _clipped(raw, module), []
    stored = _stored_values(raw, module)
    return stored, _above_bits_stored(raw, stored, module.bits_stored)


def _decoded(ds: Dataset, uid: str, syntax: Syntax, module: PixelModule) -> NDArray[np.integer]:
    """Values as the decoder gives them, [H, W] or [H, W, 3]; whatever it complains of is fatal."""
    if missing_decoder(syntax):
        raise FailedImage(
            "decoder_missing",
            f"{tag('TransferSyntaxUID')} {uid} ({syntax.name}) needs a decoder: "
            "pip install 'tier-cxr[jpeg-lossless]'",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a decoder that warns is not sure; neither are we
        try:
            if syntax.decoder == IMAGECODECS:
                return _by_imagecodecs(_frame(ds))
            return _by_pydicom(ds, uid, syntax, module)
        except MemoryError:
            raise FailedImage("too_large", "decoding needs more memory than is allowed") from None
        except Exception as error:
            kind = type(error).__name__
            raise FailedImage("decode", f"{tag('PixelData')} can't be decoded ({kind})") from None


def _by_pydicom(ds: Dataset, uid: str, syntax: Syntax, module: PixelModule) -> NDArray[np.integer]:
    """Where bytes are copied, all bits are asked for as unsigned: pydicom would mask those above
    BitsStored without a word. HTJ2K is JPEG 2000 to OpenJPEG, so Pillow decodes it as such."""
    options: dict[str, Any] = {"raw": True, "decoding_plugin": syntax.decoder}
    if syntax.decoder in (PLAIN, RLE):
        options |= {"bits_stored": module.bits_allocated, "pixel_representation": 0}
    if uid in HTJ2K:
        uid = JPEG2000_LOSSLESS
        ds = copy.copy(ds)
        ds.file_meta = copy.copy(ds.file_meta)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    decoder = get_decoder(pydicom.uid.UID(uid))
    array: NDArray[np.integer] = decoder.as_array(ds, **options)[0]
    return array


def _by_imagecodecs(frame: bytes) -> NDArray[np.integer]:
    import imagecodecs  # libjpeg-turbo 3, built for 8, 12 and 16 bits

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    array: NDArray[np.integer] = imagecodecs.jpeg8_decode(frame)
    return array


def _stored_values(raw: NDArray[np.integer], module: PixelModule) -> NDArray[np.integer]:
    """uint16 or int16 [H, W]; arithmetic modulo 2^16 does the sign extension in place."""
    stored = raw.astype(np.uint16) & np.uint16((1 << module.bits_stored) - 1)
    if not module.signed:
        return stored
    sign = np.uint16(1 << (module.bits_stored - 1))
    stored ^= sign
    stored -= sign
    return stored.view(np.int16)


def _clipped(raw: NDArray[np.integer], module: PixelModule) -> NDArray[np.integer]:
    """Lossy coding rings beyond BitsStored: a white edge must not wrap round to black."""
    ends = (-(1 << module.bits_stored - 1), (1 << module.bits_stored - 1) - 1)
    low, high = ends if module.signed else (0, (1 << module.bits_stored) - 1)
    if np.mean((raw < low) | (raw > high)) > MAX_RINGING:
        raise FailedImage(
            "bits_stored",
            f"{tag('BitsStored')} is too small for the pixels, which reach beyond it",
        )
    clipped: NDArray[np.integer] = np.clip(raw, low, high)
    return clipped.astype(np.int16 if module.signed else np.uint16)


def _above_bits_stored(
    raw: NDArray[np.integer], stored: NDArray[np.integer], bits_stored: int
) -> list[str]:
    """What stands above BitsStored: nothing or the sign, junk (masked, flagged), or the picture.

    PS3.5 8.1.1 leaves those bits to the sign, older files kept overlays there. Where most
    neighbours share them and they vary, they are the picture's own high bits and BitsStored lies:
    masking would wrap its grey values.
    """
    high = raw >> bits_stored
    if not high.any():
        return []
    plain = (stored.astype(raw.dtype) == raw) | (high == 0)
    if plain.all():
        return []
    smooth = float(np.mean(high[:, 1:] == high[:, :-1])) if high.shape[1] > 1 else 1.0
    if plain.mean() < 0.9 and smooth > 0.5 and high.min() != high.max():
        raise FailedImage(
            "bits_stored",
            f"{tag('BitsStored')} is too small for the pixels, which reach beyond it",
        )
    return ["high_bits_masked"]


def read_pixel_module(ds: Dataset) -> PixelModule:
    """Type 1 attributes of PS3.3 C.7.6.3 must be there and agree."""
    need = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit")
    rows, cols, samples, allocated, stored, high = (whole(ds, keyword) for keyword in need)
    signed = whole(ds, "PixelRepresentation")
    grey = text(ds, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    if samples != (1 if grey else 3):
        raise FailedImage(
            "pixel_module",
            f"{tag('SamplesPerPixel')} does not fit {tag('PhotometricInterpretation')}",
        )
    if rows < 1 or cols < 1:
        raise FailedImage("pixel_module", f"{tag('Rows')} and {tag('Columns')} must be above 0")
    if rows * cols > MAX_PIXELS:
        raise FailedImage(
            "too_large", f"{tag('Rows')} times {tag('Columns')} is over {MAX_PIXELS} pixels"
        )
    allowed = (8, 16) if grey else (8,)
    if allocated not in allowed or not 1 <= stored <= allocated or high != stored - 1:
        words = ", ".join(tag(k) for k in ("BitsAllocated", "BitsStored", "HighBit"))
        raise FailedImage(
            "pixel_module", f"{words} do not fit together; allowed: 8 or 16, up to that, one less"
        )
    if signed not in (0, 1) or (samples == 3 and signed):
        raise FailedImage("pixel_module", f"{tag('PixelRepresentation')} must be 0 or 1")
    if samples == 3 and number(ds, "PlanarConfiguration") not in (0, 1):
        raise FailedImage("pixel_module", f"{tag('PlanarConfiguration')} must be 0 or 1")
    return PixelModule(rows, cols, samples, allocated, stored, signed == 1)


def _check_length(ds: Dataset, module: PixelModule) -> None:
    found, expected = len(_pixel_bytes(ds)), module.bytes
    if found < expected:
        raise FailedImage(
            "truncated", f"{tag('PixelData')} has {found} bytes, {expected} are needed"
        )
    if found > expected + expected % 2:  # one padding byte makes the length even, PS3.5 8.1.1
        raise FailedImage(
            "pixel_length", f"{tag('PixelData')} has {found} bytes, {expected} are described"
        )


def _check_codestream(ds: Dataset, module: PixelModule, syntax: Syntax) -> None:
    """The codestream's own size and depth against the header's, before anything is decoded."""
    try:
        frame = _frame(ds)
        stream = codestream.describe(frame)
    except Exception as error:
        kind = type(error).__name__
        raise FailedImage("decode", f"{tag('PixelData')} can't be decoded ({kind})") from None
    if stream.process not in syntax.processes:
        raise FailedImage("decode", f"the compressed image is not {syntax.name}, as the file says")
    if not frame[-16:].rstrip(b"\0\xff").endswith(b"\xff\xd9") and not frame.endswith(b"\xff\xd9"):
        raise FailedImage("decode", "the compressed image has no end marker: a part of it is lost")
    # Only JPEG 2000 knows signs; elsewhere the header alone says how to read the bits.
    same_sign = stream.process != codestream.JPEG_2000 or stream.signed == module.signed
    size = (stream.rows, stream.cols, stream.components)
    if size != (module.rows, module.cols, module.samples) or not same_sign:
        raise FailedImage("decode", "the compressed image has another size or sign than the header")
    if stream.bits > module.bits_allocated:
        raise FailedImage("decode", f"the compressed image is deeper than {tag('BitsAllocated')}")


def _check_expansion(ds: Dataset, module: PixelModule) -> None:
    if module.bytes > MAX_EXPANSION * max(len(_pixel_bytes(ds)), 2**10):
        raise FailedImage(
            "expansion", f"{tag('PixelData')} would expand more than {MAX_EXPANSION} times"
        )


def _frame(ds: Dataset) -> bytes:
    return next(generate_frames(_pixel_bytes(ds), number_of_frames=1))


def _pixel_bytes(ds: Dataset) -> bytes:
    data = value_of(ds, "PixelData")
    return data if isinstance(data, bytes) else b""
