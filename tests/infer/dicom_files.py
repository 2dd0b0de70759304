"""DICOM files made in code: one small picture, any transfer syntax, any header."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.infer.encodings import base
from tier_infer.errors import RefusedImage
from tier_infer.images import load_image

UID = "1.2.826.0.1.3680043.8.498.7"
CONTENT = frozenset({"polarity_suspect", "rotation_suspect", "unlike_chest"})  # of drawn pictures


def told(flags: Iterable[str]) -> set[str]:
    """Flags without those that say a drawn picture is no chest film: it is none."""
    return set(flags) - CONTENT


def film(number: int = 0) -> NDArray[np.uint16]:
    """uint16 [150, 150], 12 bits: a real chest film, cut a little otherwise for each number."""
    top, left = number % 4 * 8, number // 4 * 4
    return np.ascontiguousarray(base.picture()[12 + top :: 3, left::3][:150, :150])


def picture(rows: int = 40, cols: int = 36, bits: int = 12) -> NDArray[np.uint16]:
    """uint16 [rows, cols]: a bright blob on a ramp with noise, using all of `bits` bits."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:rows, :cols]
    blob = np.exp(-((y - rows / 3) ** 2 + (x - cols / 2) ** 2) / (rows * cols / 20))
    grey = 0.5 * blob + 0.3 * y / rows + 0.2 * rng.random((rows, cols))
    grey = (grey - grey.min()) / np.ptp(grey)
    return np.rint(grey * (2**bits - 1)).astype(np.uint16)


def dx(pixels: NDArray[Any] | None = None, bits: int = 12, **tags: Any) -> Dataset:
    """A DX dataset that is scored; keywords replace tags, None leaves one out.

    Values that no writer may write are let through: readers meet them.
    """
    array = picture(bits=bits) if pixels is None else pixels
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID, ds.StudyInstanceUID = UID + ".1", UID + ".2"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "PA"
    ds.PatientName, ds.PatientID = "Nobody", "0"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = array.shape
    ds.BitsAllocated = array.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    ds.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
    ds["PixelData"].VR = "OW"
    with config.disable_value_validation():  # wrong values are what many tests are about
        for keyword, value in tags.items():
            if keyword != "PixelData" or value is None:  # its VR stays as it is
                ds.pop(keyword, None)
            if value is not None:
                setattr(ds, keyword, value)
    return ds


def write(ds: Dataset, path: Path) -> Path:
    """With preamble and file meta, in the transfer syntax that the dataset names."""
    path.write_bytes(pack(ds))
    return path


def pack(ds: Dataset) -> bytes:
    """The bytes of that file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return base.pack(ds)


def codestream(ds: Dataset, data: bytes, syntax: str) -> Dataset:
    """The dataset with one encapsulated frame."""
    ds.PixelData = encapsulate([data])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def in_syntax(ds: Dataset, syntax: str) -> Dataset:
    """An uncompressed little endian dataset, its pixels put into another transfer syntax."""
    array = np.frombuffer(ds.PixelData, f"<u{ds.BitsAllocated // 8}")[: ds.Rows * ds.Columns]
    array = array.reshape(ds.Rows, ds.Columns)
    if syntax == RLELossless:
        compress(ds, syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == JPEGLSLossless:
        codestream(ds, bytes(jpeg_ls.encode_array(array)), syntax)
    elif syntax in (JPEG2000Lossless, JPEGBaseline8Bit):
        buffer = io.BytesIO()
        if syntax == JPEGBaseline8Bit:
            Image.fromarray(array).save(buffer, "JPEG", quality=95)
        else:
            Image.fromarray(array).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
        codestream(ds, buffer.getvalue(), syntax)
    else:
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = array.byteswap().tobytes()
            ds["PixelData"].VR = "OW"
        ds.file_meta.TransferSyntaxUID = syntax
    return ds


def raw_element(keyword: str, vr: bytes, value: bytes) -> bytes:
    """One little endian element as bytes, right or wrong; without a VR it is implicit."""
    tag = tag_for_keyword(keyword) or 0
    value += b" " * (len(value) % 2) if vr in (b"", b"LO", b"DS", b"IS") else b""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    long = vr in (b"SQ", b"OW", b"OB", b"UN") or not vr
    size = struct.pack("<I" if long else "<H", len(value))
    return head + (b"\0\0" if long and vr else b"") + size + value


def outcome(path: Path, data: bytes) -> str:
    """'scored', or reason and sentence of the refusal; any other exception is the test's failure.

    Warnings are errors in this suite, so a sentence that pydicom puts on stderr fails it too.
    """
    path.write_bytes(data)
    try:
        load_image(path, "mimic-jpg")
    except RefusedImage as refusal:
        return f"{refusal.reason}: {refusal}"
    return "scored"
