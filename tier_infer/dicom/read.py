"""One DICOM file → stored pixel values and what the header says of them (PS3.5, PS3.10).

Whatever goes wrong ends in a reason and a sentence, never in a value read from the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, config
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from tier_infer.dicom.colour import grey_of_colour
from tier_infer.dicom.grayscale import read_grayscale
from tier_infer.dicom.header import tag, text, values, whole
from tier_infer.dicom.pixel_data import stored_pixels
from tier_infer.dicom.rules import check_object, header_flags, view_of
from tier_infer.dicom.upright import Pose, read_pose
from tier_infer.errors import FailedImage, RefusedImage
from tier_infer.grayscale import Grayscale
from tier_infer.quiet import quiet

MAX_INFLATED_BYTES = 256 * 2**20
MAX_READS = 400_000  # of the parser, several per element
MAX_META_BYTES = 2**16  # of file meta information that is looked at for the transfer syntax
DEFLATED, EXPLICIT = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.1"
PREFIX = b"DICM"
PADDING_TAGS = (0, 0xFFFCFFFC)  # zeros at the end, data set trailing padding (PS3.10 7.2)
EXECUTABLE = (b"MZ", b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!", b"PK\x03\x04")
INSIDE = 0.001  # share of pixels that are padding by value and not reached from the border


@dataclass(frozen=True)
class StoredImage:
    """Stored values [H, W] as integers of BitsStored bits, and how to read them."""

    stored: NDArray[np.integer]
    grayscale: Grayscale
    padding: NDArray[np.bool_] | None  # [H, W], True where there is no image
    pose: Pose
    view: str  # PA, AP, lateral, oblique, unknown
    flags: tuple[str, ...]
    study_key: str | None  # StudyInstanceUID; groups images in memory, never printed
    instance_key: str | None  # SOPInstanceUID, likewise
    patient_key: str | None  # digest of PatientID, likewise


def is_dicom(head: bytes) -> bool:
    """By content: the prefix, or without preamble a first element of group 2 or 8 (PS3.10 7.1)."""
    return head[128:132] == PREFIX or head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def read_dicom(data: bytes) -> StoredImage:
    """Raises NotEvaluated (not ours to score) or FailedImage (not readable beyond doubt)."""
    with quiet():
        ds = _parse(data)
        study_key = _identifier(ds, "StudyInstanceUID")
        try:
            check_object(ds)
            grayscale, view = read_grayscale(ds), view_of(ds)
            pose, flags = read_pose(ds, view), header_flags(ds)
            stored, more = stored_pixels(ds)
            if stored.ndim == 3 or text(ds, "PhotometricInterpretation") == "PALETTE COLOR":
                stored, more = grey_of_colour(ds, stored), ["grey_from_colour"]
            padding, padding_flags = _padding(ds, stored, grayscale, more)
        except RefusedImage as refusal:
            refusal.study_key = study_key
            with contextlib.suppress(RefusedImage):
                refusal.view = view_of(ds)
            raise
        found = [*flags, *_file_flags(data), *more, *pose.flags, *padding_flags]
        if grayscale.modality_lut is not None:
            found.append("modality_lut")
        instance_key, patient_key = _identifier(ds, "SOPInstanceUID"), _identifier(ds, "PatientID")
    if patient_key:
        patient_key = hashlib.sha256(patient_key.encode("utf-8", "replace")).hexdigest()
    return StoredImage(
        stored, grayscale, padding, pose, view, tuple(found), study_key, instance_key, patient_key
    )


def _padding(
    ds: Dataset, stored: NDArray[np.integer], grayscale: Grayscale, pixel_flags: list[str]
) -> tuple[NDArray[np.bool_] | None, list[str]]:
    if grayscale.padding is None:
        return None, []
    if "high_bits_masked" in pixel_flags:  # the value may have been told by the masked bits
        raise FailedImage(
            "pixel_padding", f"{tag('PixelPaddingValue')} may stand above {tag('BitsStored')}"
        )
    low, high = grayscale.padding
    _check_reach(ds, stored, low, high)
    limits = np.iinfo(stored.dtype)
    if high < limits.min or low > limits.max:
        return None, []
    padding = (stored >= max(low, limits.min)) & (stored <= min(high, limits.max))
    if not padding.any():
        return None, []
    inside = float(np.mean(padding & ~_reached_from_border(padding)))
    return padding, ["pixel_padding"] + ["padding_inside"] * (inside > INSIDE)


def _check_reach(ds: Dataset, stored: NDArray[np.integer], low: int, high: int) -> None:
    """A value that BitsStored can't hold may have been written as the bits of one that it can."""
    bits = whole(ds, "BitsStored")
    if stored.dtype != np.int16 or -(1 << bits - 1) <= low <= high < 1 << bits - 1:
        return
    meant = [(v + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1) for v in (low, high)]
    if ((stored >= min(meant)) & (stored <= max(meant))).any():
        raise FailedImage(
            "pixel_padding", f"{tag('PixelPaddingValue')} is beyond {tag('BitsStored')}"
        )


def _reached_from_border(padding: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [H, W]: padding that a straight line along row or column joins to the border."""
    reached = np.zeros_like(padding)
    for axis in (0, 1):
        for view, target in ((padding, reached), (np.flip(padding, axis), np.flip(reached, axis))):
            target |= np.logical_and.accumulate(view, axis=axis)
    return reached


def _file_flags(data: bytes) -> list[str]:
    if data[128:132] != PREFIX:
        return ["no_meta"]
    return ["preamble"] if data.startswith(EXECUTABLE) else []


def _identifier(ds: Dataset, keyword: str) -> str | None:
    try:
        return text(ds, keyword) or None
    except FailedImage:
        return None


class _Metered(io.BytesIO):
    """A parser reads several times per element; beyond all reason the header is a bomb."""

    left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise FailedImage("too_large", "the header has more elements than any image")
        return super().read(size)


def _parse(data: bytes) -> Dataset:
    bare = data[128:132] != PREFIX
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        ds = read_partial(_Metered(_inflated(data)), _once(), force=bare)
    except FailedImage:
        raise
    except InvalidDicomError:
        raise FailedImage("not_dicom", "the file has no DICOM header") from None
    except MemoryError:
        raise FailedImage("too_large", "the header needs more memory than is allowed") from None
    except Exception as error:  # any byte sequence may arrive; the text could hold a name
        kind = type(error).__name__
        raise FailedImage("unreadable", f"the DICOM header can't be parsed ({kind})") from None
    finally:
        config.settings.reading_validation_mode = before
    if bare and not values(ds, "SOPClassUID"):
        raise FailedImage(
            "not_dicom", "the file has no DICM prefix, and what stands there is no DICOM dataset"
        )
    return ds


def _once() -> Callable[[BaseTag, str | None, int], bool]:
    """Asked by the parser before each element: a tag that stands twice has no value (PS3.5 7.1)."""
    seen: set[int] = set()

    def stop(found: BaseTag, vr: str | None, length: int) -> bool:
        if int(found) in seen and int(found) not in PADDING_TAGS:
            raise FailedImage(
                "unreadable",
                "a tag stands twice in the file, or it is not in the transfer syntax it names",
            )
        seen.add(int(found))
        return False

    return stop


def _inflated(data: bytes) -> bytes:
    """A deflated file (PS3.5 A.5) as explicit little endian, inflated within the cap; others as
    they are. pydicom would inflate without a limit, and zlib reaches 1032 : 1."""
    start, syntax, at = _end_of_meta(data[:MAX_META_BYTES])
    if syntax != DEFLATED:
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data[start:], MAX_INFLATED_BYTES)
    except zlib.error:
        raise FailedImage("unreadable", "the deflated dataset is damaged") from None
    if not inflater.eof:
        if inflater.unconsumed_tail:
            limit = MAX_INFLATED_BYTES // 2**20
            raise FailedImage("too_large", f"the deflated dataset inflates beyond {limit} MiB")
        raise FailedImage("truncated", "the deflated dataset ends too early")
    explicit = EXPLICIT.ljust(len(DEFLATED) + len(DEFLATED) % 2, "\0").encode()
    return data[:at] + explicit + data[at + len(explicit) : start] + plain


def _end_of_meta(head: bytes) -> tuple[int, str, int]:
    """Where group 2 really ends, its TransferSyntaxUID and where that stands (PS3.10 7.1).

    (0002,0000) states the length of the group, but that is only the file's word.
    """
    at, syntax, found = 132 if head[128:132] == PREFIX else 0, "", 0
    while head[at : at + 2] == b"\x02\x00":
        wide = head[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        size = int.from_bytes(head[at + 8 : at + 12] if wide else head[at + 6 : at + 8], "little")
        start = at + (12 if wide else 8)
        if head[at + 2 : at + 4] == b"\x10\x00":
            syntax = head[start : start + size].rstrip(b"\0 ").decode("ascii", "replace")
            found = start
        at = start + size
    return at, syntax, found
