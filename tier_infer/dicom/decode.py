"""One frame → values as its decoder gives them. Whatever a decoder complains of is fatal."""

from __future__ import annotations

import copy
import struct
import warnings
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from tier_infer.dicom.header import tag
from tier_infer.dicom.pixel_module import PixelModule
from tier_infer.dicom.syntaxes import (
    HTJ2K,
    IMAGECODECS,
    JPEG2000_LOSSLESS,
    PLAIN,
    RLE,
    Syntax,
    missing_decoder,
)
from tier_infer.errors import FailedImage

Pixels = NDArray[np.integer]


def decoded(ds: Dataset, frame: bytes, uid: str, syntax: Syntax, module: PixelModule) -> Pixels:
    """Integers [H, W] or [H, W, 3]. `frame` is the bare codestream, or the plain pixel bytes."""
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
                return _by_imagecodecs(frame)
            if syntax.decoder == RLE:
                return _by_packbits(frame, module)
            return _by_pydicom(ds, frame, uid, syntax, module)
        except MemoryError:
            raise FailedImage("too_large", "decoding needs more memory than is allowed") from None
        except Exception as error:
            kind = type(error).__name__
            raise FailedImage("decode", f"{tag('PixelData')} can't be decoded ({kind})") from None


def _by_pydicom(ds: Dataset, frame: bytes, uid: str, syntax: Syntax, module: PixelModule) -> Pixels:
    """Where bytes are copied, all bits are asked for as unsigned: pydicom would mask those above
    BitsStored without a word. HTJ2K is JPEG 2000 to OpenJPEG, so Pillow decodes it as such."""
    options: dict[str, Any] = {"raw": True, "decoding_plugin": syntax.decoder}
    if syntax.decoder == PLAIN:
        options |= {"bits_stored": module.bits_allocated, "pixel_representation": 0}
    else:
        uid = JPEG2000_LOSSLESS if uid in HTJ2K else uid
        ds = copy.copy(ds)
        ds.file_meta = copy.copy(ds.file_meta)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].is_undefined_length = True
    array: Pixels = get_decoder(pydicom.uid.UID(uid)).as_array(ds, **options)[0]
    return array


def _by_imagecodecs(frame: bytes) -> Pixels:
    import imagecodecs  # libjpeg-turbo 3, built for 8, 12 and 16 bits

    array: Pixels = imagecodecs.jpeg8_decode(frame)
    return array


def _by_packbits(frame: bytes, module: PixelModule) -> Pixels:
    """RLE (PS3.5 annex G): a header of 16 offsets, then one segment per byte of a pixel, the high
    byte first. ValueError for anything but exactly the bytes that are described."""
    width = module.bits_allocated // 8
    used = module.samples * width
    count, *offsets = struct.unpack_from("<16I", frame)
    starts, ends = offsets[:used], [*offsets[1:used], len(frame)]
    if count != used or starts[0] != 64 or any(offsets[used:]):
        raise ValueError("segments")
    if any(start >= end for start, end in zip(starts, ends, strict=True)):
        raise ValueError("offsets")
    size = module.rows * module.cols
    planes: list[Pixels] = [_unpacked(frame[a:b], size) for a, b in zip(starts, ends, strict=True)]
    if width == 2:
        wide = [plane.astype(np.uint16) for plane in planes]
        planes = [high << 8 | low for high, low in zip(wide[::2], wide[1::2], strict=True)]
    shaped = [plane.reshape(module.rows, module.cols) for plane in planes]
    return shaped[0] if module.samples == 1 else np.stack(shaped, axis=-1)


def _unpacked(segment: bytes, size: int) -> NDArray[np.uint8]:
    """uint8 [size] by Pillow's packbits, as one long line. It stops where the line is full, so a
    line that is one longer must fail: then there was no byte too many."""
    try:
        Image.frombytes("L", (size + 1, 1), segment, "packbits", "L")
    except ValueError:
        line = Image.frombytes("L", (size, 1), segment, "packbits", "L")
        return np.asarray(line).reshape(size)
    raise ValueError("too many bytes")
