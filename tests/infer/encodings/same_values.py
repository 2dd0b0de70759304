"""The picture in other grey values: polarity, rescale, depths, signs, padding, colour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.infer.encodings.base import (
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
from tests.infer.encodings.same_windows import case

ALL = ("voi", "minmax", "mimic-jpg", "chexpert-jpg")


def values_cases() -> Iterator[Case]:
    yield from polarity()
    yield from rescale()
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
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    yield case("rescale_offset", p + 1000, 13, offset | window, window=True, listed=True)
    yield case("rescale_offset_no_window", p + 1000, 13, offset, defined=False)
    fraction = {"RescaleSlope": "0.0371", "RescaleIntercept": "17.25", "RescaleType": "US"}
    yield case("rescale_fraction", p, tags=fraction)
    window = {"WindowCenter": f"{17.25 + 0.0371 * WHITE / 2:.6f}", "WindowWidth": "151.9245"}
    exact = {"VOILUTFunction": "LINEAR_EXACT"}
    yield case("rescale_fraction_window", p, tags=fraction | window | exact, window=True)


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
    many = padded(p, noise(100) + 8000)
    for name, stored, center, values in (
        ("padding_low", low, "3048", (0,)),
        ("padding_high", high, "2048", (8000,)),
        ("padding_range", many, "2048", (8000, 8100)),
        ("padding_range_downwards", many, "2048", (8100, 8000)),
    ):
        keywords = ("PixelPaddingValue", "PixelPaddingRangeLimit")
        tags: dict[str, Any] = dict(zip(keywords, values, strict=False))
        yield case(f"{name}_no_window", stored, 13, tags, defined=False, **about)
        tags |= {"WindowCenter": center, "WindowWidth": "4096"}
        known = name in ("padding_low", "padding_high")
        yield case(name, stored, 13, tags, window=True, listed=known, **about)
    tags = {"PixelPaddingValue": 0, "WindowCenter": "3048", "WindowWidth": "4096"}
    tags["PhotometricInterpretation"] = "MONOCHROME1"
    about["window"] = True
    yield case("padding_mono1", padded(WHITE - p + 1000, 0), 13, tags, inverted=True, **about)
    signed = padded(p, 0).astype(np.int16)
    signed[mask] = -2000
    tags = {"PixelPaddingValue": -2000, "WindowCenter": "2048", "WindowWidth": "4096"}
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
