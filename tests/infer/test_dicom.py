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

from tests.infer.dicom_files import dx, in_syntax, picture, write
from tier_infer.dicom import StoredImage, read_dicom
from tier_infer.errors import FailedImage
from tier_infer.images import load_image

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
    return read_dicom(write(ds, folder / "image.dcm"))


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name)
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_every_lossless_syntax_gives_the_same_picture(
    syntax: str, bits: int, tmp_path: Path
) -> None:
    image = read(in_syntax(dx(bits=bits), syntax), tmp_path)
    assert image.stored.dtype == np.uint16
    assert np.array_equal(image.stored, picture(bits=bits))
    assert (image.inverted, image.view, image.flags) == (False, "PA", ())


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
    assert np.abs(image.stored.astype(int) - BYTES).mean() < 3


@pytest.mark.parametrize("slope", ["1", "-1", "2.5", "-0.001"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_each_inversion_counts_once_and_two_cancel(
    photometric: str, slope: str, tmp_path: Path
) -> None:
    ds = dx(PhotometricInterpretation=photometric, RescaleSlope=slope, RescaleIntercept="7")
    image = read(ds, tmp_path)
    assert image.inverted == ((photometric == "MONOCHROME1") ^ slope.startswith("-"))
    assert np.array_equal(image.stored, picture())
    plain = load_image(write(dx(), tmp_path / "plain.dcm"), "minmax").grey
    grey = load_image(tmp_path / "image.dcm", "minmax").grey
    assert np.array_equal(grey, 255 - plain if image.inverted else plain)


@pytest.mark.parametrize("shape", ["", "IDENTITY"])
def test_a_lut_shape_that_restates_the_polarity_changes_nothing(shape: str, tmp_path: Path) -> None:
    assert not read(dx(PresentationLUTShape=shape), tmp_path).inverted
    inverse = dx(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert read(inverse, tmp_path).inverted


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


FLAGS = {
    "window_ignored": [{"WindowWidth": "400", "WindowCenter": "40"}, {"WindowWidth": ["1", "2"]}],
    "lossy": [{"LossyImageCompression": "01"}],
    "burned_in_annotation": [{"BurnedInAnnotation": "YES"}],
    "body_part_unknown": [{"BodyPartExamined": None}, {"BodyPartExamined": ""}],
    "modality_missing": [{"Modality": None}],
}


@pytest.mark.parametrize(("flag", "tags"), [(f, t) for f, many in FLAGS.items() for t in many])
def test_flags(flag: str, tags: dict[str, Any], tmp_path: Path) -> None:
    assert read(dx(**tags), tmp_path).flags == (flag,)


VIEWS = {"PA": "PA", "AP": "AP", "LL": "lateral", "RL": "lateral", "LATERAL": "lateral"} | {
    "LLO": "oblique",
    "RAO": "oblique",
    "pa ": "PA",
    "": "unknown",
    "AXIAL": "unknown",
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
    assert read(dx(ViewPosition="PA", ViewCodeSequence=[item]), tmp_path).view == "PA"


def test_keys_group_but_lie_outside_the_flags(tmp_path: Path) -> None:
    ds = dx()
    image = read(ds, tmp_path)
    assert (image.study_key, image.instance_key) == (ds.StudyInstanceUID, ds.SOPInstanceUID)
    assert read(dx(StudyInstanceUID=""), tmp_path).study_key is None


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
