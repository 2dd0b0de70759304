"""DICOM files as lists of elements that may lie (PS3.5 section 7): read strictly, written freely.

pydicom would put right what the mutator wants wrong, so it is not used here.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

UNDEFINED = 0xFFFFFFFF
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
IMPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass
class Element:
    """One of `items` (a sequence), `fragments` (encapsulated pixels) and `value` counts."""

    tag: int
    vr: bytes  # in implicit files too, when known; b"" otherwise
    value: bytes = b""
    items: list[list[Element]] | None = None
    fragments: list[bytes] | None = None
    undefined: bool = False
    closed: bool = True  # an undefined length ends with its delimiter
    length: int | None = None  # what is written, whatever the value's own length


@dataclass
class File:
    preamble: bytes
    meta: list[Element]
    body: list[Element]
    explicit: bool = True
    little: bool = True
    deflated: bool = False

    def find(self, tag: int) -> Element | None:
        return next((e for e in self.body if e.tag == tag), None)


@dataclass
class Coding:
    """How tags, VRs and lengths are written."""

    explicit: bool
    little: bool
    order: str = field(init=False)

    def __post_init__(self) -> None:
        self.order = "<" if self.little else ">"

    def tag(self, tag: int) -> bytes:
        return struct.pack(self.order + "HH", tag >> 16 & 0xFFFF, tag & 0xFFFF)

    def head(self, tag: int, vr: bytes, length: int) -> bytes:
        head = self.tag(tag)
        if not self.explicit or tag >> 16 == 0xFFFE:
            return head + struct.pack(self.order + "I", length & UNDEFINED)
        if vr in LONG:
            return head + vr + b"\0\0" + struct.pack(self.order + "I", length & UNDEFINED)
        return head + vr.ljust(2, b"\0") + struct.pack(self.order + "H", length & 0xFFFF)


def read(data: bytes) -> File:
    """A well-formed file, with or without preamble. ValueError or struct.error otherwise."""
    bare = data[128:132] != b"DICM"
    preamble = b"" if bare else data[:132]
    meta: list[Element] = []
    at = len(preamble)
    if data[at : at + 2] == b"\x02\x00":
        meta, at = _elements(data, at, len(data), Coding(True, True), stop_group=2)
    syntax = next((e.value.rstrip(b"\0 ").decode() for e in meta if e.tag == 0x00020010), IMPLICIT)
    explicit, little, deflated = syntax != IMPLICIT, syntax != BIG, syntax == DEFLATED
    rest = zlib.decompress(data[at:], -zlib.MAX_WBITS) if deflated else data[at:]
    body, _ = _elements(rest, 0, len(rest), Coding(explicit, little))
    return File(preamble, meta, body, explicit, little, deflated)


def written(file: File) -> bytes:
    meta = b"".join(_written(e, Coding(True, True)) for e in file.meta)
    body = b"".join(_written(e, Coding(file.explicit, file.little)) for e in file.body)
    if file.deflated:
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
        body += b"\0" * (len(body) % 2)
    return file.preamble + meta + body


def _elements(
    data: bytes, at: int, end: int, coding: Coding, stop_group: int | None = None
) -> tuple[list[Element], int]:
    found: list[Element] = []
    while at + 8 <= end:
        group, number = struct.unpack_from(coding.order + "HH", data, at)
        tag = group << 16 | number
        if tag in (ITEM_END, SEQUENCE_END):
            return found, at + 8
        if stop_group is not None and group != stop_group:
            break
        vr, start, length = _head(data, at, coding)
        element = Element(tag, vr, undefined=length == UNDEFINED)
        if tag == PIXEL_DATA and element.undefined:
            element.fragments, at = _fragments(data, start, coding)
        elif vr == b"SQ" or element.undefined:
            stop = end if element.undefined else start + length
            element.items, at = _items(data, start, stop, coding)
        else:
            at = start + length
            element.value = data[start:at]
        found.append(element)
    return found, at


def _head(data: bytes, at: int, coding: Coding) -> tuple[bytes, int, int]:
    """VR, where the value starts, its length."""
    if not coding.explicit:
        return b"", at + 8, struct.unpack_from(coding.order + "I", data, at + 4)[0]
    vr = data[at + 4 : at + 6]
    if vr in LONG:
        return vr, at + 12, struct.unpack_from(coding.order + "I", data, at + 8)[0]
    return vr, at + 8, struct.unpack_from(coding.order + "H", data, at + 6)[0]


def _items(data: bytes, at: int, end: int, coding: Coding) -> tuple[list[list[Element]], int]:
    items: list[list[Element]] = []
    while at + 8 <= end:
        group, number, length = struct.unpack_from(coding.order + "HHI", data, at)
        if (group << 16 | number) != ITEM:
            return items, at + 8
        stop = end if length == UNDEFINED else at + 8 + length
        inside, at = _elements(data, at + 8, stop, coding)
        items.append(inside)
    return items, at


def _fragments(data: bytes, at: int, coding: Coding) -> tuple[list[bytes], int]:
    fragments: list[bytes] = []
    while at + 8 <= len(data):
        group, number, length = struct.unpack_from(coding.order + "HHI", data, at)
        at += 8
        if (group << 16 | number) != ITEM:
            break
        fragments.append(data[at : at + length])
        at += length
    return fragments, at


def _written(element: Element, coding: Coding) -> bytes:
    value = element.value
    if element.fragments is not None:
        value = b"".join(coding.head(ITEM, b"", len(f)) + f for f in element.fragments)
    elif element.items is not None:
        parts = [b"".join(_written(e, coding) for e in item) for item in element.items]
        if element.undefined:
            end = coding.head(ITEM_END, b"", 0)
            parts = [coding.head(ITEM, b"", UNDEFINED) + part + end for part in parts]
        else:
            parts = [coding.head(ITEM, b"", len(part)) + part for part in parts]
        value = b"".join(parts)
    length = element.length
    if length is None:
        length = UNDEFINED if element.undefined else len(value)
    end = coding.head(SEQUENCE_END, b"", 0) if element.undefined and element.closed else b""
    return coding.head(element.tag, element.vr, length) + value + end
