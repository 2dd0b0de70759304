"""PNG, JPEG and zip files that cost far more than they weigh, and files that are programs too."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.infer.dicom_files import dx, picture
from tests.infer.encodings import base

MIB = 2**20
PNG = b"\x89PNG\r\n\x1a\n"
PREAMBLES = {
    "MZ": b"MZ\x90\0",
    "ELF": b"\x7fELF\x02\x01\x01",
    "zip": b"PK\x03\x04",
    "script": b"#!/bin/sh\n",
}
Maker = Callable[[], bytes]


def polyglot(start: bytes) -> bytes:
    """A scored DICOM file that is also the beginning of a program (CVE-2019-11687)."""
    whole = base.pack(dx())
    return start + whole[len(start) :]


def chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(width: int, height: int, depth: int, colour: int, data: bytes, more: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG + head + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    packed = [packer.compress(bytes(MIB)) for _ in range(count // MIB)]
    return b"".join(packed) + packer.compress(bytes(count % MIB)) + packer.flush()


def small_png(more: bytes = b"") -> bytes:
    grey = (picture() >> 4).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    return png(36, 40, 8, 0, zlib.compress(rows), more)


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((picture() >> 4).astype(np.uint8)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def resized_jpeg(data: bytes, side: int) -> bytes:
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]


def with_segments(segment: bytes, count: int) -> bytes:
    data = jpeg()
    return data[:2] + segment * count + data[2:]


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again; each walks over all blocks."""
    data = resized_jpeg(jpeg(progressive=True), side)
    at = data.rindex(b"\xff\xda")
    scan = data[at:-2]
    return data[:at] + scan * scans + b"\xff\xd9"


def exif_loop() -> bytes:
    """Exif whose directory points at itself, and holds a value of 4 GiB."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x0112, 3, 2**31, 8)
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entry + struct.pack("<I", 8)
    data = jpeg()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=9) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def nested_zip(depth: int, wide: int = 16) -> bytes:
    """The class of 42.zip: archives in archives, 16 copies at each level."""
    data = zip_of({"a.dcm": bytes(4 * MIB)})
    for _ in range(depth):
        data = zip_of({f"{i}.zip": data for i in range(wide)})
    return data


def overlapping_zip(members: int, size: int) -> bytes:
    """One packed body that all names of the table of contents point at (Fifield, 2019)."""
    data = zip_of({"00000.dcm": bytes(size)})
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[start:end]
    names = (entry.replace(b"00000", b"%05d" % i) for i in range(members))
    return data[:start] + _directory(b"".join(names), members, start)


def quoted_zip(members: int, size: int) -> bytes:
    """Each member begins with a stored block that quotes the next one's header (Fifield, 2019)."""
    kernel = zlib.compress(bytes(size), 9, -zlib.MAX_WBITS)
    body, unpacked, check = kernel, size, zlib.crc32(bytes(size))
    locals_: list[bytes] = []
    rows: list[tuple[bytes, int, int, int, int]] = []
    ahead = 0  # bytes of the file from this member's header to the end of the kernel
    for number in reversed(range(members)):
        name = b"%05d.dcm" % number
        quote = b""
        if locals_:
            quoted = locals_[-1]
            quote = b"\0" + struct.pack("<HH", len(quoted), len(quoted) ^ 0xFFFF)
            unpacked += len(quoted)
            check = zlib.crc32(bytes(size))  # a wrong one: what is read stops at the size first
            body = quote + quoted + body
        header = struct.pack(
            "<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 33, check, len(body), unpacked, len(name), 0
        )
        locals_.append(header + name)
        ahead += len(header) + len(name) + len(quote)
        rows.append((name, check, len(body), unpacked, ahead))
    data = b"".join(
        part
        for i, local in reversed(list(enumerate(locals_)))
        for part in (local, _quote_of(locals_, i))
    )
    data += kernel
    total = len(data)
    table = b"".join(
        struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 33, crc, packed, size_, len(name),
            0, 0, 0, 0, 0, total - len(kernel) - before,
        ) + name
        for name, crc, packed, size_, before in reversed(rows)
    )  # fmt: skip
    return data + _directory(table, members, len(data))


def _quote_of(headers: list[bytes], at: int) -> bytes:
    if at == 0:
        return b""
    size = len(headers[at - 1])
    return b"\0" + struct.pack("<HH", size, size ^ 0xFFFF)


def _directory(table: bytes, members: int, start: int, says: int | None = None) -> bytes:
    count = members if says is None else says
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, count % 65536, count % 65536, len(table), start, 0
    )
    return table + end


def many_members(count: int, says: int | None = None) -> bytes:
    """Empty members; `says` is what the end record claims instead of their number."""
    entry = b"PK\x01\x02" + struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 33, 0, 0, 0, 6, *[0] * 6)
    table = b"".join(entry + b"%06d" % i for i in range(count))
    return _directory(table, count, 0, says)


def zip64_lies() -> bytes:
    """A zip64 record that claims 2^40 members in a table of 2^50 bytes."""
    data = zip_of({"a.dcm": b"x" * 100})
    at = data.rindex(b"PK\x05\x06")
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2**40, 2**40, 2**50, 0)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, at, 1)
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return data[:at] + record + locator + end


def wrong_sizes(size: int, says: int = 100) -> bytes:
    """A member that says it unpacks to 100 bytes."""
    data = zip_of({"a.dcm": bytes(size)})
    return data.replace(struct.pack("<I", size), struct.pack("<I", says))


def all_bombs(size: float = 1.0) -> dict[str, tuple[str, Maker]]:
    """Name → suffix and maker; as in `bombs_dicom`."""
    n = lambda number: max(10, int(number * size))  # noqa: E731
    side = n(8192)
    pictures: dict[str, Maker] = {
        "PNG of 60,000 x 60,000": lambda: png(60_000, 60_000, 1, 0, zeros(n(450 * MIB))),
        "PNG of 8192 x 8192 zeros, RGB": lambda: png(
            side, side, 8, 2, zeros(side * (3 * side + 1))
        ),
        "PNG of 8192 x 8192 zeros, 16 bits": lambda: png(
            side, side, 16, 0, zeros(side * (2 * side + 1))
        ),
        "PNG of 8192 x 8192, no data": lambda: png(8192, 8192, 8, 0, zlib.compress(b"")),
        "PNG with more data than pixels": lambda: png(36, 40, 8, 0, zeros(n(250 * MIB))),
        "PNG with a text of 500 MiB": lambda: small_png(
            chunk(b"zTXt", b"Software\0\0" + zeros(n(500 * MIB)))
        ),
        "PNG with a colour profile of 500 MiB": lambda: small_png(
            chunk(b"iCCP", b"x\0\0" + zeros(n(500 * MIB)))
        ),
        "PNG with 1,000,000 chunks": lambda: small_png(chunk(b"tEXt", b"a\0b") * n(1_000_000)),
        "PNG with 10,000,000 empty chunks": lambda: small_png(chunk(b"IDAT", b"") * n(10_000_000)),
        "JPEG of 65,500 x 65,500": lambda: resized_jpeg(jpeg(), 65_500),
        "JPEG of 8192 x 8192 in 1 kB": lambda: resized_jpeg(jpeg(), 8192),
        "progressive JPEG of 8192 x 8192": lambda: resized_jpeg(jpeg(progressive=True), 8192),
        "progressive JPEG of 4,000 scans": lambda: many_scans(8192, n(4_000)),
        "JPEG with 60,000 segments": lambda: with_segments(b"\xff\xe1\0\x08Exif\0\0", n(60_000)),
        "JPEG with 1,000,000 comments": lambda: with_segments(b"\xff\xfe\0\x03x", n(1_000_000)),
        "JPEG whose Exif points at itself": exif_loop,
    }
    zips: dict[str, Maker] = {
        "zip of 250 MiB of zeros": lambda: zip_of({"a.dcm": bytes(n(250 * MIB))}),
        "zip of 10,000 members of zeros": lambda: zip_of(
            {f"{i}.dcm": bytes(100_000) for i in range(n(10_000))}
        ),
        "zip in zips, five deep": lambda: nested_zip(5),
        "zip of 9,000 overlapping members": lambda: overlapping_zip(n(9_000), n(10 * MIB)),
        "zip of 9,000 quoted members": lambda: quoted_zip(n(9_000), n(10 * MIB)),
        "zip of 100,000 members": lambda: many_members(n(100_000)),
        "zip of 150,000 members that says 1": lambda: many_members(n(150_000), 1),
        "zip64 that claims 2^40 members": zip64_lies,
        "zip of 200 MiB that says 100 bytes": lambda: wrong_sizes(n(200 * MIB)),
        "zip of nothing but end records": lambda: b"PK\x05\x06" * n(MIB),
    }
    found = {name: (".png" if name[:3] == "PNG" else ".jpg", m) for name, m in pictures.items()}
    return found | {name: (".zip", maker) for name, maker in zips.items()}
