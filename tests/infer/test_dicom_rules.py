"""python -m pytest tests/infer/test_dicom_rules.py -- every refusal: class, reason, and its tag."""

from __future__ import annotations

import importlib.util
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from tests.infer.dicom_files import UID, codestream, dx, film, picture, told, write
from tier_infer.dicom.rules import header_flags, view_of
from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage
from tier_infer.images import load_image
from tier_infer.words import CAUTION, FLAG_WORDS

LUT = Dataset()
LUT.LUTDescriptor, LUT.LUTData = [2, 0, 16], b"\0\1\0\1"
CT = "1.2.840.10008.5.1.4.1.1.2"
DIGITAL_RAW = "1.2.840.10008.5.1.4.1.1.1.1.1"
MODALITY, BODY = "(0008,0060) Modality", "(0018,0015) BodyPartExamined"
REGION = "(0008,2218) AnatomicRegionSequence"
PHOTOMETRIC = "(0028,0004) PhotometricInterpretation"
INTENT, RELATION = "(0008,0068) PresentationIntentType", "(0028,1040) PixelIntensityRelationship"
FRAMES = "(0028,0008) NumberOfFrames"
DERIVED = "(0008,2111) DerivationDescription"


def code(value: str | None, meaning: str = "", scheme: str = "SCT") -> Dataset:
    """One item of a coded sequence."""
    item = Dataset()
    item.CodeMeaning, item.CodingSchemeDesignator = meaning, scheme
    if value is not None:
        item.CodeValue = value
    return item


# what is changed in a header that is scored, the reason, how the sentence begins or what it names
NOT_EVALUATED: list[tuple[dict[str, Any], str, str]] = [
    ({"Modality": "CT"}, "modality", f"{MODALITY} is CT"),
    ({"Modality": "Smith"}, "modality", f"{MODALITY} is another value"),
    ({"Modality": ["DX", "CT"]}, "modality", MODALITY),
    ({"Modality": None, "SOPClassUID": CT}, "modality", f"{MODALITY} is missing"),
    ({"Modality": "", "SOPClassUID": None}, "modality", f"{MODALITY} is missing"),
    ({"BodyPartExamined": "HAND"}, "body_part", f"{BODY} is HAND"),
    ({"BodyPartExamined": "Smith"}, "body_part", f"{BODY} is another value"),
    ({"BodyPartExamined": ["CHEST", "HAND"]}, "body_part", BODY),
    ({"AnatomicRegionSequence": [code("72696002")]}, "body_part", REGION),
    ({"AnatomicRegionSequence": [code("816094009"), code("72696002")]}, "body_part", REGION),
    ({"AnatomicRegionSequence": [code("Smith", "Smith")]}, "body_part", REGION),
    (
        {"BodyPartExamined": None, "AnatomicRegionSequence": [code("T-D8800", scheme="SRT")]},
        "body_part",
        REGION,
    ),
    ({"NumberOfFrames": 2}, "multi_frame", f"{FRAMES} is above 1"),
    ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing", f"{INTENT} is FOR PROCESSING"),
    ({"SOPClassUID": DIGITAL_RAW}, "for_processing", INTENT),
    ({"PixelIntensityRelationship": "LIN"}, "for_processing", f"{RELATION} is LIN"),
    (
        {"PixelIntensityRelationship": "LIN", "PresentationIntentType": "Smith"},
        "for_processing",
        RELATION,
    ),
    ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "dicomdir", "DICOMDIR"),
    ({"DirectoryRecordSequence": [Dataset()], "Modality": None}, "dicomdir", "name its folder"),
    ({"DirectoryRecordSequence": [], "Modality": None}, "dicomdir", "name its folder"),
    ({"Manufacturer": "TIER-CXR"}, "own_output", "tier-infer itself"),
    ({"Manufacturer": "tier-cxr 0.2"}, "own_output", "tier-infer itself"),
]
for words in (
    *("Dual energy subtraction", "DUAL_ENERGY", "DualEnergy bone", "Soft tissue", "SOFT_TISSUE"),
    *("bone suppression", "BONE_SUPPRESSED", "Bone image", "Temporal difference", "CAD_RESULT"),
    *("AI heatmap", "saliency map", "annotated copy", "tomosynthesis slice 3", "Localizer"),
):
    for tags in (
        {"DerivationDescription": words},
        {"SeriesDescription": words},
        {"ImageType": ["DERIVED", "PRIMARY", words.replace(" ", "_")]},
    ):
        if "ImageType" not in tags or "_" in words or " " not in words:
            NOT_EVALUATED.append((tags, "derived", DERIVED))
NOT_EVALUATED += [
    ({"DerivationDescription": "Lung nodule CAD"}, "derived", DERIVED),
    ({"SeriesDescription": "Lung nodule CAD"}, "derived", DERIVED),
    ({"SeriesDescription": "CAD overlay"}, "derived", DERIVED),
    ({"ImageType": ["DERIVED", "SECONDARY", "CAD"]}, "derived", DERIVED),
]
SHAPE = "(2050,0020) PresentationLUTShape contradicts " + PHOTOMETRIC
SLOPE, INTERCEPT = "(0028,1053) RescaleSlope", "(0028,1052) RescaleIntercept"
LENGTH = "(7FE0,0010) PixelData has"
PADDING = "(0028,0120) PixelPaddingValue"
ASPECT, SPACING = "(0028,0034) PixelAspectRatio", "(0028,0030) PixelSpacing"
ORIENTATION = "(0020,0020) PatientOrientation"
PLANAR = "(0028,0006) PlanarConfiguration"
RATIO = "(0028,2112) LossyImageCompressionRatio"
FAILED: list[tuple[dict[str, Any], str, str]] = [
    ({"PixelData": None}, "no_pixels", "(7FE0,0010) PixelData is missing"),
    ({"PixelData": b""}, "truncated", "(7FE0,0010) PixelData"),
    ({"PixelData": picture().tobytes()[:-2]}, "truncated", LENGTH),
    ({"PixelData": picture().tobytes() + b"\0\0"}, "pixel_length", LENGTH),
    ({"PixelData": picture().tobytes() * 2}, "pixel_length", LENGTH),
    ({"PhotometricInterpretation": "RGB"}, "pixel_module", "(0028,0002) SamplesPerPixel"),
    ({"PhotometricInterpretation": "HSV"}, "photometric", f"{PHOTOMETRIC} is HSV"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric", "palette"),
    ({"PhotometricInterpretation": None}, "photometric", f"{PHOTOMETRIC} is missing"),
    ({"PhotometricInterpretation": "Smith"}, "photometric", f"{PHOTOMETRIC} is another value"),
    ({"PresentationLUTShape": "INVERSE"}, "polarity", SHAPE),
    (
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
        "polarity",
        SHAPE,
    ),
    ({"PresentationLUTShape": "LIN OD"}, "presentation_lut", "(2050,0020) PresentationLUTShape"),
    ({"PresentationLUTSequence": [LUT]}, "presentation_lut", "(2050,0020) PresentationLUTShape"),
    ({"RescaleSlope": "0"}, "rescale", f"{SLOPE} is 0"),
    ({"RescaleSlope": math.nan}, "bad_number", SLOPE),
    ({"RescaleSlope": math.inf}, "bad_number", SLOPE),
    ({"RescaleSlope": ["1", "2"]}, "bad_number", SLOPE),
    ({"RescaleIntercept": math.nan}, "bad_number", INTERCEPT),
    ({"ModalityLUTSequence": [LUT]}, "modality_lut", "(0028,3000) ModalityLUTSequence"),
    ({"ModalityLUTSequence": [LUT, LUT]}, "modality_lut", "must hold one item"),
    ({"VOILUTSequence": [LUT]}, "voi_lut", "(0028,3010) VOILUTSequence"),
    ({"PixelPaddingRangeLimit": 10}, "pixel_padding", f"{PADDING} is missing"),
    ({"PixelAspectRatio": [1, 5]}, "pixel_aspect", ASPECT),
    ({"PixelAspectRatio": [0, 1]}, "pixel_aspect", ASPECT),
    ({"PixelAspectRatio": [-1, 1]}, "pixel_aspect", ASPECT),
    ({"PixelAspectRatio": [1, 1, 1]}, "pixel_aspect", ASPECT),
    ({"PixelSpacing": ["0.1", "0.5"]}, "pixel_aspect", SPACING),
    ({"PatientOrientation": ["A", "F"]}, "orientation", f"{ORIENTATION} does not fit a PA view"),
    ({"PatientOrientation": ["L", "P"]}, "orientation", f"{ORIENTATION} does not fit a PA view"),
    ({"PatientOrientation": ["L", "R"]}, "orientation", ORIENTATION),
    ({"PatientOrientation": ["F", "H"]}, "orientation", ORIENTATION),
    ({"PatientOrientation": ["L"]}, "orientation", f"{ORIENTATION} must be two directions"),
    ({"PatientOrientation": ["R", "F", "A"]}, "orientation", ORIENTATION),
    ({"PatientOrientation": ["X", "F"]}, "orientation", ORIENTATION),
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
    ({"LossyImageCompressionRatio": "31"}, "lossy_ratio", f"{RATIO} is above 30"),
    ({"LossyImageCompressionRatio": ["2", "40"]}, "lossy_ratio", RATIO),
    ({"LossyImageCompressionRatio": math.nan}, "bad_number", RATIO),
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


@pytest.mark.parametrize("syntax", ["1.2.3.4", "2.25.19570131", CT, "1.2.840.10008.1.2.4.100"])
def test_a_transfer_syntax_without_decoder(syntax: str, tmp_path: Path) -> None:
    path = write(dx(), tmp_path / "image.dcm")
    data = path.read_bytes()
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    old = b"1.2.840.10008.1.2.1\0"
    at = data.index(old)
    data = data[: at - 2] + len(new).to_bytes(2, "little") + new + data[at + len(old) :]
    longer = data[140] + len(new) - len(old)  # the length of the meta group
    path.write_bytes(data[:140] + bytes([longer]) + data[141:])
    with pytest.raises(FailedImage) as caught:
        load_image(path, "mimic-jpg")
    known = syntax if syntax.endswith(".4.100") else "not a transfer syntax"
    check(
        FailedImage,
        caught.value,
        "transfer_syntax",
        f"(0002,0010) TransferSyntaxUID {known}: there is no decoder",
    )


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"])
def test_a_decoder_that_is_not_installed_is_named(
    syntax: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line to install it, before anything is decoded."""
    stream = io.BytesIO()
    Image.fromarray((picture() >> 4).astype(np.uint8)).save(stream, "JPEG")
    stream = stream.getvalue()
    if syntax.endswith("70"):  # the frame header of process 14 in place of the baseline one
        stream = stream.replace(b"\xff\xc0", b"\xff\xc3", 1)
    ds = codestream(dx((picture() >> 4).astype(np.uint8), bits=8), stream, syntax)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "imagecodecs" else find_spec(name)
    )
    found = refusal(ds, tmp_path)
    check(FailedImage, found, "decoder_missing", f"(0002,0010) TransferSyntaxUID {syntax}")
    assert "pip install 'tier-cxr[jpeg-lossless]'" in str(found)


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "CR"},
        {"Modality": "dx "},
        {"Modality": None},
        {"BodyPartExamined": "LUNG"},
        {"NumberOfFrames": 1},
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"PresentationIntentType": "FOR PRESENTATION", "PixelIntensityRelationship": "LIN"},
        {"PixelIntensityRelationship": "LOG"},
        {"AnatomicRegionSequence": []},
        {"AnatomicRegionSequence": [code("816094009")]},
        {"AnatomicRegionSequence": [code("T-D3000", scheme="SRT")], "BodyPartExamined": None},
        {"ImageType": ["DERIVED", "PRIMARY", "", "POST_PROCESSED"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "CADENCE"]},  # not every CAD is one
        {"SeriesDescription": "Facade chest PA"},
        {"DerivationDescription": "Brightness and contrast adapted"},
        {"Manufacturer": "ACME"},
        {"LossyImageCompression": "01", "LossyImageCompressionRatio": "30"},
        {"PatientOrientation": ["L", "F"]},
        {"PatientOrientation": ["LA", "FP"]},
        {"PatientOrientation": ["A", "F"], "ViewPosition": "LL"},
        {"PatientOrientation": ""},
        {"PixelAspectRatio": [3, 3]},
        {"RescaleSlope": "", "RescaleIntercept": None},
        {"PatientName": None, "PatientID": None, "StudyInstanceUID": None},
        {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
    ],
    ids=repr,
)
def test_what_the_rules_let_through(tags: dict[str, Any], tmp_path: Path) -> None:
    grey = load_image(write(dx(**tags), tmp_path / "image.dcm"), "mimic-jpg").grey
    assert grey.shape == (40, 36)
    assert np.ptp(grey) == 255


@pytest.mark.parametrize("position", ["LLAT", "LEFT LATERAL", "Lat", "RAO", "LEFT OBLIQUE"])
def test_a_lateral_by_any_name_is_not_frontal(position: str) -> None:
    """Found in review: unlisted spellings counted as frontal."""
    assert view_of(dx(ViewPosition=position)) in ("lateral", "oblique")


# PS3.16 CID 4010, DX View: SNOMED CT, its older SRT code, meaning; those that are a view of ours
VIEWS = [
    ("272479007", "R-40888", "postero-anterior", "PA"),
    ("399348003", "R-10206", "antero-posterior", "AP"),
    ("399067008", "R-102CD", "lateral", "lateral"),
    ("399173006", "R-10236", "left lateral", "lateral"),
    ("399198007", "R-10232", "right lateral", "lateral"),
    ("399260004", "R-10224", "medial-lateral", "lateral"),
    ("399352003", "R-10228", "lateral-medial", "lateral"),
    ("260426006", "R-40782", "medial oblique", "oblique"),
    ("260427002", "R-40783", "lateral oblique", "oblique"),
    ("399004004", "R-10246", "oblique axial", "oblique"),
    ("399006002", "R-10212", "left posterior oblique", "oblique"),
    ("399038007", "R-10210", "right posterior oblique", "oblique"),
    ("399059000", "R-10216", "postero-anterior oblique", "oblique"),
    ("399099002", "R-10230", "latero-medial oblique", "oblique"),
    ("399132005", "R-10252", "frontal-oblique axial", "oblique"),
    ("399135007", "R-10220", "left anterior oblique", "oblique"),
    ("399160007", "R-10204", "frontal oblique", "oblique"),
    ("399182000", "R-102C1", "oblique", "oblique"),
    ("399184004", "R-10238", "left oblique", "oblique"),
    ("399225005", "R-10250", "oblique caudo-cranial", "oblique"),
    ("399236003", "R-10234", "right oblique", "oblique"),
    ("399288005", "R-10248", "oblique cranio-caudal", "oblique"),
    ("399312000", "R-10208", "antero-posterior oblique", "oblique"),
    ("399325008", "R-10254", "sagittal-oblique axial", "oblique"),
    ("399356000", "R-40985", "right anterior oblique", "oblique"),
    ("399368009", "R-10226", "medio-lateral oblique", "oblique"),
    ("399033003", "R-10202", "frontal", "unknown"),
    ("399061009", "R-10241", "axial", "oblique"),
    ("399162004", "R-10242", "cranio-caudal", "unknown"),
]


@pytest.mark.parametrize(("value", "srt", "meaning", "view"), VIEWS, ids=[row[2] for row in VIEWS])
def test_coded_views_follow_ps3_16(value: str, srt: str, meaning: str, view: str) -> None:
    for words in (meaning, meaning.upper(), "Ansicht"):  # the meaning may be in any language
        for item in (code(value, words), code(srt, words, "SRT")):
            assert view_of(dx(ViewPosition=None, ViewCodeSequence=[item])) == view


@pytest.mark.parametrize(
    ("region", "chest"),
    [
        ("816094009", True),
        ("51185008", True),
        ("T-D3000", True),
        ("39607008", True),
        ("T-28000", True),
        ("416550000", True),
        ("416775004", True),
        ("43799004", True),
        ("69536005", False),  # head
        ("818981001", False),  # abdomen
        ("122495006", False),  # thoracic spine
        ("76752008", False),  # breast
        ("t-d3000", True),
    ],
)
def test_coded_regions(region: str, chest: bool, tmp_path: Path) -> None:
    ds = dx(film(), BodyPartExamined=None, AnatomicRegionSequence=[code(region)])
    if chest:
        assert not told(load_image(write(ds, tmp_path / "image.dcm"), "minmax").flags)
    else:
        assert refusal(ds, tmp_path).reason == "body_part"


AGES: list[tuple[dict[str, Any], bool]] = [
    ({"PatientAge": "017Y"}, True),
    ({"PatientAge": "018Y"}, False),
    ({"PatientAge": "000Y"}, True),
    ({"PatientAge": "120Y"}, False),
    ({"PatientAge": "215M"}, True),
    ({"PatientAge": "216M"}, False),
    ({"PatientAge": "938W"}, True),
    ({"PatientAge": "940W"}, False),
    ({"PatientAge": "003D"}, True),
    ({"PatientAge": "5Y"}, True),  # as archives hold it: too short, or plain years
    ({"PatientAge": "17"}, True),
    ({"PatientAge": "51"}, False),
    ({"PatientAge": "5X"}, False),
    ({"PatientBirthDate": "20020102", "StudyDate": "20200101"}, True),  # a day before 18
    ({"PatientBirthDate": "20020102", "StudyDate": "20200102"}, False),
    ({"PatientBirthDate": "20020102", "AcquisitionDate": "20200101"}, True),
    ({"PatientBirthDate": "20020102"}, False),
    ({"PatientBirthDate": "2002", "StudyDate": "20100101"}, False),  # no date: no guess
    ({"PatientAge": "060Y", "PatientBirthDate": "20020102", "StudyDate": "20100102"}, False),
    ({"PatientAge": "Smit", "PatientBirthDate": "20020102", "StudyDate": "20100102"}, True),
    ({"PatientAge": "", "PatientBirthDate": "19600102", "StudyDate": "20100102"}, False),
]


@pytest.mark.parametrize(("tags", "child"), AGES, ids=[repr(tags) for tags, _ in AGES])
def test_children_are_flagged(tags: dict[str, Any], child: bool) -> None:
    """PatientAge first, else the dates of birth and study; PS3.5 6.2 AS and DA."""
    assert header_flags(dx(**tags)) == ["pediatric"] * child


FLAGS: list[tuple[str, dict[str, Any]]] = [
    ("lossy", {"LossyImageCompression": "01"}),
    ("burned_in_annotation", {"BurnedInAnnotation": "YES"}),
    ("body_part_unknown", {"BodyPartExamined": None}),
    ("body_part_unknown", {"BodyPartExamined": ""}),
    ("body_part_unknown", {"BodyPartExamined": "", "AnatomicRegionSequence": []}),
    # A region that says nothing which could be checked is none.
    ("body_part_unknown", {"BodyPartExamined": "", "AnatomicRegionSequence": [code(None, "Hand")]}),
    ("body_part_unknown", {"BodyPartExamined": "", "AnatomicRegionSequence": [code("", "Hand")]}),
    ("modality_missing", {"Modality": ""}),
    ("modality_missing", {"Modality": None}),
    ("secondary_capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
    ("secondary_capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}),
    (
        "intensity_linear",
        {"PixelIntensityRelationship": "LIN", "PresentationIntentType": "FOR PRESENTATION"},
    ),
]


@pytest.mark.parametrize(("flag", "tags"), FLAGS, ids=repr)
def test_flags_of_the_header(flag: str, tags: dict[str, Any], tmp_path: Path) -> None:
    assert header_flags(dx(**tags)) == [flag]
    assert told(load_image(write(dx(**tags), tmp_path / "a.dcm"), "mimic-jpg").flags) == {flag}


def test_a_secondary_capture_without_modality_is_none_of_ours(tmp_path: Path) -> None:
    ds = dx(Modality=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    assert refusal(ds, tmp_path).reason == "modality"


def test_every_flag_has_its_words() -> None:
    """What the table and the report print under a flag."""
    assert all(FLAG_WORDS[flag].endswith(".") for flag, _ in FLAGS)
    assert CAUTION - {"uid_not_unique"} <= set(FLAG_WORDS)
