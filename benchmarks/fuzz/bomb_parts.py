"""What bombs are made of: elements, sequences, fragments and codestreams that cost too much."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from pydicom import Dataset

from tests.infer.dicom_files import dx, picture, raw_element
from tests.infer.encodings import base, codecs

MIB = 2**20
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
UNDEFINED, NONE = b"\xff\xff\xff\xff", b"\0\0\0\0"
PIXELS = b"\xe0\x7f\x10\x00"
Maker = Callable[[], bytes]


def inserted(extra: bytes, ds: Dataset | None = None) -> bytes:
    """A scored file with raw elements before its pixels."""
    whole = base.pack(dx() if ds is None else ds)
    at = whole.rindex(PIXELS)
    return whole[:at] + extra + whole[at:]


def long_element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, len(value))
    return head + value


def declared(**tags: int) -> bytes:
    """The pixel module's own numbers, as UL where US can't hold them."""
    ds = dx()
    extra = b""
    for keyword, number in tags.items():
        if keyword in ds:
            del ds[keyword]
        if number < 65536:
            extra += raw_element(keyword, b"US", struct.pack("<H", number))
        else:
            extra += raw_element(keyword, b"UL", struct.pack("<I", number))
    return inserted(extra, ds)


def deflated(body: bytes) -> bytes:
    """A deflated file: a header in order, then `body` at zlib's best ratio."""
    ds = dx()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    whole = base.pack(ds)
    meta = whole.index(b"\x08\x00\x16\x00")
    head = whole[:meta]
    uid, new = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    old = raw_element("TransferSyntaxUID", b"UI", uid)
    head = head.replace(old, raw_element("TransferSyntaxUID", b"UI", new))
    head = head[:140] + struct.pack("<I", len(head) - 144) + head[144:]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(whole[meta : whole.rindex(PIXELS)])
    for at in range(0, len(body), MIB):
        packed += packer.compress(body[at : at + MIB])
    return head + packed + packer.flush()


def nested(depth: int, defined: bool = False, tag: int = 0x00283000) -> bytes:
    """Sequences in sequences. Of defined length each needs the sum of all below it."""
    if not defined:
        return inserted(nested_sequences(depth, tag))
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0"
    parts = []
    size = 20 * depth
    for _ in range(depth):
        parts.append(start + struct.pack("<I", size - 12) + ITEM + struct.pack("<I", size - 20))
        size -= 20
    return inserted(b"".join(parts))


def nested_sequences(depth: int, tag: int = 0x00283000) -> bytes:
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0"
    opened = (start + UNDEFINED + ITEM + UNDEFINED) * depth
    return opened + (ITEM_END + NONE + SEQUENCE_END + NONE) * depth


def implicit_nested(depth: int) -> bytes:
    ds = dx()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    opened = (b"\x28\x00\x00\x30" + UNDEFINED + ITEM + UNDEFINED) * depth
    return inserted(opened + (ITEM_END + NONE + SEQUENCE_END + NONE) * depth, ds)


def unknown_nested(depth: int) -> bytes:
    """UN of undefined length holds implicit VR sequences (PS3.5 6.2.2)."""
    start = b"\x09\x00\x01\x10UN\0\0" + UNDEFINED + ITEM + UNDEFINED
    deeper = (b"\x09\x00\x01\x10" + UNDEFINED + ITEM + UNDEFINED) * depth
    return inserted(start + deeper + (ITEM_END + NONE + SEQUENCE_END + NONE) * (depth + 1))


def many_elements(count: int) -> bytes:
    """Empty private elements, 8 bytes each, all different."""
    return inserted(empty_elements(count))


def empty_elements(count: int) -> bytes:
    table = np.zeros((count, 8), np.uint8)
    numbers = np.arange(count, dtype=np.uint32)
    groups = (0x0009 + 2 * (numbers // 61440)).astype("<u2")
    table[:, 0:2] = groups.view(np.uint8).reshape(-1, 2)
    table[:, 2:4] = (0x1000 + numbers % 61440).astype("<u2").view(np.uint8).reshape(-1, 2)
    table[:, 4:6] = np.frombuffer(b"LO", np.uint8)
    return table.tobytes()


def many_items(count: int, inside: bytes = b"", keyword: bytes = b"\x28\x00\x10\x30") -> bytes:
    """A VOI LUT sequence of `count` items."""
    body = (ITEM + struct.pack("<I", len(inside)) + inside) * count
    return inserted(keyword + b"SQ\0\0" + struct.pack("<I", len(body)) + body)


def many_fragments(count: int, table: int = 0) -> bytes:
    stream = codecs.jpeg_ls_stream(picture())
    ds = base.compressed(dx(), codecs.JPEG_LS, stream)
    ds.PixelData = base.item(NONE * table) + (ITEM + NONE) * count + base.item(stream)
    return base.pack(ds)


def one_byte_fragments() -> bytes:
    """A codestream cut into fragments of two bytes, then a million more of nothing."""
    stream = codecs.jpeg_ls_stream(picture())
    parts = [stream[i : i + 2] for i in range(0, len(stream), 2)]
    return base.pack(base.compressed(dx(), codecs.JPEG_LS, *parts))


def huge_lut(entries: int, sequence: int = 0x00283010) -> bytes:
    lut = struct.pack("<HH2sH3H", 0x28, 0x3002, b"US", 6, 0, 0, 16)
    lut += long_element(0x00283006, b"OW", b"\1\2" * entries)
    return inserted(long_element(sequence, b"SQ", ITEM + struct.pack("<I", len(lut)) + lut))


def repeated_value(keyword: str, vr: bytes, value: bytes, count: int) -> bytes:
    """A multi-valued text; over 64 KiB only implicit VR can hold it."""
    ds = dx()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    if keyword in ds:
        del ds[keyword]
    many = value * count
    return inserted(raw_element(keyword, b"", many + b" " * (len(many) % 2)), ds)


def claims(syntax: str, stream: bytes, rows: int, cols: int, at: int, order: str) -> bytes:
    """A codestream whose own size field at `at` is overwritten, the header agreeing."""
    size = struct.pack(order, *((cols, rows) if order == ">II" else (rows, cols)))
    stream = stream[:at] + size + stream[at + len(size) :]
    ds = dx(Rows=rows, Columns=cols)
    if syntax == codecs.JPEG_BASELINE:
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit = 7
    return base.pack(base.compressed(ds, syntax, stream))


def padded(stream: bytes, size: int) -> bytes:
    """A JPEG stream made long with fill in comment segments, so that no ratio looks odd."""
    comment = b"\xff\xfe\xff\xff" + b"\0" * 65533
    return stream[:2] + comment * (size // len(comment)) + stream[2:]


def jpeg2000(
    rows: int, cols: int, tile: int = 0, components: int = 1, layers: int = 0, levels: int = -1,
    padding: int = 0,
) -> bytes:  # fmt: skip
    """A real codestream with some of its SIZ and COD fields overwritten (T.800 A.5, A.6)."""
    stream = bytearray(codecs.jpeg_2000(picture()))
    siz, cod = stream.index(b"\xff\x51"), stream.index(b"\xff\x52")
    struct.pack_into(">II", stream, siz + 6, cols, rows)
    struct.pack_into(">II", stream, siz + 22, tile or cols, tile or rows)
    if layers:
        struct.pack_into(">H", stream, cod + 6, layers)
    if levels >= 0:
        stream[cod + 9] = levels
    if components > 1:
        size = int.from_bytes(stream[siz + 2 : siz + 4], "big") + 3 * (components - 1)
        struct.pack_into(">H", stream, siz + 2, size % 65536)
        struct.pack_into(">H", stream, siz + 38, components % 65536)
        stream[siz + 43 : siz + 43] = stream[siz + 40 : siz + 43] * (components - 1)
    stream += b"\0" * padding
    ds = dx(Rows=rows, Columns=cols)
    return base.pack(base.compressed(ds, codecs.J2K_LOSSLESS, bytes(stream)))


def tiled_jpeg2000(tiles: int) -> bytes:
    """Every tile of a large picture is there, and empty: one SOT each, no packets."""
    side = int(tiles**0.5)
    stream = bytearray(codecs.jpeg_2000(picture()))
    siz, sot = stream.index(b"\xff\x51"), stream.index(b"\xff\x90")
    struct.pack_into(">II", stream, siz + 6, side * 32, side * 32)
    struct.pack_into(">II", stream, siz + 22, 32, 32)
    parts = [struct.pack(">HHHIBB", 0xFF90, 10, i, 14, 0, 1) + b"\xff\x93" for i in range(side**2)]
    stream[sot:] = b"".join(parts) + b"\xff\xd9"
    ds = dx(Rows=side * 32, Columns=side * 32)
    return base.pack(base.compressed(ds, codecs.J2K_LOSSLESS, bytes(stream)))


def run_length(rows: int, cols: int, packet: bytes, each: int) -> bytes:
    """RLE of 8 bits whose packets stand for `each` bytes."""
    count = -(-rows * cols // each)
    stream = struct.pack("<16I", 1, 64, *[0] * 14) + packet * count
    ds = dx(np.zeros((2, 2), np.uint8), 8, Rows=rows, Columns=cols)
    return base.pack(base.compressed(ds, "1.2.840.10008.1.2.5", stream))


def stretched(side: int) -> bytes:
    """Pixels of 1:4, made square: four times as many."""
    row = np.arange(side, dtype=np.uint8)
    grey = row[:, None] // 2 + row // 2
    return base.pack(dx(grey, 8, PixelAspectRatio=[4, 1]))


def palette(entries: int) -> bytes:
    ds = dx((picture() >> 4).astype(np.uint8), 8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [0, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", b"\1\2" * entries)
    return base.pack(ds)


def escapes(size: int) -> bytes:
    """Text that changes its character set with every letter (PS3.5 6.1.2.5)."""
    ds = dx(SpecificCharacterSet=["", "ISO 2022 IR 87", "ISO 2022 IR 149"])
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    text = b"\x1b$B\x30\x21\x1b(B^=" * (size // 10)
    return inserted(raw_element("SeriesDescription", b"", text), ds)
