"""What a compressed image says of itself, read before any decoder allocates memory for it.

A decoder believes the codestream, the header says Rows and Columns: where the two differ, rows
would be scrambled or values wrap, and nothing would be raised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import FailedImage

JPEG_START, J2K_START = b"\xff\xd8", b"\xff\x4f"
BASELINE, EXTENDED, LOSSLESS, JPEG_LS, JPEG_2000 = 0xC0, 0xC1, 0xC3, 0xF7, 0x51
# The frame header of each process (T.81 table B.1, T.87 C.1.1); for JPEG 2000 its SIZ marker
PROCESSES = (BASELINE, EXTENDED, LOSSLESS, JPEG_LS)


@dataclass(frozen=True)
class Codestream:
    process: int
    rows: int
    cols: int
    bits: int
    components: int
    signed: bool
    start: int = 0  # where it begins in the bytes given
    body: int = 0  # where compressed pixels begin: before it, markers may stand in tables


def check_filled(pixels: NDArray[np.integer], bits: int) -> None:
    """libjpeg paints the blocks that a stream no longer holds in the middle grey, without a word:
    integers [H, W] or [H, W, 3] whose last blocks are exactly that are not whole."""
    corner = pixels[-(pixels.shape[0] % 8 or 8) :, -(-pixels.shape[1] // 2) :]
    if (corner == 1 << (bits - 1)).all():
        raise FailedImage("truncated", "the compressed image ends early: its last rows are missing")


def describe(data: bytes) -> Codestream:
    """Any JPEG, JPEG-LS or JPEG 2000 (bare or in a JP2 box). ValueError for anything else."""
    if data.startswith(JPEG_START):
        return _jpeg(data)
    start = data.find(J2K_START + b"\xff\x51")
    if start < 0:
        raise ValueError("no codestream")
    return _jpeg2000(data, start)


def _jpeg(data: bytes) -> Codestream:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte, T.81 B.1.1.2
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in PROCESSES:
            frame = data[at + 4 : at + 2 + length]
            rows, cols = (int.from_bytes(frame[i : i + 2], "big") for i in (1, 3))
            body = data.find(b"\xff\xda", at)  # start of scan
            return Codestream(marker, rows, cols, frame[0], frame[5], False, 0, max(body, 0))
        if 0xC1 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise ValueError("another JPEG process")  # progressive, hierarchical, arithmetic
        at += 2 + length
    raise ValueError("no frame header")


def _jpeg2000(data: bytes, start: int) -> Codestream:
    """The SIZ segment, which must come first (T.800 A.5.1)."""
    size = data[start : start + 43]
    width, height, left, top = (int.from_bytes(size[i : i + 4], "big") for i in (8, 12, 16, 20))
    components, depth = int.from_bytes(size[40:42], "big"), size[42]
    rows, cols, bits = height - top, width - left, (depth & 0x7F) + 1
    body = max(data.find(b"\xff\x90", start), start)  # start of the first tile part
    return Codestream(JPEG_2000, rows, cols, bits, components, depth >= 0x80, start, body)
