"""python -m pytest tests/infer/test_grayscale.py -- windows and tables, at points done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from tests.infer.dicom_files import dx
from tier_infer.dicom.grayscale import read_grayscale
from tier_infer.errors import FailedImage
from tier_infer.grayscale import Grayscale, Lut, Window

# PS3.3 C.11.2.1.2.1 for center 2048, width 4096 on 0..255, as the standard works it out:
# x <= 0 → 0, x > 4095 → 255, else ((x - 2047.5) / 4095 + 0.5) * 255
LINEAR: list[tuple[float, float, list[tuple[float, float]]]] = [
    (2048, 4096, [(-1, 0), (0, 0), (2047.5, 0.5), (4095, 1), (4096, 1), (1023.75, 0.25)]),
    (2048, 1, [(2047, 0), (2047.5, 0), (2047.6, 1), (2048, 1)]),
    (0, 100, [(-50, 0), (-0.5, 0.5), (49, 1), (-100, 0), (24.25, 0.75)]),
    (0, 2, [(-1, 0), (0, 1), (-0.5, 0.5)]),
]
EXACT: list[tuple[float, float, list[tuple[float, float]]]] = [
    (2048, 4096, [(0, 0), (2048, 0.5), (4096, 1), (1024, 0.25), (-7, 0), (5000, 1)]),
    (2048, 1, [(2047.5, 0), (2048, 0.5), (2048.5, 1)]),
    (0.5, 0.5, [(0.25, 0), (0.5, 0.5), (0.75, 1)]),  # widths below 1 are legal here
]
SIGMOID: list[tuple[float, float, list[tuple[float, float]]]] = [
    (2048, 4096, [(2048, 0.5), (0, 1 / (1 + np.e**2)), (4096, 1 / (1 + np.e**-2))]),
    (0, 4, [(0, 0.5), (1, 1 / (1 + np.e**-1)), (-1e6, 0), (1e6, 1)]),
]
POINTS = [
    (function, *row)
    for function, rows in (("LINEAR", LINEAR), ("LINEAR_EXACT", EXACT), ("SIGMOID", SIGMOID))
    for row in rows
]


@pytest.mark.parametrize(("function", "center", "width", "points"), POINTS)
def test_window_functions(
    function: str, center: float, width: float, points: list[tuple[float, float]]
) -> None:
    x, want = np.array(points).T
    assert Window(center, width, function)(x) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("slope", [-1.0, -0.5])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_negative_slope_does_not_touch_the_window(function: str, slope: float) -> None:
    """pydicom takes the output range from the slope there, and inverts the picture."""
    grey = Grayscale(slope, 4095.0, voi=Window(2000.0, 3000.0, function))
    stored = np.arange(4096.0)
    values = grey.modality(stored)
    assert values[0] == 4095
    assert isinstance(grey.voi, Window)
    shown = grey.voi(values)
    assert (np.diff(shown) <= 0).all()  # low stored values are high, and bright, modality values
    assert shown[0] > 0.9


def test_a_lookup_table_is_clamped_at_both_ends() -> None:
    table = Lut(100, np.array([7.0, 8.0, 9.0]), 8)
    x = np.array([-1e9, 0, 99, 100, 100.9, 101, 102, 103, 1e9])
    assert np.array_equal(table(x), [7, 7, 7, 7, 7, 8, 9, 9, 9])


def test_a_lookup_table_below_zero() -> None:
    table = Lut(-2, np.array([1.0, 2.0, 3.0]), 8)
    assert np.array_equal(table(np.array([-3.0, -2.0, -1.5, -1.0, 0.0, 5.0])), [1, 1, 1, 2, 3, 3])


@pytest.mark.parametrize(
    ("grey", "inverted"),
    [
        (Grayscale(), False),
        (Grayscale(monochrome1=True), True),
        (Grayscale(-1.0), True),
        (Grayscale(-1.0, monochrome1=True), False),
        (Grayscale(-1.0, modality_lut=Lut(0, np.arange(2.0), 8)), False),  # a LUT replaces it
        (Grayscale(modality_lut=Lut(0, np.arange(2.0), 8), monochrome1=True), True),
    ],
)
def test_what_turns_black_into_white(grey: Grayscale, inverted: bool) -> None:
    assert grey.inverted is inverted


# Headers.


def lut(
    data: NDArray[np.integer] | bytes | list[int], first: int = 0, bits: int = 16, **tags: Any
) -> Dataset:
    item = Dataset()
    count = tags.pop("entries", len(data))
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [count, first, bits])
    if isinstance(data, bytes):
        item.add_new("LUTData", "OW", data)
    else:
        item.add_new("LUTData", "US", [int(value) for value in data])
    return item


def table_of(ds: Dataset, which: str = "modality_lut") -> Lut:
    found = getattr(read_grayscale(ds), which)
    assert isinstance(found, Lut)
    return found


def test_header_values_arrive() -> None:
    grey = read_grayscale(
        dx(
            RescaleSlope="-2",
            RescaleIntercept="7",
            WindowCenter=["40", "1"],
            WindowWidth=["400", "2"],
            VOILUTFunction="sigmoid",
            PhotometricInterpretation="MONOCHROME1",
            PixelPaddingValue=5,
            PixelPaddingRangeLimit=3,
        )
    )
    assert grey == Grayscale(
        -2.0, 7.0, None, Window(40.0, 400.0, "SIGMOID"), True, True, padding=(3, 5)
    )
    assert read_grayscale(dx()) == Grayscale()


def test_a_table_of_words_of_bytes_and_of_numbers() -> None:
    rising = np.arange(256)
    words = lut(rising.astype("<u2").tobytes(), bits=16, entries=256)
    packed = lut(rising.astype(np.uint8).tobytes(), bits=8, entries=256)
    numbers = lut(rising, bits=12)
    for item in (words, packed, numbers):
        found = table_of(dx(ModalityLUTSequence=[item]))
        assert np.array_equal(found.table, rising)
        assert found.first == 0


def test_no_entries_stand_for_65536() -> None:
    item = lut(np.arange(65536).astype("<u2").tobytes(), entries=0)
    assert len(table_of(dx(ModalityLUTSequence=[item])).table) == 65536


@pytest.mark.parametrize("which", ["ModalityLUTSequence", "VOILUTSequence"])
def test_the_first_input_is_signed_as_the_pixels_are(which: str) -> None:
    """US 0xFF00 for signed pixels is -256; a VOI LUT behind a modality LUT sees no signs."""
    attribute = "modality_lut" if which == "ModalityLUTSequence" else "voi"
    item = lut(np.arange(512), 0xFF00)
    assert table_of(dx(**{which: [item]}), attribute).first == 0xFF00
    assert table_of(dx(PixelRepresentation=1, **{which: [item]}), attribute).first == -256
    if attribute == "voi":
        ds = dx(PixelRepresentation=1, VOILUTSequence=[item], ModalityLUTSequence=[item])
        assert table_of(ds, "voi").first == 0xFF00


def test_a_voi_lut_goes_before_a_window_and_both_are_several() -> None:
    window = {"WindowCenter": "40", "WindowWidth": "400"}
    grey = read_grayscale(dx(VOILUTSequence=[lut(np.arange(9))], **window))
    assert isinstance(grey.voi, Lut)
    assert grey.several_windows
    assert not read_grayscale(dx(VOILUTSequence=[lut(np.arange(9))])).several_windows
    two = [lut(np.arange(9)), lut(np.arange(7))]
    assert len(table_of(dx(VOILUTSequence=two), "voi").table) == 9


@pytest.mark.parametrize(("which", "reason"), [("ModalityLUTSequence", "modality_lut"),
                                               ("VOILUTSequence", "voi_lut")])  # fmt: skip
@pytest.mark.parametrize(
    "item",
    [
        lut([0, 1, 2], entries=4),
        lut([0, 1, 2], bits=7),
        lut([0, 1, 2], bits=17),
        lut([0, 1, 300], bits=8),
        lut([5], entries=1),
        lut([5, 5, 5]),
        lut(b"\0\1\0\2\0\3", entries=4),
        lut(b"", entries=4),
        Dataset(),
    ],
    ids=["count", "7 bits", "17 bits", "too high", "one", "flat", "short", "empty", "nothing"],
)
def test_a_table_that_contradicts_itself_is_refused(which: str, reason: str, item: Dataset) -> None:
    with pytest.raises(FailedImage) as caught:
        read_grayscale(dx(**{which: [item]}))
    assert caught.value.reason == reason


BROKEN_WINDOWS: list[dict[str, Any]] = [
    {"WindowCenter": "40"},
    {"WindowWidth": "40"},
    {"WindowCenter": "40", "WindowWidth": "0"},
    {"WindowCenter": "40", "WindowWidth": "-5"},
    {"WindowCenter": "40", "WindowWidth": "0.5"},
    {"WindowCenter": "40", "WindowWidth": "0", "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": "40", "WindowWidth": "-1", "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": "40", "WindowWidth": "400", "VOILUTFunction": "Smith"},
]


@pytest.mark.parametrize("tags", BROKEN_WINDOWS, ids=repr)
def test_a_broken_window_is_kept_for_those_who_need_one(tags: dict[str, Any]) -> None:
    found = read_grayscale(dx(**tags)).voi
    assert isinstance(found, FailedImage)
    assert found.reason == "window"
    assert "Smith" not in str(found)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "40", "WindowWidth": "1"},
        {"WindowCenter": "40", "WindowWidth": "0.5", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "-40.5", "WindowWidth": "0.5", "VOILUTFunction": "SIGMOID"},
    ],
    ids=repr,
)
def test_the_narrowest_legal_windows(tags: dict[str, Any]) -> None:
    assert isinstance(read_grayscale(dx(**tags)).voi, Window)


@pytest.mark.parametrize(
    ("tags", "padding"),
    [
        ({"PixelPaddingValue": 0}, (0, 0)),
        ({"PixelPaddingValue": 9, "PixelPaddingRangeLimit": 4}, (4, 9)),
        ({"PixelPaddingValue": 4, "PixelPaddingRangeLimit": 9}, (4, 9)),
        ({"PixelPaddingValue": 0xF830, "PixelRepresentation": 1}, (-2000, -2000)),
        ({"PixelPaddingValue": -2000, "PixelRepresentation": 1}, (-2000, -2000)),
        ({"PixelPaddingValue": 100, "PixelRepresentation": 1}, (100, 100)),
        ({}, None),
    ],
)
def test_padding(tags: dict[str, Any], padding: tuple[int, int] | None) -> None:
    ds, value = dx(), tags.pop("PixelPaddingValue", None)
    if value is not None:
        ds.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    for keyword, other in tags.items():
        setattr(ds, keyword, other)
    assert read_grayscale(ds).padding == padding


def test_padding_without_a_value_is_refused() -> None:
    empty = dx()
    empty.PixelPaddingValue = None
    for ds in (dx(PixelPaddingRangeLimit=4), empty):
        with pytest.raises(FailedImage) as caught:
            read_grayscale(ds)
        assert caught.value.reason == "pixel_padding"
