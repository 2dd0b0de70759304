"""python -m pytest tests/infer/test_dicom_rules.py -- every refusal: class, reason, and its tag."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from tests.infer.dicom_files import UID, dx, picture, write
from tier_infer.dicom_rules import view_of
from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage
from tier_infer.images import load_image

LUT = Dataset()
LUT.LUTDescriptor, LUT.LUTData = [2, 0, 16], b"\0\1\0\1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MODALITY, BODY = "(0008,0060) Modality", "(0018,0015) BodyPartExamined"
PHOTOMETRIC = "(0028,0004) PhotometricInterpretation"

# what is changed in a header that is scored, the reason, how the sentence begins or what it names
NOT_EVALUATED: list[tuple[dict[str, Any], str, str]] = [
    ({"Modality": "CT"}, "modality", f"{MODALITY} is CT"),
    ({"Modality": "Smith"}, "modality", f"{MODALITY} is another value"),
    ({"Modality": ["DX", "CT"]}, "modality", MODALITY),
    ({"Modality": None, "SOPClassUID": CT}, "modality", f"{MODALITY} is missing"),
    ({"Modality": "", "SOPClassUID": None}, "modality", f"{MODALITY} is missing"),
    ({"BodyPartExamined": "HAND"}, "body_part", f"{BODY} is HAND"),
    ({"BodyPartExamined": "Smith"}, "body_part", f"{BODY} is another value"),
    ({"NumberOfFrames": 2}, "multi_frame", "(0028,0008) NumberOfFrames is above 1"),
    (
        {"PresentationIntentType": "FOR PROCESSING"},
        "for_processing",
        "(0008,0068) PresentationIntentType is FOR PROCESSING",
    ),
]
SHAPE = "(2050,0020) PresentationLUTShape contradicts " + PHOTOMETRIC
SLOPE, INTERCEPT = "(0028,1053) RescaleSlope", "(0028,1052) RescaleIntercept"
LENGTH = "(7FE0,0010) PixelData has"
FAILED: list[tuple[dict[str, Any], str, str]] = [
    ({"PixelData": None}, "no_pixels", "(7FE0,0010) PixelData is missing"),
    ({"PixelData": b""}, "truncated", "(7FE0,0010) PixelData"),
    ({"PixelData": picture().tobytes()[:-2]}, "truncated", LENGTH),
    ({"PixelData": picture().tobytes() + b"\0\0"}, "pixel_length", LENGTH),
    ({"PixelData": picture().tobytes() * 2}, "pixel_length", LENGTH),
    ({"PhotometricInterpretation": "RGB"}, "photometric", f"{PHOTOMETRIC} is RGB"),
    ({"PhotometricInterpretation": None}, "photometric", f"{PHOTOMETRIC} is missing"),
    ({"PhotometricInterpretation": "Smith"}, "photometric", f"{PHOTOMETRIC} is another value"),
    ({"PresentationLUTShape": "INVERSE"}, "polarity", SHAPE),
    (
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
        "polarity",
        SHAPE,
    ),
    ({"RescaleSlope": "0"}, "rescale", f"{SLOPE} is 0"),
    ({"RescaleSlope": math.nan}, "bad_number", SLOPE),
    ({"RescaleSlope": math.inf}, "bad_number", SLOPE),
    ({"RescaleSlope": ["1", "2"]}, "bad_number", SLOPE),
    ({"RescaleIntercept": math.nan}, "bad_number", INTERCEPT),
    ({"ModalityLUTSequence": [LUT]}, "modality_lut", "(0028,3000) ModalityLUTSequence"),
    ({"PixelPaddingValue": 0}, "pixel_padding", "(0028,0120) PixelPaddingValue"),
    ({"PixelAspectRatio": [1, 2]}, "aspect_ratio", "(0028,0034) PixelAspectRatio"),
    ({"PatientOrientation": ["R", "F"]}, "orientation", "(0020,0020) PatientOrientation"),
    ({"PatientOrientation": ["L", "H"]}, "orientation", "(0020,0020) PatientOrientation"),
    ({"PatientOrientation": ["F", "L"]}, "orientation", "(0020,0020) PatientOrientation"),
    ({"PatientOrientation": ["R", "F", "A"]}, "orientation", "(0020,0020) PatientOrientation"),
    ({"SamplesPerPixel": 3}, "pixel_module", "(0028,0002) SamplesPerPixel"),
    ({"Rows": 0}, "pixel_module", "(0028,0010) Rows"),
    ({"Rows": 65535, "Columns": 65535}, "too_large", "(0028,0010) Rows"),
    ({"BitsAllocated": 32}, "pixel_module", "(0028,0100) BitsAllocated"),
    ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "pixel_module", "(0028,0100)"),
    ({"BitsStored": 17, "HighBit": 16}, "pixel_module", "(0028,0101) BitsStored"),
    ({"BitsStored": 0}, "pixel_module", "(0028,0101) BitsStored"),
    ({"HighBit": 15}, "pixel_module", "(0028,0102) HighBit"),
    ({"PixelRepresentation": 2}, "pixel_module", "(0028,0103) PixelRepresentation"),
    ({"PixelData": bytes(2880)}, "constant_image", "every pixel has the same value"),
]
REQUIRED = {
    "Rows": "(0028,0010) Rows",
    "Columns": "(0028,0011) Columns",
    "BitsAllocated": "(0028,0100) BitsAllocated",
    "BitsStored": "(0028,0101) BitsStored",
    "HighBit": "(0028,0102) HighBit",
    "PixelRepresentation": "(0028,0103) PixelRepresentation",
    "SamplesPerPixel": "(0028,0002) SamplesPerPixel",
}
FAILED += [({key: None}, "pixel_module", f"{tag} is missing") for key, tag in REQUIRED.items()]


def refusal(ds: Dataset, folder: Path) -> RefusedImage:
    with pytest.raises(RefusedImage) as caught:
        load_image(write(ds, folder / "image.dcm"), "mimic-jpg")
    return caught.value


def check(kind: type[RefusedImage], found: RefusedImage, reason: str, says: str) -> None:
    assert type(found) is kind
    assert found.status == ("not_evaluated" if kind is NotEvaluated else "failed")
    assert found.reason == reason
    assert says in str(found)
    assert "Smith" not in str(found)
    assert found.study_key == f"{UID}.2"  # so that the refusal is listed under its study
    assert found.view == "PA"


@pytest.mark.parametrize(("tags", "reason", "says"), NOT_EVALUATED, ids=repr)
def test_not_evaluated_by_rule(
    tags: dict[str, Any], reason: str, says: str, tmp_path: Path
) -> None:
    check(NotEvaluated, refusal(dx(**tags), tmp_path), reason, says)


@pytest.mark.parametrize(
    ("tags", "reason", "says"), FAILED, ids=[f"{'+'.join(t)}-{r}" for t, r, _ in FAILED]
)
def test_failed(tags: dict[str, Any], reason: str, says: str, tmp_path: Path) -> None:
    check(FailedImage, refusal(dx(**tags), tmp_path), reason, says)


@pytest.mark.parametrize(
    ("syntax", "says"),
    [
        ("1.2.840.10008.1.2.4.70", "(0002,0010) TransferSyntaxUID 1.2.840.10008.1.2.4.70"),
        ("1.2.840.10008.1.2.4.51", "(0002,0010) TransferSyntaxUID 1.2.840.10008.1.2.4.51"),
        ("1.2.3.4", "(0002,0010) TransferSyntaxUID not a transfer syntax"),
        ("2.25.19570131", "(0002,0010) TransferSyntaxUID not a transfer syntax"),
        (CT, "(0002,0010) TransferSyntaxUID not a transfer syntax"),
    ],
)
def test_a_transfer_syntax_without_decoder(syntax: str, says: str, tmp_path: Path) -> None:
    path = write(dx(), tmp_path / "image.dcm")
    data = path.read_bytes()
    for old, new in ((b"1.2.840.10008.1.2.1\0", syntax.encode()),):
        new += b"\0" * (len(new) % 2)
        at = data.index(old)
        data = data[: at - 2] + len(new).to_bytes(2, "little") + new + data[at + len(old) :]
        longer = data[140] + len(new) - len(old)  # the length of the meta group
        data = data[:140] + bytes([longer]) + data[141:]
    path.write_bytes(data)
    with pytest.raises(FailedImage) as caught:
        load_image(path, "mimic-jpg")
    check(FailedImage, caught.value, "transfer_syntax", says)


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "CR"},
        {"Modality": "dx "},
        {"Modality": None},
        {"BodyPartExamined": "LUNG"},
        {"NumberOfFrames": 1},
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"PatientOrientation": ["L", "F"]},
        {"PatientOrientation": ["LA", "FP"]},
        {"PatientOrientation": ["A", "F"], "ViewPosition": "LL"},
        {"PatientOrientation": ""},
        {"PixelAspectRatio": [3, 3]},
        {"RescaleSlope": "", "RescaleIntercept": None},
        {"PatientName": None, "PatientID": None, "StudyInstanceUID": None},
    ],
    ids=repr,
)
def test_what_the_rules_let_through(tags: dict[str, Any], tmp_path: Path) -> None:
    ds = dx(RescaleIntercept="0", **tags) if "RescaleIntercept" not in tags else dx(RescaleSlope="")
    grey = load_image(write(ds, tmp_path / "image.dcm"), "mimic-jpg").grey
    assert grey.shape == (40, 36)
    assert np.ptp(grey) == 255


@pytest.mark.parametrize("position", ["LLAT", "LEFT LATERAL", "Lat", "RAO", "LEFT OBLIQUE"])
def test_a_lateral_by_any_name_is_not_frontal(position: str) -> None:
    """Found in review: unlisted spellings counted as frontal."""
    assert view_of(dx(ViewPosition=position)) in ("lateral", "oblique")


def test_for_processing_by_its_sop_class(tmp_path: Path) -> None:
    ds = dx(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1")
    assert refusal(ds, tmp_path).reason == "for_processing"
