"""DICOM files that cost far more than they weigh: declared, deflated, nested, repeated, encoded.

Each maker returns a file; `size` scales the large ones, so that tests can use small bombs and
`benchmarks/bombs.py` full ones.
"""

from __future__ import annotations

import struct

import numpy as np

from benchmarks.fuzz.bomb_parts import (
    ITEM,
    ITEM_END,
    MIB,
    NONE,
    PIXELS,
    SEQUENCE_END,
    UNDEFINED,
    Maker,
    claims,
    declared,
    deflated,
    empty_elements,
    escapes,
    huge_lut,
    implicit_nested,
    inserted,
    jpeg2000,
    long_element,
    many_elements,
    many_fragments,
    many_items,
    nested,
    nested_sequences,
    one_byte_fragments,
    padded,
    palette,
    repeated_value,
    run_length,
    stretched,
    tiled_jpeg2000,
    unknown_nested,
)
from tests.infer.dicom_files import dx, picture
from tests.infer.encodings import base, codecs


def all_bombs(size: float = 1.0) -> dict[str, Maker]:
    """`size` 1: up to 256 MiB each; tests take less."""
    n = lambda number: max(10, int(number * size))  # noqa: E731
    lossless = codecs.jpeg_lossless(picture(), 12) if codecs.imagecodecs else b""
    sof = lossless.find(b"\xff\xc3") + 5
    ls = codecs.jpeg_ls_stream(picture())
    baseline = codecs.jpeg_baseline((picture() >> 4).astype(np.uint8))
    long = padded(baseline, n(64 * 1100))
    ls_sof, jpeg_sof = ls.index(b"\xff\xf7") + 5, long.index(b"\xff\xc0") + 5
    ls_long = ls[:2] + b"\xff\xfe\xff\xff" + b"\0" * 65533 + ls[2:]
    return {
        "declared 100000 x 100000": lambda: declared(Rows=100_000, Columns=100_000),
        "declared 65535 x 65535": lambda: declared(Rows=65535, Columns=65535),
        "declared 64 bits, 65535 samples": lambda: declared(
            BitsAllocated=64, SamplesPerPixel=65535
        ),
        "declared 10,000 frames": lambda: base.pack(dx(NumberOfFrames=10_000)),
        "declared 4 GiB of pixels": lambda: base.pack(dx()).replace(
            PIXELS + b"OW\0\0" + struct.pack("<I", 2880), PIXELS + b"OW\0\0\xfe\xff\xff\xff"
        ),
        "deflated pixels": lambda: deflated(
            PIXELS + b"OW\0\0" + struct.pack("<I", n(600 * MIB)) + bytes(n(600 * MIB))
        ),
        "deflated private element just under the cap": lambda: deflated(
            long_element(0x00091001, b"OB", bytes(n(510 * MIB)))
        ),
        "deflated pixels, no preamble": lambda: deflated(
            PIXELS + b"OW\0\0" + struct.pack("<I", n(600 * MIB)) + bytes(n(600 * MIB))
        )[132:],
        "deflated million elements": lambda: deflated(empty_elements(n(1_000_000))),
        "deflated nested": lambda: deflated(nested_sequences(n(50_000))),
        "nested 500": lambda: nested(500),
        "nested 5,000": lambda: nested(5_000),
        "nested 50,000": lambda: nested(n(50_000)),
        "nested 5,000 of defined length": lambda: nested(n(5_000), defined=True),
        "nested 50,000 of defined length": lambda: nested(n(50_000), defined=True),
        "nested 50,000 implicit": lambda: implicit_nested(n(50_000)),
        "nested 50,000 in UN": lambda: unknown_nested(n(50_000)),
        "nested 5,000 where text is asked": lambda: nested(n(5_000), tag=0x00080068),
        "1,000,000 elements": lambda: many_elements(n(1_000_000)),
        "30,000,000 elements": lambda: many_elements(n(30_000_000)),
        "10,000,000 elements in an item": lambda: many_items(1, empty_elements(n(10_000_000))),
        "10,000,000 elements in an open item": lambda: inserted(
            b"\x28\x00\x10\x30SQ\0\0" + UNDEFINED + ITEM + UNDEFINED
            + empty_elements(n(10_000_000)) + ITEM_END + NONE + SEQUENCE_END + NONE
        ),
        "1,000,000 items": lambda: many_items(n(1_000_000)),
        "20,000,000 items": lambda: many_items(n(20_000_000)),
        "1,000,000 items where text is asked": lambda: many_items(
            n(1_000_000), keyword=b"\x08\x00\x68\x00"
        ),
        "1,000,000 fragments": lambda: many_fragments(n(1_000_000)),
        "offset table of 10,000,000": lambda: many_fragments(1, n(10_000_000)),
        "a codestream in fragments of 2 bytes": one_byte_fragments,
        "private element of 200 MiB": lambda: inserted(
            long_element(0x00091001, b"OB", bytes(n(200 * MIB)))
        ),
        "patient name of 200 MiB": lambda: repeated_value("PatientName", b"PN", b"a", n(200 * MIB)),
        "patient id of 50 MiB": lambda: repeated_value("PatientID", b"LO", b"a", n(50 * MIB)),
        "study description of 100 MiB": lambda: repeated_value(
            "SeriesDescription", b"LO", b"a b", n(33 * MIB)
        ),
        "window of 1,000,000 numbers": lambda: repeated_value(
            "WindowCenter", b"DS", b"1.5\\", n(1_000_000)
        ),
        "window of 30,000,000 numbers": lambda: repeated_value(
            "WindowCenter", b"DS", b"1\\", n(30_000_000)
        ),
        "one number of 10,000,000 digits": lambda: repeated_value(
            "RescaleSlope", b"DS", b"9", n(10_000_000)
        ),
        "one whole number of 1,000,000 digits": lambda: repeated_value(
            "NumberOfFrames", b"IS", b"9", n(1_000_000)
        ),
        "1,000,000 frame counts": lambda: repeated_value(
            "NumberOfFrames", b"IS", b"1\\", n(1_000_000)
        ),
        "image type of 10,000,000 values": lambda: repeated_value(
            "ImageType", b"CS", b"A\\", n(10_000_000)
        ),
        "1,000,000 character sets": lambda: repeated_value(
            "SpecificCharacterSet", b"CS", b"ISO 2022 IR 87\\", n(1_000_000)
        ),
        "escape sequences in a description": lambda: escapes(n(10 * MIB)),
        "VOI LUT of 100 MiB": lambda: huge_lut(n(50 * MIB)),
        "modality LUT of 100 MiB": lambda: huge_lut(n(50 * MIB), 0x00283000),
        "palette of 100 MiB": lambda: palette(n(17 * MIB)),
        "JPEG of 8192 x 8192 in 2 kB": lambda: claims(
            codecs.JPEG_BASELINE, baseline, 8192, 8192, baseline.index(b"\xff\xc0") + 5, ">HH"
        ),
        "JPEG of 8192 x 8192 in 70 kB": lambda: claims(
            codecs.JPEG_BASELINE, long, 8192, 8192, jpeg_sof, ">HH"
        ),
        "JPEG-LS of 8192 x 8192 in 2 kB": lambda: claims(
            codecs.JPEG_LS, ls, 8192, 8192, ls_sof, ">HH"
        ),
        "JPEG-LS of 8000 x 4000 in 67 kB": lambda: claims(
            codecs.JPEG_LS, ls_long, 8000, 4000, ls_long.index(b"\xff\xf7") + 5, ">HH"
        ),
        "JPEG lossless of 8192 x 8192 in 2 kB": lambda: claims(
            codecs.JPEG_LOSSLESS_SV1, lossless, 8192, 8192, sof, ">HH"
        ),
        "JPEG lossless of 8000 x 4000 in 72 kB": lambda: claims(
            codecs.JPEG_LOSSLESS_SV1, padded(lossless, 70_000), 8000, 4000,
            padded(lossless, 70_000).index(b"\xff\xc3") + 5, ">HH",
        ),
        "JPEG 2000 of 8192 x 8192 in 2 kB": lambda: jpeg2000(8192, 8192),
        "JPEG 2000 of 8192 x 8192 in 140 kB": lambda: jpeg2000(8192, 8192, padding=140_000),
        "JPEG 2000 of 8192 x 8192, tiles of 1": lambda: jpeg2000(8192, 8192, 1, padding=140_000),
        "JPEG 2000 of 8160 x 8160, 65,025 tiles": lambda: jpeg2000(8160, 8160, 32, padding=140_000),
        "JPEG 2000 of 65,025 empty tiles": lambda: tiled_jpeg2000(n(65_025)),
        "JPEG 2000 of 16,384 components": lambda: jpeg2000(40, 36, components=16_384),
        "JPEG 2000 of 65,535 layers": lambda: jpeg2000(4096, 4096, layers=65_535, padding=140_000),
        "JPEG 2000 of 32 levels": lambda: jpeg2000(8192, 8192, levels=32, padding=140_000),
        "RLE runs of 8192 x 8192": lambda: run_length(n(8192), 8192, b"\x81\x07", 128),
        "RLE bytes of 8192 x 8192": lambda: run_length(n(8192), 8192, b"\x00\x07", 1),
        "RLE packets that do nothing": lambda: run_length(n(8192), 8192, b"\x80" * 4, 2),
        "pixels of 1:4, 8192 x 8192": lambda: stretched(n(8192)),
        "256 MiB of zeros behind DICM": lambda: base.pack(dx())[:132] + bytes(n(256 * MIB) - 132),
        "over 256 MiB": lambda: inserted(long_element(0x00091001, b"OB", bytes(257 * MIB))),
    }  # fmt: skip
