"""(7FE0,0010) PixelData → stored values (PS3.5 section 8 and annex A), checked before decoding.

Each transfer syntax has exactly one decoder and no fallback: pydicom would otherwise try a lenient
decoder after a strict one has refused.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames

from tier_infer.dicom import codestream
from tier_infer.dicom.decode import decoded
from tier_infer.dicom.header import raw_of, tag, value_of
from tier_infer.dicom.pixel_module import PixelModule, read_pixel_module
from tier_infer.dicom.syntaxes import LOSSY, PLAIN, RLE, Syntax, syntax_of
from tier_infer.errors import FailedImage, NotEvaluated

MAX_RINGING = 0.05  # share of pixels that lossy coding may push beyond BitsStored
FURTHEST = 0.25  # of the range: no ringing reaches further
MAX_EXPANSION = 1000  # decoded bytes per compressed byte; a radiograph's noise allows about 50
MAX_FRAGMENTS = 20_000
UNDEFINED = 2**32 - 1  # the length of encapsulated pixels
ITEM, END = b"\xfe\xff\x00\xe0", b"\xff\xd9"


def stored_pixels(ds: Dataset) -> tuple[NDArray[np.integer], list[str]]:
    """Grey: stored values [H, W], masked to BitsStored and sign-extended (PS3.5 8.1.1, 8.1.2).
    Colour: uint8 [H, W, 3] as stored. Flags beside."""
    module = read_pixel_module(ds)
    uid, syntax = syntax_of(ds)
    _check_promise(ds)
    data = value_of(ds, "PixelData")
    data = data if isinstance(data, bytes) else b""
    if syntax.decoder == PLAIN:
        _check_length(len(data), module)
    if module.bytes > MAX_EXPANSION * max(len(data), 2**10):
        raise FailedImage(
            "expansion", f"{tag('PixelData')} would expand more than {MAX_EXPANSION} times"
        )
    if syntax.decoder != PLAIN:
        data = _one_frame(data)
        if syntax.decoder != RLE:
            data = _checked_codestream(data, module, syntax)
    raw = decoded(ds, data, uid, syntax, module)
    if codestream.BASELINE in syntax.processes:
        codestream.check_filled(raw, codestream.describe(data).bits)
    if raw.shape != (module.rows, module.cols) + (3,) * (module.samples == 3):
        raise FailedImage("decode", "decoded pixels do not have the Rows and Columns of the header")
    if module.samples == 3:
        return raw, []
    if uid in LOSSY and (raw.dtype.kind == "i") == module.signed:
        return _clipped(raw, module), []
    stored = _stored_values(raw, module)
    flags = _above_bits_stored(raw, stored, module.bits_stored)
    if flags and syntax.processes:  # nobody compresses junk: the stream is damaged
        raise FailedImage("decode", f"values beyond {tag('BitsStored')} came out of the decoder")
    return stored, flags


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
    beyond, reach = (raw < low) | (raw > high), (high - low) * FURTHEST
    if beyond.mean() > MAX_RINGING or raw.max() > high + reach or raw.min() < low - reach:
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


def _check_promise(ds: Dataset) -> None:
    """The element's own length: pydicom hands out what is left of the file without a word."""
    raw = raw_of(ds, "PixelData")
    if raw is not None and raw.length not in (len(raw.value or b""), UNDEFINED):
        raise FailedImage(
            "truncated", f"{tag('PixelData')} ends early: {len(raw.value or b'')} of {raw.length}"
        )


def _check_length(found: int, module: PixelModule) -> None:
    expected = module.bytes
    if found < expected:
        raise FailedImage(
            "truncated", f"{tag('PixelData')} has {found} bytes, {expected} are needed"
        )
    if found > expected + expected % 2:  # one padding byte makes the length even, PS3.5 8.1.1
        raise FailedImage(
            "pixel_length", f"{tag('PixelData')} has {found} bytes, {expected} are described"
        )


def _one_frame(data: bytes) -> bytes:
    """The fragments of the only frame, joined (PS3.5 A.4)."""
    if data.count(ITEM) > MAX_FRAGMENTS:
        raise FailedImage("too_large", f"{tag('PixelData')} has over {MAX_FRAGMENTS} fragments")
    try:
        frames = list(islice(generate_frames(data, number_of_frames=1), 2))
    except Exception as error:
        raise _undecodable(error) from None
    if len(frames) != 1:
        raise NotEvaluated("multi_frame", f"{tag('PixelData')} holds several compressed images")
    return frames[0]


def _checked_codestream(frame: bytes, module: PixelModule, syntax: Syntax) -> bytes:
    """The codestream's own size and depth against the header's, before anything is decoded.

    Returns it bare: a JP2 box round it has no place in DICOM (PS3.5 8.2.4) but occurs.
    """
    try:
        stream = codestream.describe(frame)
    except Exception as error:
        raise _undecodable(error) from None
    # The marker can't occur inside compressed pixels (T.81 F.1.2.3, T.800 B.10, T.87 C.2).
    if frame.count(END, stream.body) > 1:
        raise NotEvaluated("multi_frame", f"{tag('PixelData')} holds several compressed images")
    if stream.process not in syntax.processes:
        raise FailedImage("decode", f"the compressed image is not {syntax.name}, as the file says")
    if not frame.rstrip(b"\0").endswith(END):
        raise FailedImage("decode", "the compressed image has no end marker: a part of it is lost")
    # Only JPEG 2000 knows signs; elsewhere the header alone says how to read the bits.
    same_sign = stream.process != codestream.JPEG_2000 or stream.signed == module.signed
    size = (stream.rows, stream.cols, stream.components)
    if size != (module.rows, module.cols, module.samples) or not same_sign:
        raise FailedImage("decode", "the compressed image has another size or sign than the header")
    if stream.bits > module.bits_allocated:
        raise FailedImage("decode", f"the compressed image is deeper than {tag('BitsAllocated')}")
    if module.signed and not stream.signed:
        if stream.bits < module.bits_stored:
            raise FailedImage("decode", "the compressed image has lost its sign")
        if stream.process in (codestream.BASELINE, codestream.EXTENDED):
            raise FailedImage("decode", "lossy JPEG of signed pixels may have turned their sign")
    return frame[stream.start :]


def _undecodable(error: Exception) -> FailedImage:
    kind = type(error).__name__
    return FailedImage("decode", f"{tag('PixelData')} can't be decoded ({kind})")
