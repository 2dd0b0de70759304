"""python -m pytest tests/infer/test_dicom.py -- one stored picture, however it is encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.infer.dicom_files import dx, film, in_syntax, picture, told, write
from tier_infer.dicom.read import StoredImage, read_dicom
from tier_infer.errors import FailedImage
from tier_infer.images import load_image
from tier_infer.intensity import PRESETS

LOSSLESS = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
]
BYTES = (picture() >> 4).astype(np.uint8)


def read(ds: Dataset, folder: Path) -> StoredImage:
    return read_dicom(write(ds, folder / "image.dcm").read_bytes())


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name)
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_every_lossless_syntax_gives_the_same_picture(
    syntax: str, bits: int, tmp_path: Path
) -> None:
    image = read(in_syntax(dx(bits=bits), syntax), tmp_path)
    assert image.stored.dtype == np.uint16
    assert np.array_equal(image.stored, picture(bits=bits))
    assert (image.grayscale.inverted, image.view, image.flags) == (False, "PA", ())


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name)
def test_eight_bits_and_an_odd_number_of_bytes(syntax: str, tmp_path: Path) -> None:
    odd = (picture(41, 37) >> 4).astype(np.uint8)
    ds = dx(odd, bits=8)
    if syntax == ExplicitVRBigEndian:
        ds["PixelData"].VR = "OB"  # bytes have no order
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds = in_syntax(ds, syntax)
    assert np.array_equal(read(ds, tmp_path).stored, odd)


def test_jpeg_baseline_is_close(tmp_path: Path) -> None:
    image = read(
        in_syntax(dx(BYTES, bits=8, LossyImageCompression="01"), JPEGBaseline8Bit), tmp_path
    )
    assert image.flags == ("lossy",)
    unsaid = read(in_syntax(dx(BYTES, bits=8), JPEGBaseline8Bit), tmp_path)
    assert unsaid.flags == ("lossy",)  # this syntax always is
    assert np.abs(image.stored.astype(int) - BYTES).mean() < 3


@pytest.mark.parametrize("slope", ["1", "-1", "2.5", "-0.001"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_each_inversion_counts_once_and_two_cancel(
    photometric: str, slope: str, tmp_path: Path
) -> None:
    ds = dx(PhotometricInterpretation=photometric, RescaleSlope=slope, RescaleIntercept="7")
    image = read(ds, tmp_path)
    assert image.grayscale.inverted == ((photometric == "MONOCHROME1") ^ slope.startswith("-"))
    assert np.array_equal(image.stored, picture())
    plain = load_image(write(dx(), tmp_path / "plain.dcm"), "minmax").grey
    grey = load_image(tmp_path / "image.dcm", "minmax").grey
    assert np.array_equal(grey, 255 - plain if image.grayscale.inverted else plain)


@pytest.mark.parametrize("shape", ["", "IDENTITY"])
def test_a_lut_shape_that_restates_the_polarity_changes_nothing(shape: str, tmp_path: Path) -> None:
    assert not read(dx(PresentationLUTShape=shape), tmp_path).grayscale.inverted
    inverse = dx(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert read(inverse, tmp_path).grayscale.inverted


SIGNED = picture().astype(np.int16) - 2048


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_signed_values_are_extended_from_bits_stored(
    syntax: str, extended: bool, tmp_path: Path
) -> None:
    bits = SIGNED.view(np.uint16)
    ds = dx(bits if extended else bits & 0xFFF, PixelRepresentation=1, RescaleIntercept="-1024")
    image = read(in_syntax(ds, syntax), tmp_path)
    assert image.stored.dtype == np.int16
    assert np.array_equal(image.stored, SIGNED)


@pytest.mark.parametrize("syntax", LOSSLESS[:5], ids=lambda s: s.name)
@pytest.mark.parametrize("signed", [0, 1])
def test_junk_above_bits_stored_is_masked_and_flagged(
    syntax: str, signed: int, tmp_path: Path
) -> None:
    overlay = np.where(np.eye(40, 36, dtype=bool), 0x6000, 0).astype(np.uint16)
    values = SIGNED.view(np.uint16) & 0xFFF if signed else picture()
    ds = in_syntax(dx(values | overlay, PixelRepresentation=signed), syntax)
    image = read(ds, tmp_path)
    assert np.array_equal(image.stored, SIGNED if signed else picture())
    assert image.flags == ("high_bits_masked",)


WINDOWS: list[dict[str, Any]] = [
    {"WindowWidth": "400", "WindowCenter": "40"},
    {"WindowWidth": ["1", "2"]},  # broken, and ignored all the same
    {"WindowWidth": "0", "WindowCenter": "40"},
    {"WindowWidth": "400", "WindowCenter": "40", "VOILUTFunction": "SIGMOID"},
]


@pytest.mark.parametrize("tags", WINDOWS, ids=repr)
@pytest.mark.parametrize("preset", ["minmax", "mimic-jpg", "chexpert-jpg"])
def test_a_window_that_the_preset_leaves_out_is_said(
    preset: str, tags: dict[str, Any], tmp_path: Path
) -> None:
    plain = load_image(write(dx(), tmp_path / "plain.dcm"), preset)
    image = load_image(write(dx(**tags), tmp_path / "image.dcm"), preset)
    assert told(image.flags) == {"window_ignored"}
    assert np.array_equal(image.grey, plain.grey)


def test_the_window_in_use_is_no_remark_but_a_choice_among_several_is(tmp_path: Path) -> None:
    fitting = {"WindowWidth": "4000", "WindowCenter": "2000"}
    one = load_image(write(dx(**fitting), tmp_path / "a.dcm"), "voi")
    assert not told(one.flags)
    two = {"WindowWidth": ["4000", "9"], "WindowCenter": ["2000", "9"]}
    both = load_image(write(dx(**two), tmp_path / "a.dcm"), "voi")
    assert told(both.flags) == {"several_windows"}
    assert np.array_equal(one.grey, both.grey)
    for tags, reason in ((WINDOWS[1], "window"), (WINDOWS[2], "window")):
        with pytest.raises(FailedImage) as caught:
            load_image(write(dx(**tags), tmp_path / "a.dcm"), "voi")
        assert caught.value.reason == reason


def test_padding_is_found_by_value_and_marked(tmp_path: Path) -> None:
    pixels = picture() + 100
    pixels[:3] = pixels[:, :2] = 7
    image = read(dx(pixels, bits=13, PixelPaddingValue=7), tmp_path)
    assert image.padding is not None
    assert np.array_equal(image.padding, pixels == 7)
    assert image.flags == ("pixel_padding",)
    turned = dx(pixels[::-1, ::-1].copy(), bits=13, PixelPaddingValue=7)
    assert read(turned, tmp_path).flags == ("pixel_padding",)  # reached from all four sides
    pixels[10:20, 10:20] = 7
    assert "padding_inside" in read(dx(pixels, bits=13, PixelPaddingValue=7), tmp_path).flags
    ranged = {"PixelPaddingValue": 7, "PixelPaddingRangeLimit": 3}  # either may be the lower
    pixels[:1] = 4
    found = read(dx(pixels, bits=13, **ranged), tmp_path).padding
    assert found is not None
    assert np.array_equal(found, pixels <= 7)


@pytest.mark.parametrize("value", [-2000, 63536], ids=["SS", "US"])
def test_signed_padding_is_read_as_the_pixels_are(value: int, tmp_path: Path) -> None:
    """The bits of -2000, whether an implicit file calls them signed or not."""
    pixels = picture().astype(np.int16)
    pixels[:3] = -2000
    ds = dx(pixels, bits=16)
    ds.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    image = read(ds, tmp_path)
    assert image.padding is not None
    assert np.array_equal(image.padding, pixels == -2000)


def test_a_padding_value_that_does_not_occur_is_nothing(tmp_path: Path) -> None:
    for value in (4095, 60_000):
        image = read(dx(picture() // 2, PixelPaddingValue=value), tmp_path)
        assert image.padding is None
        assert image.flags == ()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_has_no_part_in_any_scale(preset: str, photometric: str, tmp_path: Path) -> None:
    """What is inside looks as if there were no padding at all; the padding is black."""
    inside = film() + 100
    padded = np.full((160, 160), 9, np.uint16)
    padded[5:-5, 5:-5] = inside
    tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 9}
    got = load_image(write(dx(padded, bits=13, **tags), tmp_path / "a.dcm"), preset).grey
    del tags["PixelPaddingValue"]
    want = load_image(write(dx(inside, bits=13, **tags), tmp_path / "b.dcm"), preset).grey
    assert np.array_equal(got[5:-5, 5:-5], want)
    assert not np.delete(got, np.s_[5:155], axis=0).any()
    assert not np.delete(got, np.s_[5:155], axis=1).any()


VIEWS = {"PA": "PA", "AP": "AP", "LL": "lateral", "RL": "lateral", "LATERAL": "lateral"} | {
    "LLO": "oblique",
    "RAO": "oblique",
    "pa ": "PA",
    "": "unknown",
    "AXIAL": "oblique",
}


@pytest.mark.parametrize("position", VIEWS)
def test_view_position(position: str, tmp_path: Path) -> None:
    assert read(dx(ViewPosition=position), tmp_path).view == VIEWS[position]


@pytest.mark.parametrize(
    ("meaning", "view"),
    [
        ("postero-anterior", "PA"),
        ("antero-posterior", "AP"),
        ("left lateral", "lateral"),
        ("left anterior oblique", "oblique"),
        ("frog leg", "unknown"),
    ],
)
def test_view_code_sequence(meaning: str, view: str, tmp_path: Path) -> None:
    item = Dataset()
    item.CodeMeaning = meaning
    assert read(dx(ViewPosition=None, ViewCodeSequence=[item]), tmp_path).view == view
    both = dx(ViewPosition="PA", ViewCodeSequence=[item])
    if view in ("lateral", "oblique"):  # which of the two is right?
        with pytest.raises(FailedImage, match="contradict"):
            read(both, tmp_path)
    else:
        assert read(both, tmp_path).view == "PA"


def test_keys_group_but_lie_outside_the_flags(tmp_path: Path) -> None:
    ds = dx()
    image = read(ds, tmp_path)
    assert (image.study_key, image.instance_key) == (ds.StudyInstanceUID, ds.SOPInstanceUID)
    assert read(dx(StudyInstanceUID=""), tmp_path).study_key is None
    one, other = (read(dx(PatientID=i), tmp_path).patient_key for i in ("Smith", "Jones"))
    assert one != other
    assert one is not None
    assert len(one) == 64
    assert "SMITH" not in one.upper()
    assert read(dx(PatientID=""), tmp_path).patient_key is None


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_dataset_without_preamble_and_meta(syntax: str, tmp_path: Path) -> None:
    ds = dx()
    del ds.file_meta
    path = tmp_path / "bare.dcm"
    ds.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    image = read_dicom(path.read_bytes())
    assert np.array_equal(image.stored, picture())
    assert image.flags == ("no_meta",)


def test_a_polyglot_preamble_is_flagged(tmp_path: Path) -> None:
    data = write(dx(), tmp_path / "a.dcm").read_bytes()
    assert read_dicom(b"MZ" + data[2:]).flags == ("preamble",)
    assert read_dicom(b"II*\0" + data[4:]).flags == ()  # a TIFF in the preamble runs nowhere


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name)
@pytest.mark.parametrize("claimed", [8, 10, 11])
def test_bits_stored_that_lies_is_refused(syntax: str, claimed: int, tmp_path: Path) -> None:
    """Found in review: a 12-bit picture under fewer bits was wrapped, scored and only flagged."""
    ds = in_syntax(dx(smooth()), syntax)
    ds.BitsStored, ds.HighBit = claimed, claimed - 1
    with pytest.raises(FailedImage) as caught:
        read(ds, tmp_path)
    assert caught.value.reason == "bits_stored"


def smooth() -> NDArray[np.uint16]:
    """uint16 [40, 36], 12 bits, as smooth as a radiograph: neighbours share their high bits."""
    y, x = np.mgrid[:40, :36]
    return np.rint(4095 * (0.5 + 0.5 * np.sin(x / 9) * np.cos(y / 11))).astype(np.uint16)
