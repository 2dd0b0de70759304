"""The picture in other grey values: polarity, rescale, tables, windows, signs, padding, colour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence

from tests.infer.encodings.base import (
    MARKER,
    NOTCH,
    WHITE,
    Case,
    Float,
    dataset,
    frame,
    noise,
    pack,
    picture,
    set_pixels,
)

ALL = ("voi", "minmax", "mimic-jpg", "chexpert-jpg")


def case(
    name: str, pixels: NDArray[Any], bits: int = 12, tags: dict[str, Any] | None = None, **about: Any
) -> Case:
    """Shows `picture()`; the presets without VOI scale the stored values, unless said otherwise."""
    ds = dataset(pixels, bits, **(tags or {}))
    about = {"shown": picture() / WHITE, "values": pixels.astype(np.float64)} | about
    return Case(name, pack(ds), **about)


def values_cases() -> Iterator[Case]:
    yield from polarity()
    yield from rescale()
    yield from modality_luts()
    yield from windows()
    yield from outliers()
    yield from voi_luts()
    yield from depths()
    yield from paddings()
    yield from colours()


def polarity() -> Iterator[Case]:
    p = picture()
    mono1 = {"PhotometricInterpretation": "MONOCHROME1"}
    yield case("mono2", p)
    yield case("mono2_identity", p, tags={"PresentationLUTShape": "IDENTITY"})
    yield case("mono1", WHITE - p, tags=mono1, inverted=True, listed=True)
    shape = {"PresentationLUTShape": "INVERSE"}
    yield case("mono1_inverse", WHITE - p, tags=mono1 | shape, inverted=True, listed=True)
    slope = {"RescaleSlope": "-1", "RescaleIntercept": "0", "RescaleType": "US"}
    yield case("mono1_negative_slope", p, tags=mono1 | slope)  # the two cancel out


def rescale() -> Iterator[Case]:
    p = picture()
    negative = {"RescaleSlope": "-1", "RescaleIntercept": str(WHITE), "RescaleType": "US"}
    yield case("negative_slope", WHITE - p, tags=negative, inverted=True, listed=True)
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    about: dict[str, Any] = {"inverted": True, "window": True}
    yield case("negative_slope_window", WHITE - p, tags=negative | window, **about)
    offset = {"RescaleSlope": "1", "RescaleIntercept": "-1000", "RescaleType": "US"}
    yield case("rescale_offset", p + 1000, 13, offset, listed=True)
    fraction = {"RescaleSlope": "0.0371", "RescaleIntercept": "17.25", "RescaleType": "US"}
    yield case("rescale_fraction", p, tags=fraction)
    window = {"WindowCenter": f"{17.25 + 0.0371 * WHITE / 2:.6f}", "WindowWidth": "151.9245"}
    exact = {"VOILUTFunction": "LINEAR_EXACT"}
    yield case("rescale_fraction_window", p, tags=fraction | window | exact, window=True)


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
    yield case("modality_lut_inverting", WHITE - picture(), tags=tags, values=p, listed=True, **flags)
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


def depths() -> Iterator[Case]:
    p = picture()
    offset = {"RescaleSlope": "1", "RescaleIntercept": "2048", "RescaleType": "US"}
    signed = (p.astype(np.int16) - 2048).astype(np.int16)
    about: dict[str, Any] = {"values": p.astype(np.float64), "listed": True}
    yield case("signed", signed, 12, offset, **about)
    ds = dataset(signed, 12, **offset)
    set_pixels(ds, (signed & 0x0FFF).astype("<u2").tobytes())  # sign bits not extended
    yield Case("signed_not_extended", pack(ds), p / WHITE, **about)
    yield case("signed_no_rescale", signed, 12, refused={"chexpert-jpg": "pixel_module"})
    ds = dataset(p << 4, 12, HighBit=15)
    yield Case(
        "high_bit_15", pack(ds), p / WHITE, p.astype(np.float64), listed=True,
        refused=dict.fromkeys(ALL, "pixel_module"),
    )  # fmt: skip
    masked: dict[str, Any] = {"flags": frozenset({"high_bits_masked"})}
    masked["values"] = p.astype(np.float64)
    junk = p | (noise(15) << 12).astype(np.uint16)
    yield case("junk_in_high_bits", junk, listed=True, **masked)
    overlay = p.copy()
    overlay[30:60, 30:110] |= 0x1000  # PS3.5 8.1.2, retired: a stamp in bit 12
    yield case("overlay_in_bit_12", overlay, **masked)
    eight = np.rint(p / WHITE * 255).astype(np.uint8)
    yield case("8_bit", eight, 8, listed=True)
    yield case("10_bit", np.rint(p / WHITE * 1023).astype(np.uint16), 10)
    yield case("16_bit", np.rint(p / WHITE * 65535).astype(np.uint16), 16)


def paddings() -> Iterator[Case]:
    """The collimated frame is declared to be no image, with a value that is."""
    p, mask = picture(), frame()
    about: dict[str, Any] = {"padding": mask, "flags": frozenset({"pixel_padding"})}

    def padded(grey: NDArray[np.uint16], value: int | NDArray[np.uint16]) -> NDArray[np.uint16]:
        return np.where(mask, value, grey).astype(np.uint16)

    low, high = padded(p + 1000, 0), padded(p, 8000)
    yield case("padding_low", low, 13, {"PixelPaddingValue": 0}, listed=True, **about)
    yield case("padding_high", high, 13, {"PixelPaddingValue": 8000}, listed=True, **about)
    many = padded(p, noise(100) + 8000)
    limits = {"PixelPaddingValue": 8000, "PixelPaddingRangeLimit": 8100}
    yield case("padding_range", many, 13, limits, **about)
    limits = {"PixelPaddingValue": 8100, "PixelPaddingRangeLimit": 8000}
    yield case("padding_range_downwards", many, 13, limits, **about)
    mono1 = {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"}
    yield case("padding_mono1", padded(WHITE - p + 1000, 0), 13, mono1, inverted=True, **about)
    window = {"PixelPaddingValue": 8000, "WindowCenter": "2048", "WindowWidth": "4096"}
    yield case("padding_window", high, 13, window, window=True, **about)
    signed = padded(p, 0).astype(np.int16)
    signed[mask] = -2000
    tags = {"PixelPaddingValue": -2000}
    yield case("padding_signed", signed, 13, tags, **about)


def colours() -> Iterator[Case]:
    """Grey pictures kept as colour, 8 bits a channel."""
    grey = np.rint(picture() / WHITE * 255).astype(np.uint8)
    values: Float = grey.astype(np.float64)
    about: dict[str, Any] = {
        "values": values, "listed": True, "flags": frozenset({"grey_from_colour"})
    }  # fmt: skip
    rgb = np.repeat(grey[..., None], 3, axis=2)
    tags = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    yield case("rgb_planar_0", rgb, 8, tags, **about)
    ds = dataset(rgb, 8, PhotometricInterpretation="RGB", PlanarConfiguration=1)
    set_pixels(ds, rgb.transpose(2, 0, 1).tobytes())
    yield Case("rgb_planar_1", pack(ds), picture() / WHITE, **about)
    ybr = np.full_like(rgb, 128)
    ybr[..., 0] = grey
    tags = {"PhotometricInterpretation": "YBR_FULL", "PlanarConfiguration": 0}
    yield case("ybr_full", ybr, 8, tags, **about)
    ds = dataset(255 - grey, 8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        data = (np.arange(255, -1, -1) * 257).astype("<u2").tobytes()
        setattr(ds, f"{colour}PaletteColorLookupTableData", data)
    yield Case("palette", pack(ds), picture() / WHITE, **about)
