"""Headers that leave the grey values in doubt, and pictures that show no film."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence

from tests.infer.encodings.base import dataset, pack, set_pixels
from tests.infer.encodings.refuse_rules import Refusal, film, refuse
from tests.infer.encodings.same_windows import lut

TYPE_1 = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
          "SamplesPerPixel")  # fmt: skip
NOT_VOI = ("minmax", "mimic-jpg", "chexpert-jpg")


def pixels() -> Iterator[Refusal]:
    yield from _pixel_module()
    yield from _pixel_data()
    yield from _grey_values()
    yield from _windows()
    yield from _luts()
    yield from _geometry()
    yield from _contents()


def _pixel_module() -> Iterator[Refusal]:
    """PS3.3 C.7.6.3: type 1, no default is guessed."""
    for keyword in TYPE_1:
        yield refuse(f"no_{keyword}", "pixel_module", **{keyword: None})
    yield refuse("no_PhotometricInterpretation", "photometric", PhotometricInterpretation=None)
    yield refuse("photometric_unknown", "photometric", PhotometricInterpretation="MONOCHROME3")
    yield refuse("rows_0", "pixel_module", Rows=0)
    yield refuse("high_bit_10", "pixel_module", HighBit=10)
    yield refuse("stored_above_allocated", "pixel_module", BitsStored=17, HighBit=16)
    yield refuse("pixel_representation_2", "pixel_module", PixelRepresentation=2)
    yield refuse("two_samples", "pixel_module", SamplesPerPixel=2)
    yield refuse("three_grey_samples", "pixel_module", SamplesPerPixel=3)
    for bits, kind in ((32, "<u4"), (64, "<u8")):
        ds = dataset(film(), BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
        set_pixels(ds, film().astype(kind).tobytes())
        yield Refusal(f"allocated_{bits}", pack(ds), "pixel_module")
    ds = dataset(film(), BitsAllocated=1, BitsStored=1, HighBit=0)
    set_pixels(ds, np.packbits(film() > 2000).tobytes())
    yield Refusal("allocated_1", pack(ds), "pixel_module")
    # 12 bits of picture where 8 are declared: masking would wrap the grey values
    yield refuse("bits_stored_lies", "bits_stored", BitsStored=8, HighBit=7)
    yield refuse("bits_stored_lies_by_one", "bits_stored", BitsStored=11, HighBit=10)


def _pixel_data() -> Iterator[Refusal]:
    data = film().tobytes()
    yield refuse("no_pixels", "no_pixels", PixelData=None)
    yield refuse("pixels_empty", "truncated", PixelData=b"")
    yield refuse("pixels_half", "truncated", PixelData=data[: len(data) // 2])
    yield refuse("pixels_one_row_short", "truncated", PixelData=data[:-460])
    yield refuse("pixels_one_row_long", "pixel_length", PixelData=data + data[:460])
    yield refuse("pixels_twice", "pixel_length", PixelData=data * 2)
    whole = pack(dataset(film()))
    yield Refusal("file_cut_in_half", whole[: len(whole) // 2], "truncated")
    yield Refusal("file_cut_at_the_end", whole[:-2], "truncated")
    yield refuse("65535_by_65535", "too_large", Rows=65535, Columns=65535)


def _grey_values() -> Iterator[Refusal]:
    mono1 = {"PhotometricInterpretation": "MONOCHROME1"}
    yield refuse("mono2_inverse", "polarity", PresentationLUTShape="INVERSE")
    yield refuse("mono1_identity", "polarity", PresentationLUTShape="IDENTITY", **mono1)
    yield refuse("presentation_shape", "presentation_lut", PresentationLUTShape="LIN OD")
    table = Sequence([lut(np.arange(4096), 0, 12)])
    yield refuse("presentation_sequence", "presentation_lut", PresentationLUTSequence=table)
    yield refuse("slope_0", "rescale", RescaleSlope="0", RescaleIntercept="0")
    for name, text in (("nan", "NaN"), ("infinite", "1e999"), ("words", "one")):
        data = pack(dataset(film(), RescaleSlope="1.000000", RescaleIntercept="0"))
        data = data.replace(b"1.000000", text.ljust(8).encode())
        yield Refusal(f"slope_{name}", data, "bad_number")
    yield refuse("padding_limit_alone", "pixel_padding", PixelPaddingRangeLimit=0)
    all_padding = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}
    yield refuse("padding_everywhere", "constant_image", **all_padding)


def _windows() -> Iterator[Refusal]:
    """A window that can't be applied matters where windows are."""
    for name, tags in (
        ("width_0", {"WindowCenter": "2048", "WindowWidth": "0"}),
        ("width_half_linear", {"WindowCenter": "2048", "WindowWidth": "0.5"}),
        ("width_negative", {"WindowCenter": "2048", "WindowWidth": "-4096"}),
        ("center_alone", {"WindowCenter": "2048"}),
        ("width_alone", {"WindowWidth": "4096"}),
        ("function", {"WindowCenter": "0", "WindowWidth": "1", "VOILUTFunction": "GAMMA"}),
    ):
        data = pack(dataset(film(), **tags))
        yield Refusal(f"window_{name}", data, "window", presets=("voi",))


def _luts() -> Iterator[Refusal]:
    ramp = np.arange(4096)
    good = lut(ramp, 0, 12)

    def with_(change: str, value: Any) -> Dataset:
        item = lut(ramp, 0, 12)
        if value is None:
            del item[change]
        else:
            setattr(item, change, value)
        return item

    for name, items in (
        ("descriptor_of_two", [with_("LUTDescriptor", [4096, 0])]),
        ("descriptor_32_bits", [with_("LUTDescriptor", [4096, 0, 32])]),
        ("data_too_short", [with_("LUTDescriptor", [4097, 0, 12])]),
        ("data_over_depth", [with_("LUTDescriptor", [4096, 0, 8])]),
        ("no_descriptor", [with_("LUTDescriptor", None)]),
        ("no_data", [with_("LUTData", None)]),
        ("constant", [lut(np.full(4096, 7), 0, 12)]),
    ):
        for where, reason in (
            ("ModalityLUTSequence", "modality_lut"),
            ("VOILUTSequence", "voi_lut"),
        ):
            yield refuse(f"{reason}_{name}", reason, **{where: Sequence(items)})
    yield refuse("modality_lut_twice", "modality_lut", ModalityLUTSequence=Sequence([good, good]))
    data = pack(dataset(film(), VOILUTSequence=Sequence([lut(4095 - ramp, 0, 12)])))
    yield Refusal("voi_lut_inverting", data, "voi_lut", presets=NOT_VOI)


def _geometry() -> Iterator[Refusal]:
    yield refuse("orientation_frontal_A_F", "orientation", PatientOrientation=["A", "F"])
    yield refuse("orientation_along_itself", "orientation", PatientOrientation=["L", "R"])
    yield refuse("orientation_words", "orientation", PatientOrientation=["UP", "DOWN"])
    yield refuse("orientation_one", "orientation", PatientOrientation="L")
    yield refuse("aspect_0", "pixel_aspect", PixelAspectRatio=["0", "1"])
    yield refuse("aspect_1_10", "pixel_aspect", PixelAspectRatio=["1", "10"])
    yield refuse("spacing_1_10", "pixel_aspect", PixelSpacing=["0.1", "1.0"])
    swapped = dataset(film())
    swapped.Rows, swapped.Columns = swapped.Columns, swapped.Rows
    yield Refusal("rows_and_columns_swapped", pack(swapped), "scrambled")
    wrong = dataset(film())
    wrong.Rows, wrong.Columns = 230 * 245 // 322, 322  # 175 x 322, the same number of pixels
    yield Refusal("another_width", pack(wrong), "scrambled")
    rng = np.random.default_rng(5)
    rows = film()[rng.permutation(len(film()))]
    yield Refusal("rows_shuffled", pack(dataset(rows)), "scrambled")


def _contents() -> Iterator[Refusal]:
    def grey(name: str, pixels: NDArray[Any], reason: str) -> Refusal:
        return Refusal(name, pack(dataset(pixels.astype(np.uint16))), reason)

    p = film()
    yield grey("constant", np.full_like(p, 1000), "constant_image")
    yield grey("two_near_values", 1000 + (p & 1), "blank_image")
    dots = np.zeros_like(p)
    dots[100:104, 100:104] = 4095
    yield grey("black_with_a_dot", dots, "blank_image")
    black = p.copy()
    black[:-22] = 0
    yield grey("nine_tenths_black", black, "blank_image")
    white = p.copy()
    white[:-22] = 4095
    yield grey("nine_tenths_white", white, "blank_image")
    rng = np.random.default_rng(6)
    yield grey("noise", rng.integers(0, 4096, p.shape), "scrambled")
