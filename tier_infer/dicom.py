"""One DICOM file → stored pixel values and what the header says of them (PS3.5, PS3.10).

Whatever goes wrong ends in a reason and a sentence, never in a value read from the file.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, config
from pydicom.errors import InvalidDicomError

from tier_infer.dicom_rules import (
    check_object,
    check_polarity,
    check_unsupported,
    header_flags,
    text,
    view_of,
)
from tier_infer.errors import FailedImage, RefusedImage
from tier_infer.pixel_data import stored_pixels

MAX_FILE_BYTES = 256 * 2**20
MAX_INFLATED_BYTES = 512 * 2**20
MAX_META_BYTES = 2**16  # of file meta information that is looked at for the transfer syntax
DEFLATED = "1.2.840.10008.1.2.1.99"


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
            stored, pixel_flags = stored_pixels(ds)
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
