"""Mutations of zip files: what headers say, and what the table of contents says of them."""

from __future__ import annotations

import random

from benchmarks.fuzz.raw import any_bytes, change_bytes, odd_number

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
WIDE = {LOCAL: (14, 18, 22), CENTRAL: (16, 20, 24, 38, 42), END: (12, 16)}
NARROW = {  # offsets of the 4-byte and 2-byte numbers behind each signature (APPNOTE 4.3)
    LOCAL: (4, 6, 8, 26, 28),
    CENTRAL: (8, 10, 28, 30, 32),
    END: (4, 6, 8, 10, 20),
}
NAMES = (b"../../x", b"/etc/x", b"C:\\x\\y", b"a/\0b.dcm", b"\xff\xfe\x80", b"a.zip", b"")


def mutate_zip(data: bytes, rng: random.Random) -> bytes:
    kind = rng.choice((LOCAL, CENTRAL, CENTRAL, END))
    places = [at for at in range(len(data) - 3) if data.startswith(kind, at)]
    if not places or rng.random() < 0.2:
        return change_bytes(data, rng)
    at = rng.choice(places)
    changed = bytearray(data)
    if kind != END and rng.random() < 0.2:
        name = at + (30 if kind == LOCAL else 46)
        new = rng.choice((*NAMES, any_bytes(rng, 5)))
        changed[name : name + len(new)] = new
        return bytes(changed)
    if rng.random() < 0.1:  # a record twice or not at all
        end = at + rng.choice((22, 30, 46, 60))
        return data[:at] + data[at:end] * rng.choice((0, 2, 3)) + data[end:]
    offset = rng.choice(WIDE[kind] + NARROW[kind])
    width = 4 if offset in WIDE[kind] else 2
    value = odd_number(rng, width) if rng.random() < 0.7 else rng.randrange(len(data))
    changed[at + offset : at + offset + width] = (value % 256**width).to_bytes(width, "little")
    return bytes(changed)
