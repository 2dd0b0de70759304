"""The picture, the dataset round it, and what a reader must make of both."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

Float = NDArray[np.float64]
SOURCE = Path(__file__).parents[2] / "data" / "d_07_j2k_lossless.dcm"
ROWS, COLUMNS, BITS = 489, 460, 12
WHITE = 2**BITS - 1
FRAME = 12  # rows of collimator at the top and at the bottom, all 0
MARKER = np.s_[60:76, 400:424]  # a lead marker, all white; even, so that halving keeps it
NOTCH = np.s_[240:248, 452:460]  # the darkest spot inside the frame
SEED = 3
UID = "1.2.826.0.1.3680043.8.498.7"


@cache
def picture() -> NDArray[np.uint16]:
    """uint16 [489, 460], 0..4095, both ends reached in and beside the frame; bright = dense."""
    whole = pydicom.dcmread(SOURCE).pixel_array.astype(np.float64)
    grey = whole[12 : 12 + ROWS, 20 : 20 + COLUMNS]
    # Both ends belong to the marker and the dark spots alone, as in a real film.
    grey = np.rint(20 + (grey - grey.min()) / np.ptp(grey) * (WHITE - 40))
    grey[:FRAME] = grey[-FRAME:] = grey[NOTCH] = 0
    grey[MARKER] = WHITE
    found: NDArray[np.uint16] = grey.astype(np.uint16)
    found.setflags(write=False)
    return found


def frame() -> NDArray[np.bool_]:
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[:FRAME] = mask[-FRAME:] = True
    return mask


def noise(high: int) -> NDArray[np.uint16]:
    """uint16 [489, 460] in 0..high, the same at every call."""
    return np.random.default_rng(SEED).integers(0, high + 1, (ROWS, COLUMNS)).astype(np.uint16)


@dataclass(frozen=True)
class Case:
    """One file, and what must be made of it.

    `shown` is the picture that PS3.4 N.2 puts on the screen, in 0..1, upright. `values` are those
    that presets without VOI scale (after a modality LUT, before any window), upright as well;
    `inverted` says that dense tissue is dark in them, `padding` where they are no image.
    """

    name: str
    data: bytes
    shown: Float
    values: Float
    inverted: bool = False
    padding: NDArray[np.bool_] | None = None
    window: bool = False  # presets without VOI must flag it
    bound: float = 0.0  # mean grey levels that a lossy encoding may be off; 0: lossless
    resampled: bool = False  # not square as stored: compared at the size of a network's input
    flags: frozenset[str] = frozenset()  # under every preset
    voi_flags: frozenset[str] = frozenset()  # under `voi` alone
    other_flags: frozenset[str] = frozenset()  # under the presets without VOI
    listed: bool = False  # one of the 35 of the first comparison
    defined: bool = True  # False: no window, and another range than BitsStored has; the standard
    # leaves the display to the reader then, and tier-infer takes the range that occurs
    refused: Mapping[str, str] = field(default_factory=dict)  # preset → reason, if not a picture
    suffix: str = ".dcm"


def dataset(pixels: NDArray[Any], bits: int = BITS, **tags: Any) -> Dataset:
    """DX, chest, PA, grey; keywords replace tags, None takes one out."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20200102", "101500", ""
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    ds.PatientName, ds.PatientID, ds.PatientSex = "Nobody", "0", "O"
    ds.PatientAge = "060Y"
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (UID + f".{i}" for i in "123")
    ds.PatientOrientation = ["L", "F"]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.BurnedInAnnotation = "NO"
    set_pixels(ds, pixels.tobytes())
    for keyword, value in tags.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds


def set_pixels(ds: Dataset, data: bytes) -> Dataset:
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW"
    return ds


def compressed(ds: Dataset, syntax: str, *fragments: bytes, table: bool = True) -> Dataset:
    """The dataset with one encapsulated frame, in one fragment or several (PS3.5 A.4).

    `table`: the basic offset table names the frame's offset, 0, or is empty.
    """
    ds.PixelData = item(b"\0" * 4 if table else b"") + b"".join(map(item, fragments))
    ds.PixelData += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def item(data: bytes) -> bytes:
    data += b"\0" * (len(data) % 2)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data


def pack(ds: Dataset) -> bytes:
    """A DICOM file with preamble and file meta, in the syntax that the dataset names."""
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID") or UID
    ds.file_meta.MediaStorageSOPInstanceUID = UID + ".1"
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
