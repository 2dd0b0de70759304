"""Transfer syntaxes (PS3.5 annex A) and the one decoder that each of them has.

Chosen by safety under damaged input first, then by speed. python-gdcm is not among them: small
mutations of a file abort the process.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import pydicom
from pydicom import Dataset

from tier_infer.dicom import codestream
from tier_infer.dicom.header import tag, text
from tier_infer.errors import FailedImage

JPEG2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
# Decoders: "" copies bytes, packbits is Pillow's, the others are pydicom plugins or packages
PLAIN, RLE, PILLOW, JPEGLS, IMAGECODECS = "", "packbits", "pillow", "pyjpegls", "imagecodecs"


@dataclass(frozen=True)
class Syntax:
    """How one transfer syntax is decoded, and which codestreams it may hold."""

    name: str
    decoder: str
    processes: tuple[int, ...] = ()


SYNTAXES = {
    "1.2.840.10008.1.2": Syntax("implicit little endian", PLAIN),
    "1.2.840.10008.1.2.1": Syntax("explicit little endian", PLAIN),
    "1.2.840.10008.1.2.1.99": Syntax("deflated", PLAIN),
    "1.2.840.10008.1.2.2": Syntax("explicit big endian", PLAIN),
    "1.2.840.10008.1.2.5": Syntax("RLE", RLE),
    "1.2.840.10008.1.2.4.50": Syntax("JPEG baseline", PILLOW, (codestream.BASELINE,)),
    "1.2.840.10008.1.2.4.51": Syntax(
        "JPEG extended", IMAGECODECS, (codestream.BASELINE, codestream.EXTENDED)
    ),
    "1.2.840.10008.1.2.4.57": Syntax("JPEG lossless", IMAGECODECS, (codestream.LOSSLESS,)),
    "1.2.840.10008.1.2.4.70": Syntax("JPEG lossless SV1", IMAGECODECS, (codestream.LOSSLESS,)),
    "1.2.840.10008.1.2.4.80": Syntax("JPEG-LS lossless", JPEGLS, (codestream.JPEG_LS,)),
    "1.2.840.10008.1.2.4.81": Syntax("JPEG-LS near-lossless", JPEGLS, (codestream.JPEG_LS,)),
    "1.2.840.10008.1.2.4.90": Syntax("JPEG 2000 lossless", PILLOW, (codestream.JPEG_2000,)),
    "1.2.840.10008.1.2.4.91": Syntax("JPEG 2000", PILLOW, (codestream.JPEG_2000,)),
    "1.2.840.10008.1.2.4.201": Syntax("HTJ2K lossless", PILLOW, (codestream.JPEG_2000,)),
    "1.2.840.10008.1.2.4.202": Syntax("HTJ2K lossless RPCL", PILLOW, (codestream.JPEG_2000,)),
    "1.2.840.10008.1.2.4.203": Syntax("HTJ2K", PILLOW, (codestream.JPEG_2000,)),
}
HTJ2K = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
ALWAYS_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
LOSSY = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 203))


def syntax_of(ds: Dataset) -> tuple[str, Syntax]:
    """TransferSyntaxUID; a file without meta information can only be uncompressed (PS3.10 7.1)."""
    uid = text(ds.file_meta, "TransferSyntaxUID")
    if not uid:
        implicit, little = ds.original_encoding
        uid = "1.2.840.10008.1.2" + ("" if implicit else ".1" if little else ".2")
    if uid not in SYNTAXES:
        known = uid if pydicom.uid.UID(uid).is_transfer_syntax else "not a transfer syntax"
        raise FailedImage(
            "transfer_syntax", f"{tag('TransferSyntaxUID')} {known}: there is no decoder for it"
        )
    return uid, SYNTAXES[uid]


def missing_decoder(syntax: Syntax) -> bool:
    return syntax.decoder == IMAGECODECS and importlib.util.find_spec("imagecodecs") is None
