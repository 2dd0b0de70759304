"""Mutations of compressed pictures: marker segments of the JPEG family, RLE headers, PNG chunks."""

from __future__ import annotations

import random
import struct
import zlib

from benchmarks.fuzz.raw import any_bytes, change_bytes, odd_number

FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)
MARKERS = (*FRAMES, 0xC4, 0xC8, 0xCC, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE, 0xF8, 0xFE)
J2K_MARKERS = (0x51, 0x52, 0x53, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64, 0x90, 0x50, 0x59)
START_OF_SCAN, START_OF_DATA, SIZ = 0xDA, 0x93, 0x51
PNG = b"\x89PNG\r\n\x1a\n"


def mutate_stream(stream: bytes, rng: random.Random) -> tuple[bytes, tuple[int, int] | None]:
    """A changed codestream and, when its own Rows and Columns were changed, those."""
    if stream.startswith(PNG):
        return _mutate_png(stream, rng), None
    start = 0 if stream.startswith(b"\xff\xd8") else stream.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return _mutate_rle(stream, rng), None
    box, head = stream[:start], stream[start : start + 2]
    segments, data = _segments(stream[start + 2 :])
    size = None
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        choice = rng.randrange(10)
        if choice == 0 or not segments:
            data = _mutate_scan(data, rng)
        elif choice == 1:
            size = _resize(segments, rng) or size
        else:
            _mutate_segments(segments, rng, choice, head == b"\xff\x4f")
    body = b"".join(bytes((0xFF, m)) + struct.pack(">H", n & 0xFFFF) + p for m, n, p in segments)
    return box + head + body + data, size


def _segments(stream: bytes) -> tuple[list[tuple[int, int, bytes]], bytes]:
    """(marker, length as written, payload) up to the first scan or tile data, then the rest."""
    segments: list[tuple[int, int, bytes]] = []
    at = 0
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] != START_OF_DATA:
        marker, length = stream[at + 1], struct.unpack_from(">H", stream, at + 2)[0]
        segments.append((marker, length, stream[at + 4 : at + 2 + length]))
        at += 2 + length
        if marker == START_OF_SCAN:
            break
    return segments, stream[at:]


def _mutate_segments(
    segments: list[tuple[int, int, bytes]], rng: random.Random, choice: int, j2k: bool
) -> None:
    at = rng.randrange(len(segments))
    marker, length, payload = segments[at]
    if choice == 2:
        segments[at] = (marker, rng.choice((0, 1, 2, length - 1, length + 1, 0xFFFF)), payload)
    elif choice == 3:
        segments.insert(rng.randrange(len(segments) + 1), segments[at])
    elif choice == 4:
        del segments[at]
    elif choice == 5:
        other = rng.randrange(len(segments))
        segments[at], segments[other] = segments[other], segments[at]
    elif choice == 6:
        payload = any_bytes(rng, rng.choice((0, 1, 2, 20, 300)))
        new = rng.choice(J2K_MARKERS if j2k else MARKERS)
        segments.insert(at, (new, len(payload) + 2, payload))
    elif choice == 7:
        segments[at] = (rng.choice(J2K_MARKERS if j2k else MARKERS), length, payload)
    elif payload:
        changed = bytearray(payload)
        width = rng.choice((1, 1, 2, 4))
        place = rng.randrange(max(1, len(changed) - width + 1))
        value = odd_number(rng, width)
        changed[place : place + width] = value.to_bytes(width, "big")
        segments[at] = (marker, length, bytes(changed[: len(payload)]))


def _resize(segments: list[tuple[int, int, bytes]], rng: random.Random) -> tuple[int, int] | None:
    """Another size in the frame header; the caller lets the DICOM header agree."""
    for at, (marker, length, payload) in enumerate(segments):
        rows, cols = (rng.choice((1, 2, 35, 36, 40, 41, 80, 255, 1000, 8192)) for _ in "ab")
        if marker in FRAMES and len(payload) >= 5:
            payload = payload[:1] + struct.pack(">HH", rows, cols) + payload[5:]
        elif marker == SIZ and len(payload) >= 26:
            tile = rng.choice((0, 1, 2, 3, 64))  # 1: one tile of the new size
            sizes = [cols, rows] if tile else []
            payload = payload[:2] + struct.pack(">II", cols, rows) + payload[10:]
            if tile == 1:
                payload = payload[:18] + struct.pack(">II", *sizes) + payload[26:]
            elif tile:
                payload = payload[:18] + struct.pack(">II", tile, tile) + payload[26:]
        else:
            continue
        segments[at] = (marker, length, payload)
        return rows, cols
    return None


def _mutate_scan(data: bytes, rng: random.Random) -> bytes:
    choice = rng.randrange(5)
    at = rng.randrange(len(data) + 1)
    if choice == 0:
        return data[:at]
    if choice == 1:
        return data[:at] + bytes((0xFF, rng.choice((*MARKERS, 0xD0, 0xD7, 0x90, 0x93)))) + data[at:]
    if choice == 2:
        return data[:at] + any_bytes(rng, rng.randrange(1, 40)) + data[at:]
    if choice == 3:
        return data[:at] + data[at + rng.randrange(1, 40) :]
    return change_bytes(data, rng)


def _mutate_rle(data: bytes, rng: random.Random) -> bytes:
    """The header of 16 numbers (PS3.5 G.5), or the packets behind it."""
    changed = bytearray(data)
    if len(changed) >= 64 and rng.random() < 0.5:
        at = rng.randrange(rng.choice((1, 4, 16))) * 4
        changed[at : at + 4] = odd_number(rng, 4).to_bytes(4, "little")
        return bytes(changed)
    return _mutate_scan(bytes(changed), rng)


def _mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Chunks whose checksums are right nearly always; pixels are changed before the deflate."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(PNG)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(rng.choice((1, 1, 2))):
        _mutate_chunk(chunks, rng)
    found = PNG
    for kind, body in chunks:
        check = zlib.crc32(kind + body) ^ (rng.random() < 0.02)
        size = len(body) if rng.random() < 0.98 else odd_number(rng, 4)
        found += struct.pack(">I", size) + kind + body + struct.pack(">I", check)
    return found


def _mutate_chunk(chunks: list[tuple[bytes, bytes]], rng: random.Random) -> None:
    if not chunks:
        return
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    choice = rng.randrange(6)
    if choice == 0:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
    elif choice == 1:
        del chunks[at]
    elif choice == 2:
        new = rng.choice((b"PLTE", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"IDAT"))
        chunks.insert(at, (new, any_bytes(rng, rng.choice((0, 3, 26, 200)))))
    elif kind == b"IDAT" and choice < 5:
        try:
            chunks[at] = (kind, zlib.compress(change_bytes(zlib.decompress(body), rng)))
        except zlib.error:
            chunks[at] = (kind, change_bytes(body, rng))
    elif kind == b"IHDR" and choice < 5:
        place = rng.choice((0, 4, 8, 9, 10, 11, 12))
        width = 4 if place < 8 else 1
        value = odd_number(rng, width).to_bytes(width, "big")
        chunks[at] = (kind, body[:place] + value + body[place + width :])
    else:
        chunks[at] = (kind, change_bytes(body, rng))
