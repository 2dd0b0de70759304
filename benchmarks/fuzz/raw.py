"""Mutations that know nothing of a format: bits, bytes, ranges."""

from __future__ import annotations

import random

ODD = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255)
WIDE = (256, 257, 4095, 4096, 32767, 32768, 65534, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def odd_number(rng: random.Random, width: int) -> int:
    """A number of `width` bytes at which programs tend to err."""
    if rng.random() < 0.2:
        return rng.randrange(256**width)
    return rng.choice(ODD + WIDE) % 256**width


def any_bytes(rng: random.Random, size: int) -> bytes:
    if rng.random() < 0.3:
        return bytes([rng.choice((0, 255, 0x41, 0x20))]) * size
    return rng.randbytes(size)


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """1 to 16 bytes set or one bit flipped."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16)) if changed else 0):
        at = rng.randrange(len(changed))
        changed[at] = rng.choice(
            (0, 255, 127, 128, rng.randrange(256), changed[at] ^ 1 << rng.randrange(8))
        )
    return bytes(changed)


def change_range(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Truncate, insert, delete, repeat, overwrite, exchange, or splice with another file."""
    at = rng.randrange(len(data) + 1)
    size = rng.choice((1, 2, 3, 8, 64, 500))
    piece = data[at : at + size]
    choice = rng.randrange(7)
    if choice == 0:
        return data[:at]
    if choice == 1:
        return data[:at] + any_bytes(rng, size) + data[at:]
    if choice == 2:
        return data[:at] + data[at + size :]
    if choice == 3:
        return data[:at] + piece * rng.choice((2, 3, 50)) + data[at + size :]
    if choice == 4:
        return data[:at] + any_bytes(rng, len(piece)) + data[at + size :]
    if choice == 5:
        to = rng.randrange(len(data) + 1)
        rest = data[:at] + data[at + size :]
        return rest[:to] + piece + rest[to:]
    return data[:at] + other[rng.randrange(len(other) + 1) :]
