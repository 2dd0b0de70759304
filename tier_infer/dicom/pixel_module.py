"""How pixels are laid out: the type 1 attributes of PS3.3 C.7.6.3, read without a default."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset

from tier_infer.dicom.header import number, tag, text, whole
from tier_infer.errors import FailedImage

MAX_PIXELS = 64 * 2**20


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
