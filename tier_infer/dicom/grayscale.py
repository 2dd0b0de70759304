"""What a header says of grey values (PS3.3 C.11), read into a `Grayscale`; pixels untouched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from tier_infer.dicom.header import items, named, number, numbers, tag, text, value_of, values
from tier_infer.errors import FailedImage
from tier_infer.grayscale import Grayscale, Lut, Window

PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
ALL_PHOTOMETRIC = (*PHOTOMETRIC, *COLOUR, "YBR_PARTIAL_420", "YBR_PARTIAL_422", "HSV", "CMYK")


def read_grayscale(ds: Dataset) -> Grayscale:
    """Raises FailedImage: photometric, polarity, rescale, modality_lut, voi_lut, pixel_padding."""
    photometric = text(ds, "PhotometricInterpretation")
    if photometric not in (*PHOTOMETRIC, *COLOUR):
        found = named(ds, "PhotometricInterpretation", ALL_PHOTOMETRIC)
        raise FailedImage("photometric", f"{found}; allowed: {', '.join(PHOTOMETRIC)}")
    _check_presentation(ds, photometric)
    slope, intercept = _rescale(ds)
    if photometric in COLOUR:  # windows and padding have no meaning there (C.11.2.1.2, C.7.5.1.1.2)
        if (slope, intercept) != (1, 0) or values(ds, "ModalityLUTSequence"):
            raise FailedImage("rescale", "a colour image has no modality transformation")
        return Grayscale()
    luts = items(ds, "ModalityLUTSequence")
    if values(ds, "ModalityLUTSequence") and len(luts) != 1:
        raise FailedImage("modality_lut", f"{tag('ModalityLUTSequence')} must hold one item")
    modality_lut = _lut(luts[0], ds, "ModalityLUTSequence", "modality_lut") if luts else None
    voi, several = _voi(ds)
    padding = _padding(ds)
    mono1 = photometric == "MONOCHROME1"
    return Grayscale(slope, intercept, modality_lut, voi, mono1, several, padding)


def _check_presentation(ds: Dataset, photometric: str) -> None:
    """PresentationLUTShape INVERSE merely restates MONOCHROME1 (PS3.3 C.8.11.3.1.2, C.11.6)."""
    shape = text(ds, "PresentationLUTShape")
    if (photometric, shape) in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        raise FailedImage(
            "polarity",
            f"{tag('PresentationLUTShape')} contradicts {tag('PhotometricInterpretation')}, "
            "so black and white can't be told apart",
        )
    if values(ds, "PresentationLUTSequence") or shape not in ("", "IDENTITY", "INVERSE"):
        raise FailedImage(
            "presentation_lut",
            f"the image has a presentation LUT of its own; allowed: {tag('PresentationLUTShape')} "
            "IDENTITY or INVERSE",
        )


def _rescale(ds: Dataset) -> tuple[float, float]:
    slope, intercept = number(ds, "RescaleSlope", 1.0), number(ds, "RescaleIntercept", 0.0)
    assert slope is not None  # a default was given
    assert intercept is not None
    return slope, intercept


def _voi(ds: Dataset) -> tuple[Lut | Window | FailedImage | None, bool]:
    """The first VOI LUT, else the first window (C.11.2.1.1: either may be applied, not both)."""
    centers, widths = numbers(ds, "WindowCenter"), numbers(ds, "WindowWidth")
    luts = items(ds, "VOILUTSequence")
    several = len(luts) + max(len(centers), len(widths)) > 1
    if luts:
        return _lut(luts[0], ds, "VOILUTSequence", "voi_lut"), several
    if not centers and not widths:
        return None, False
    try:
        if not centers or not widths:
            raise FailedImage("window", f"{tag('WindowCenter')} and width must stand together")
        return Window(centers[0], widths[0], text(ds, "VOILUTFunction") or "LINEAR"), several
    except FailedImage as broken:
        return broken, several


def _lut(item: Dataset, ds: Dataset, keyword: str, reason: str) -> Lut:
    """One LUT item. The number of entries 0 stands for 65536 (C.11.1.1.1)."""
    wrong = FailedImage(
        reason, f"{tag(keyword)}: {tag('LUTDescriptor')} and {tag('LUTData')} do not fit together"
    )
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3 or not all(v.is_integer() for v in descriptor):
        raise wrong
    entries, first, bits = (int(v) for v in descriptor)
    entries = entries % 65536 or 65536
    after_lut = keyword == "VOILUTSequence" and bool(values(ds, "ModalityLUTSequence"))
    if first >= 2**15 and number(ds, "PixelRepresentation", 0) == 1 and not after_lut:
        first -= 2**16  # US or SS, as the pixels; a modality LUT's output is never negative
    if not 8 <= bits <= 16:
        raise wrong
    raw = value_of(item, "LUTData")
    if isinstance(raw, bytes):
        raw = _unpacked(raw, entries, bits, little=ds.original_encoding[1] is not False)
    try:
        table = np.asarray(raw, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise wrong from None
    if len(table) != entries or table.min() < 0 or table.max() >= 2**bits or entries < 2:
        raise wrong
    if table.min() == table.max():
        raise FailedImage(reason, f"{tag(keyword)} maps everything to one value")
    return Lut(first, table, bits)


def _unpacked(raw: bytes, entries: int, bits: int, little: bool) -> NDArray[np.integer]:
    """LUTData as OW: 16-bit words, or two 8-bit entries in each (C.11.1.1.1)."""
    order = "<" if little else ">"
    if bits == 8 and len(raw) in (entries, entries + entries % 2):
        words = np.frombuffer(raw, f"{order}u2").astype("<u2")
        return np.frombuffer(words.tobytes(), np.uint8)[:entries]
    return np.frombuffer(raw[: len(raw) // 2 * 2], f"{order}u2")


def _padding(ds: Dataset) -> tuple[int, int] | None:
    """Stored values that fill the rectangle round the image (C.7.5.1.1.2), lowest and highest."""
    if "PixelPaddingValue" not in ds:
        if "PixelPaddingRangeLimit" in ds:
            raise FailedImage("pixel_padding", f"{tag('PixelPaddingValue')} is missing")
        return None
    ends = numbers(ds, "PixelPaddingValue")[:1] + numbers(ds, "PixelPaddingRangeLimit")[:1]
    if not ends or not all(v.is_integer() for v in ends):
        raise FailedImage("pixel_padding", f"{tag('PixelPaddingValue')} must be a whole number")
    signed = number(ds, "PixelRepresentation", 0) == 1
    if signed:  # US or SS: writers take either VR for the same 16 bits
        ends = [v - 2**16 if v >= 2**15 else v for v in ends]
    else:
        ends = [v + 2**16 if v < 0 else v for v in ends]
    return int(min(ends)), int(max(ends))
