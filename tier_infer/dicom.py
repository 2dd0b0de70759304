"""One DICOM file → stored pixel values and what the header says of them (PS3.5, PS3.10).

Each transfer syntax has exactly one decoder and no fallback: pydicom would otherwise try a lenient
decoder after a strict one has refused. Whatever goes wrong ends in a reason and a sentence, never
in a value read from the file.
"""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, config
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.utils import pixel_array

from tier_infer.dicom_rules import (
    check_object,
    check_polarity,
    check_unsupported,
    header_flags,
    named,
    number,
    view_of,
)
from tier_infer.errors import FailedImage, RefusedImage

MAX_FILE_BYTES = 256 * 2**20
MAX_INFLATED_BYTES = 512 * 2**20
MAX_PIXELS = 64 * 2**20
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
    ds = _parse(path)
    study_key = str(ds.get("StudyInstanceUID") or "") or None
    try:
        check_object(ds)
        view = view_of(ds)
        inverted = check_polarity(ds)
        check_unsupported(ds)
        stored, pixel_flags = _decode(ds)
    except RefusedImage as refusal:
        refusal.study_key = study_key
        refusal.view = view_of(ds)
        raise
    flags = (*header_flags(ds), *pixel_flags)
    return StoredImage(
        stored, inverted, view, flags, study_key, str(ds.get("SOPInstanceUID") or "") or None
    )


def _parse(path: Path) -> Dataset:
    if path.stat().st_size > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 2**20
        raise FailedImage(
            "too_large", f"the file is larger than {limit} MiB, the limit for one image"
        )
    _check_inflated(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom repeats header values in its warnings
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
    try:
        meta = read_file_meta_info(path)
        if str(meta.get("TransferSyntaxUID")) != DEFLATED:
            return
        start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    except Exception:  # not parseable: the reader will say so
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total, data = 0, path.read_bytes()[start:]
    while data and not inflater.eof and total <= MAX_INFLATED_BYTES:
        try:
            total += len(inflater.decompress(data, 2**24))
        except zlib.error:
            return
        data = inflater.unconsumed_tail
    if total > MAX_INFLATED_BYTES:
        raise FailedImage("too_large", "the deflated dataset inflates beyond 512 MiB")


def _decode(ds: Dataset) -> tuple[NDArray[np.integer], list[str]]:
    """Stored values [H, W], masked to BitsStored and sign-extended (PS3.5 8.1.1, 8.1.2)."""
    bits_allocated, bits_stored = _check_pixel_module(ds)
    syntax = str(getattr(ds.file_meta, "TransferSyntaxUID", ""))
    if syntax not in DECODERS:
        known = syntax if pydicom.uid.UID(syntax).is_transfer_syntax else "not a transfer syntax"
        raise FailedImage(
            "transfer_syntax", f"(0002,0010) TransferSyntaxUID {known} has no decoder here"
        )
    plugin = DECODERS[syntax]
    if not plugin:
        _check_length(ds, bits_allocated)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a decoder that warns is not sure; neither are we
        try:
            raw = pixel_array(ds, raw=True, decoding_plugin=plugin)
        except Exception as error:
            kind = type(error).__name__
            raise FailedImage(
                "decode", f"(7FE0,0010) PixelData can't be decoded ({kind})"
            ) from None
    if raw.shape != (int(ds.Rows), int(ds.Columns)):
        raise FailedImage("decode", "decoded pixels do not have the Rows and Columns of the header")
    return _stored_values(raw, bits_stored, signed=int(ds.PixelRepresentation) == 1)


def _stored_values(
    raw: NDArray[np.integer], bits_stored: int, signed: bool
) -> tuple[NDArray[np.integer], list[str]]:
    low = raw.astype(np.int32) & ((1 << bits_stored) - 1)
    stored = low - ((low >> (bits_stored - 1)) << bits_stored) if signed else low
    flags = [] if np.array_equal(stored, raw) else ["high_bits_masked"]
    return stored.astype(np.int16 if signed else np.uint16), flags


def _check_pixel_module(ds: Dataset) -> tuple[int, int]:
    """Type 1 attributes of PS3.3 C.7.6.3 must be there and agree; no default is guessed."""
    need = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    for keyword in (*need, "SamplesPerPixel"):
        if number(ds, keyword) is None:
            raise FailedImage("pixel_module", f"{named(ds, keyword)}, so pixels can't be read")
    rows, cols, allocated, stored, high, signed = (int(number(ds, k) or 0) for k in need)
    if int(ds.SamplesPerPixel) != 1:
        raise FailedImage("pixel_module", "(0028,0002) SamplesPerPixel is not 1; only grey images")
    if rows < 1 or cols < 1 or rows * cols > MAX_PIXELS:
        raise FailedImage("too_large", f"Rows x Columns must be 1 to {MAX_PIXELS} pixels")
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        raise FailedImage(
            "pixel_module",
            f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high} do not fit together",
        )
    if signed not in (0, 1):
        raise FailedImage("pixel_module", "(0028,0103) PixelRepresentation must be 0 or 1")
    return allocated, stored


def _check_length(ds: Dataset, bits_allocated: int) -> None:
    expected = int(ds.Rows) * int(ds.Columns) * bits_allocated // 8
    found = len(ds.PixelData)
    if found < expected:
        raise FailedImage(
            "truncated", f"(7FE0,0010) PixelData has {found} bytes, {expected} are needed"
        )
    if found > expected + expected % 2:  # one padding byte makes the length even, PS3.5 8.1.1
        raise FailedImage(
            "pixel_length", f"(7FE0,0010) PixelData has {found} bytes, {expected} are described"
        )
