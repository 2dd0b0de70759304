"""One DICOM file → stored pixel values and what the header says of them (PS3.5, PS3.10).

Each transfer syntax has exactly one decoder and no fallback: pydicom would otherwise try a lenient
decoder after a strict one has refused. Whatever goes wrong ends in a reason and a sentence, never
in a value read from the file.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, config
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder

from tier_infer.codestream import describe
from tier_infer.dicom_rules import (
    check_object,
    check_polarity,
    check_unsupported,
    header_flags,
    tag,
    text,
    value_of,
    view_of,
    whole,
)
from tier_infer.errors import FailedImage, RefusedImage

MAX_FILE_BYTES = 256 * 2**20
MAX_INFLATED_BYTES = 512 * 2**20
MAX_PIXELS = 64 * 2**20
MAX_META_BYTES = 2**16  # of file meta information that is looked at for the transfer syntax
DEFLATED = "1.2.840.10008.1.2.1.99"
DECODERS = {  # transfer syntax UID → pydicom decoding plugin; "" is plain memory
    "1.2.840.10008.1.2": "",  # implicit VR little endian
    "1.2.840.10008.1.2.1": "",  # explicit VR little endian
    DEFLATED: "",
    "1.2.840.10008.1.2.2": "",  # explicit VR big endian
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
}


@dataclass(frozen=True)
class StoredImage:
    """Stored values [H, W] as integers of BitsStored bits, and how to read them."""

    stored: NDArray[np.integer]
    inverted: bool  # dense tissue is dark in `stored`
    view: str  # PA, AP, lateral, oblique, unknown
    flags: tuple[str, ...]
    study_key: str | None  # StudyInstanceUID; groups images in memory, never printed
    instance_key: str | None  # SOPInstanceUID, likewise


def read_dicom(path: Path) -> StoredImage:
    """Raises NotEvaluated (not ours to score) or FailedImage (not readable beyond doubt)."""
    with _quiet():
        ds = _parse(path)
        study_key = _identifier(ds, "StudyInstanceUID")
        try:
            check_object(ds)
            inverted = check_polarity(ds)
            check_unsupported(ds)
            view, flags = view_of(ds), header_flags(ds)
            stored, pixel_flags = _decode(ds)
        except RefusedImage as refusal:
            refusal.study_key = study_key
            with contextlib.suppress(RefusedImage):
                refusal.view = view_of(ds)
            raise
        instance_key = _identifier(ds, "SOPInstanceUID")
    return StoredImage(stored, inverted, view, (*flags, *pixel_flags), study_key, instance_key)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pydicom repeats header values in its warnings and log records; none may reach a log file."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _identifier(ds: Dataset, keyword: str) -> str | None:
    try:
        return text(ds, keyword) or None
    except FailedImage:
        return None


def _parse(path: Path) -> Dataset:
    if path.stat().st_size > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 2**20
        raise FailedImage("too_large", f"the file is over {limit} MiB, the limit for one image")
    _check_inflated(path)
    config.settings.reading_validation_mode = config.IGNORE
    try:
        return pydicom.dcmread(path)
    except InvalidDicomError:
        raise FailedImage("not_dicom", "the file has no DICOM header") from None
    except Exception as error:  # any byte sequence may arrive; the text could hold a name
        kind = type(error).__name__
        raise FailedImage("unreadable", f"the DICOM header can't be parsed ({kind})") from None


def _check_inflated(path: Path) -> None:
    """Refuse a deflated dataset that inflates beyond the cap; zlib reaches 1032:1 at most."""
    if path.stat().st_size * 1032 <= MAX_INFLATED_BYTES:
        return
    with path.open("rb") as file:
        start, syntax = _end_of_meta(file.read(MAX_META_BYTES))
    if syntax != DEFLATED:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total, data = 0, path.read_bytes()[start:]
    try:
        while data and not inflater.eof and total <= MAX_INFLATED_BYTES:
            total += len(inflater.decompress(data, 2**24))
            data = inflater.unconsumed_tail
    except zlib.error:
        raise FailedImage("unreadable", "the deflated dataset is damaged") from None
    if total > MAX_INFLATED_BYTES:
        raise FailedImage("too_large", "the deflated dataset inflates beyond 512 MiB")


def _end_of_meta(head: bytes) -> tuple[int, str]:
    """Where group 2 really ends, and its TransferSyntaxUID (PS3.10 7.1, explicit little endian).

    (0002,0000) states the length of the group, but that is only the file's word.
    """
    at, syntax = 132, ""
    while head[at : at + 2] == b"\x02\x00":
        wide = head[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        size = int.from_bytes(head[at + 8 : at + 12] if wide else head[at + 6 : at + 8], "little")
        start = at + (12 if wide else 8)
        if head[at + 2 : at + 4] == b"\x10\x00":
            syntax = head[start : start + size].rstrip(b"\0 ").decode("ascii", "replace")
        at = start + size
    return at, syntax


def _decode(ds: Dataset) -> tuple[NDArray[np.integer], list[str]]:
    """Stored values [H, W], masked to BitsStored and sign-extended (PS3.5 8.1.1, 8.1.2)."""
    rows, cols, bits_allocated, bits_stored, signed = _check_pixel_module(ds)
    syntax = str(getattr(ds.file_meta, "TransferSyntaxUID", ""))
    if syntax not in DECODERS:
        known = syntax if pydicom.uid.UID(syntax).is_transfer_syntax else "not a transfer syntax"
        raise FailedImage(
            "transfer_syntax", f"(0002,0010) TransferSyntaxUID {known} has no decoder here"
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
