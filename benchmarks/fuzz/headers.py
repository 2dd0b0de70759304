"""Mutations of DICOM elements: tags, VRs, lengths, values, sequences, fragments."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from benchmarks.fuzz.codestreams import mutate_stream
from benchmarks.fuzz.elements import LONG, PIXEL_DATA, UNDEFINED, Element, File
from benchmarks.fuzz.raw import any_bytes, change_bytes, odd_number
from tier_infer.dicom.syntaxes import SYNTAXES

VRS = (
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN",
    b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US", b"ZZ", b"\0\0", b"  ", *LONG,
)  # fmt: skip
READ = (  # what the reader asks for, and what pydicom looks at by itself
    0x00020010, 0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00080068, 0x00080070,
    0x0008103E, 0x00082111, 0x00082218, 0x00100020, 0x00101010, 0x00100030, 0x00080020, 0x00180015,
    0x00181164, 0x00185101, 0x0020000D, 0x00200020, 0x00280002, 0x00280004, 0x00280006, 0x00280008,
    0x00280010, 0x00280011, 0x00280030, 0x00280034, 0x00280100, 0x00280101, 0x00280102, 0x00280103,
    0x00280120, 0x00280121, 0x00280301, 0x00281040, 0x00281050, 0x00281051, 0x00281052, 0x00281053,
    0x00281056, 0x00281101, 0x00281102, 0x00281201, 0x00282110, 0x00282112, 0x00283000, 0x00283002,
    0x00283006, 0x00283010, 0x00540220, 0x20500020, 0x20500010, 0x7FE00010, 0x7FE00001, 0x7FE00002,
    0x00041220, 0x60003000, 0x00091001, 0xFFFCFFFC, 0xFFFEE000, 0xFFFEE0DD, 0x00000000,
)  # fmt: skip
NUMBERS = {0x00280002, 0x00280006, *range(0x00280010, 0x00280012), *range(0x00280100, 0x00280104)}
TEXTS = (
    b"", b" ", b"0", b"-1", b"1", b"2", b"1e309", b"-1e309", b"1e-320", b"nan", b"inf", b"-0",
    b"1_0", b"0x10", b"9" * 40, b"1\\2", b"\\", b"1\\\\3", b"0.5\\-7\\1e5", b"\xff\xfe", b"\0\0",
    b"NONE", b"PA", b"MONOCHROME1", b"MONOCHROME2", b"RGB", b"YBR_FULL", b"YBR_FULL_422",
    b"YBR_RCT", b"INVERSE", b"PALETTE COLOR", b"IDENTITY", b"SIGMOID", b"LINEAR_EXACT", b"LIN",
    b"F\\R", b"A\\F", b"01", b"YES", b"FOR PROCESSING", b"ISO_IR 100", b"\\ISO 2022 IR 87",
    b"ISO 2022 IR 149", b"GB18030", b"LATERAL", b"\x1b$B\x1b(B", b"1.2.840.10008.1.3.10", b"001D",
    b"999Y", b"a" * 70000,
)  # fmt: skip
MPEG = "1.2.840.10008.1.2.4.100"
Change = Callable[[File, random.Random], None]


def change_vr(file: File, rng: random.Random) -> None:
    _any(file, rng).vr = rng.choice(VRS)


def lie_of_length(file: File, rng: random.Random) -> None:
    element = _any(file, rng)
    true = len(element.value)
    element.length = rng.choice(
        (0, 1, true - 1, true + 1, true + 2, true * 2, 0x7FFFFFFF, UNDEFINED - 1, UNDEFINED, 2**20)
    )


def undefine_length(file: File, rng: random.Random) -> None:
    element = _any(file, rng)
    element.undefined, element.closed = not element.undefined, rng.random() < 0.7


def copy_element(file: File, rng: random.Random) -> None:
    elements = _list(file, rng)
    elements.insert(rng.randrange(len(elements) + 1), rng.choice(elements))


def delete_element(file: File, rng: random.Random) -> None:
    elements = _list(file, rng)
    if len(elements) > 1:
        del elements[rng.randrange(len(elements))]


def exchange_elements(file: File, rng: random.Random) -> None:
    elements = _list(file, rng)
    one, two = rng.randrange(len(elements)), rng.randrange(len(elements))
    elements[one], elements[two] = elements[two], elements[one]


def retag(file: File, rng: random.Random) -> None:
    _any(file, rng).tag = rng.choice(READ)


def insert_element(file: File, rng: random.Random) -> None:
    """Any value under a tag that is read, with any VR."""
    value = rng.choice(TEXTS) if rng.random() < 0.6 else any_bytes(rng, rng.choice((1, 2, 6, 600)))
    element = Element(rng.choice(READ), rng.choice(VRS), value, undefined=rng.random() < 0.05)
    elements = _list(file, rng)
    elements.insert(rng.randrange(len(elements) + 1), element)


def odd_value(file: File, rng: random.Random) -> None:
    element = _any(file, rng)
    choice = rng.randrange(5)
    if choice == 0:
        element.value = rng.choice(TEXTS)
    elif choice == 1:
        element.value = change_bytes(element.value, rng)
    elif choice == 2:
        element.value = element.value[: rng.randrange(len(element.value) + 1)]
    elif choice == 3:
        element.value = (element.value + b"\\") * rng.choice((2, 3, 100))
    else:
        width = rng.choice((2, 2, 2, 4, 8))
        numbers = (odd_number(rng, width) for _ in range(rng.choice((1, 1, 2, 3))))
        element.value = b"".join(n.to_bytes(width, _end(file)) for n in numbers)


def odd_number_of_pixels(file: File, rng: random.Random) -> None:
    """Rows, Columns, bits, samples, sign: one or two of them wrong."""
    found = [e for e in file.body if e.tag in NUMBERS]
    for element in rng.sample(found, min(len(found), rng.choice((1, 1, 2, 3)))):
        element.value = odd_number(rng, 2).to_bytes(2, _end(file))


def same_pixels_reshaped(file: File, rng: random.Random) -> None:
    """Rows and Columns whose product stays, or halves with twice the bits."""
    rows, cols, bits = (file.find(t) for t in (0x00280010, 0x00280011, 0x00280100))
    if rows is None or cols is None or bits is None:
        return
    if rng.random() < 0.5:
        rows.value, cols.value = cols.value, rows.value
        return
    factor = rng.choice((2, 4, 8))
    number = int.from_bytes(rows.value[:2], _end(file))
    other = int.from_bytes(cols.value[:2], _end(file))
    rows.value = (number * factor % 65536).to_bytes(2, _end(file))
    cols.value = (other // factor).to_bytes(2, _end(file))


def other_syntax(file: File, rng: random.Random) -> None:
    for element in file.meta:
        if element.tag == 0x00020010:
            uid = rng.choice((*SYNTAXES, *SYNTAXES, MPEG, "1.2.840.10008.1.1", ""))
            element.value = uid.encode() + b"\0" * (len(uid) % 2)


def nest(file: File, rng: random.Random) -> None:
    elements = _list(file, rng)
    inside = [Element(rng.choice(READ), b"LO", b"deep")]
    for _ in range(rng.choice((1, 2, 5, 30, 40, 120))):
        sequence = Element(rng.choice((0x00283000, 0x00540220, 0x00082218, 0x00091001)), b"SQ")
        sequence.items, sequence.undefined = [inside], rng.random() < 0.8
        inside = [sequence]
    elements.insert(rng.randrange(len(elements) + 1), inside[0])


def change_items(file: File, rng: random.Random) -> None:
    found = [e for e in file.body if e.items is not None]
    if not found:
        return nest(file, rng)
    element = rng.choice(found)
    assert element.items is not None
    choice = rng.randrange(5)
    if choice == 0:
        element.items *= rng.choice((0, 2, 300))
    elif choice == 1:
        element.items.append([])
    elif choice == 2:
        element.closed, element.undefined = False, True
    elif choice == 3:
        element.items, element.value = None, any_bytes(rng, rng.choice((0, 4, 8, 100)))
    else:
        element.items.append([Element(0x7FE00010, b"OW", any_bytes(rng, 100))])
    return None


def change_fragments(file: File, rng: random.Random) -> None:
    element = file.find(PIXEL_DATA)
    if element is None or not element.fragments:
        return odd_value(file, rng)
    parts = element.fragments
    at = rng.randrange(len(parts))
    choice = rng.randrange(9)
    if choice == 0:
        cut = rng.randrange(len(parts[at]) + 1)
        parts[at : at + 1] = [parts[at][:cut], parts[at][cut:]]
    elif choice == 1:
        del parts[at]
    elif choice == 2:
        parts.insert(at, parts[at])
    elif choice == 3:
        parts[at:at] = [b""] * rng.choice((1, 2, 1000))
    elif choice == 4:
        offsets = [odd_number(rng, 4) for _ in range(rng.choice((1, 2, 9)))]
        parts[0] = struct.pack(f"<{len(offsets)}I", *offsets)
    elif choice == 5:
        element.closed = False
    elif choice == 6:
        element.length, element.undefined = rng.choice((0, 8, 100, 2**31)), False
    elif choice == 7:
        element.vr = rng.choice((b"OW", b"UN", b"OB", b"SQ", b"US"))
    else:
        parts[at] = change_bytes(parts[at], rng)
    return None


def change_codestream(file: File, rng: random.Random) -> None:
    element = file.find(PIXEL_DATA)
    if element is None or not element.fragments or len(element.fragments) < 2:
        return odd_number_of_pixels(file, rng)
    at = len(element.fragments) - 1 if len(element.fragments) == 2 else 1
    element.fragments[at], size = mutate_stream(element.fragments[at], rng)
    if size is not None and rng.random() < 0.8:
        for tag, number in zip((0x00280010, 0x00280011), size, strict=True):
            of_header = file.find(tag)
            if of_header is not None:
                of_header.value = number.to_bytes(2, _end(file))
    return None


CHANGES: tuple[Change, ...] = (
    change_vr, lie_of_length, undefine_length, copy_element, delete_element, exchange_elements,
    retag, insert_element, odd_value, odd_value, odd_number_of_pixels, same_pixels_reshaped,
    other_syntax, nest, change_items, change_fragments, change_codestream, change_codestream,
)  # fmt: skip


def _end(file: File) -> str:
    return "little" if file.little else "big"


def _list(file: File, rng: random.Random) -> list[Element]:
    """The elements of the file, rarely of its meta group or of an item."""
    lists = [file.body]
    if file.meta and rng.random() < 0.1:
        lists = [file.meta]
    elif rng.random() < 0.2:
        lists = [item for e in file.body for item in e.items or () if item] or lists
    return rng.choice(lists)


def _any(file: File, rng: random.Random) -> Element:
    """Any element; half the time one that the reader asks for."""
    elements = _list(file, rng)
    wanted = [e for e in elements if e.tag in READ]
    return rng.choice(wanted if wanted and rng.random() < 0.5 else elements)
