"""Grey values through windows and lookup tables (PS3.3 C.11), and what builds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence

from tests.infer.encodings.base import MARKER, NOTCH, WHITE, Case, dataset, pack, picture


def window_cases() -> Iterator[Case]:
    yield from modality_luts()
    yield from windows()
    yield from outliers()
    yield from voi_luts()


def case(
    name: str,
    pixels: NDArray[Any],
    bits: int = 12,
    tags: dict[str, Any] | None = None,
    **about: Any,
) -> Case:
    """Shows `picture()`; the presets without VOI scale the stored values, unless said otherwise."""
    ds = dataset(pixels, bits, **(tags or {}))
    about = {"shown": picture() / WHITE, "values": pixels.astype(np.float64)} | about
    return Case(name, pack(ds), **about)


def lut(entries: NDArray[np.integer], first: int, bits: int, packed: bool = False) -> Dataset:
    """One LUT item; 65536 entries are written as 0 (C.11.1.1.1), `packed` is two to a word."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    if packed:
        item.LUTData = entries.astype(np.uint8).tobytes()
        item["LUTData"].VR = "OW"
    else:
        item.LUTData = entries.astype("<u2").tobytes()
        item["LUTData"].VR = "OW"
    return item


def rooted() -> tuple[NDArray[np.uint16], NDArray[np.integer]]:
    """The picture's square root in 12 bits and the table of 16 bits that squares it again."""
    stored = np.rint(WHITE * np.sqrt(picture() / WHITE)).astype(np.uint16)
    return stored, np.rint(65535 * (np.arange(WHITE + 1) / WHITE) ** 2).astype(np.int64)


def modality_luts() -> Iterator[Case]:
    p = picture().astype(np.float64)
    flags = {"flags": frozenset({"modality_lut"})}
    item = lut(WHITE - np.arange(WHITE + 1), 0, 12)
    item.ModalityLUTType = "US"
    tags = {"ModalityLUTSequence": Sequence([item])}
    yield case(
        "modality_lut_inverting", WHITE - picture(), tags=tags, values=p, listed=True, **flags
    )
    stored, table = rooted()
    item = lut(table, 0, 16)
    item.ModalityLUTType = "US"
    tags = {"ModalityLUTSequence": Sequence([item])}
    values = table[stored].astype(np.float64)
    yield case("modality_lut_curve", stored, tags=tags, values=values, **flags)
    item = lut(table, 700, 16)
    item.ModalityLUTType = "OD"
    tags = {"ModalityLUTSequence": Sequence([item])}
    yield case("modality_lut_first_700", stored + 700, 13, tags, values=values, **flags)
    inverting = lut(WHITE - np.arange(WHITE + 1), 0, 12)
    inverting.ModalityLUTType = "US"
    tags = {
        "ModalityLUTSequence": Sequence([inverting]),
        "VOILUTSequence": Sequence([lut(table, 0, 16)]),
        "PhotometricInterpretation": "MONOCHROME1",
    }
    # shown = 1 - voi(WHITE - stored), so stored = WHITE - root(1 - picture)
    root = np.rint(WHITE * np.sqrt(1 - picture() / WHITE))
    about: dict[str, Any] = {"values": root, "inverted": True, "window": True, **flags}
    yield case("all_stages", (WHITE - root).astype(np.uint16), tags=tags, **about)


def windows() -> Iterator[Case]:
    p, wide = picture(), 20000 + 8 * picture()
    about: dict[str, Any] = {"window": True}

    def window(center: str, width: str, **more: Any) -> dict[str, Any]:
        return {"WindowCenter": center, "WindowWidth": width, **more}

    yield case("window_linear", p, tags=window("2048", "4096"), **about)
    # LINEAR runs from c - 0.5 - (w-1)/2 to c - 0.5 + (w-1)/2, LINEAR_EXACT from c - w/2 to c + w/2
    yield case("window_linear_part", wide, 16, window("36380.5", "32761"), **about)
    exact = window("36380", "32760", VOILUTFunction="LINEAR_EXACT")
    yield case("window_exact", wide, 16, exact, **about)
    six = p >> 6  # so few levels that the two linear functions differ visibly
    tags = window("32", "64")
    yield case("window_linear_6_bit", six, 6, tags, shown=six / 63, **about)
    tags = window("32", "64", VOILUTFunction="LINEAR_EXACT")
    yield case("window_exact_6_bit", six, 6, tags, shown=six / 64, **about)
    share = (picture() / WHITE).clip(1e-4, 1 - 1e-4)
    curve = np.rint(30000 - 6000 / 4 * np.log(1 / share - 1)).astype(np.uint16)
    sigmoid = window("30000", "6000", VOILUTFunction="SIGMOID")
    yield case("window_sigmoid", curve, 16, sigmoid, listed=True, **about)
    several = window("2048\\1500\\3000", "4096\\800\\10", WindowCenterWidthExplanation="A\\B\\C")
    for keyword in several:
        several[keyword] = several[keyword].split("\\")
    flags = {"voi_flags": frozenset({"several_windows"})}
    yield case("window_first_of_3", p, tags=several, **about, **flags)
    mono1 = window("36380.5", "32761", PhotometricInterpretation="MONOCHROME1")
    about["inverted"] = True
    yield case("mono1_window", 20000 + 8 * (WHITE - p), 16, mono1, **about)


def outliers() -> Iterator[Case]:
    """A few pixels far outside the window; the picture under the window is the same."""
    p = picture()
    about: dict[str, Any] = {
        "window": True, "listed": True, "other_flags": frozenset({"outliers"})
    }  # fmt: skip
    for name, offset, spots in (
        ("window_marker_65535", 1000, ((MARKER, 65535),)),
        ("window_collimator_0", 45000, ((NOTCH, 0),)),
        ("window_both_outliers", 24000, ((MARKER, 65535), (NOTCH, 0))),
    ):
        stored = (offset + 4 * p).astype(np.uint16)
        stored[:12] = stored[-12:] = offset
        for where, value in spots:
            stored[where] = value
        tags = {"WindowCenter": str(offset + 2 * WHITE + 0.5), "WindowWidth": str(4 * WHITE + 1)}
        yield case(name, stored, 16, tags, **about)


def voi_luts() -> Iterator[Case]:
    stored, table = rooted()
    about: dict[str, Any] = {"window": True}

    def tags(*luts: Dataset) -> dict[str, Any]:
        return {"VOILUTSequence": Sequence(luts)}

    yield case("voi_lut_16_bit", stored, tags=tags(lut(table, 0, 16)), listed=True, **about)
    eight = np.rint(table / 257).astype(np.int64)
    yield case("voi_lut_8_bit_words", stored, tags=tags(lut(eight, 0, 8)), **about)
    yield case("voi_lut_8_bit_packed", stored, tags=tags(lut(eight, 0, 8, packed=True)), **about)
    wide = np.rint(65535 * np.sqrt(picture() / WHITE)).astype(np.uint16)
    square = np.rint(65535 * (np.arange(65536) / 65535) ** 2).astype(np.int64)
    yield case("voi_lut_65536_entries", wide, 16, tags(lut(square, 0, 16)), **about)
    yield case("voi_lut_first_500", stored + 500, 13, tags(lut(table, 500, 16)), **about)
    window = {"WindowCenter": "100", "WindowWidth": "50"}
    flags = {"voi_flags": frozenset({"several_windows"})}
    both = tags(lut(table, 0, 16)) | window
    yield case("voi_lut_before_window", stored, tags=both, **about, **flags)
    signed = (stored.astype(np.int16) - 2048).astype(np.int16)
    about |= {"refused": {"chexpert-jpg": "pixel_module"}}
    yield case("voi_lut_signed", signed, 12, tags(lut(table, -2048, 16)), **about)
