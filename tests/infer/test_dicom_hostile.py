"""python -m pytest tests/infer/test_dicom_hostile.py -- damaged and talkative DICOM files."""

from __future__ import annotations

import logging
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.infer.dicom_files import dx, in_syntax, outcome, raw_element, write

CANARY = "CANARY"
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
]


def rich() -> Dataset:
    """A scored dataset in which every tag that the reader asks for stands."""
    view, table = Dataset(), Dataset()
    view.CodeMeaning = "postero-anterior"
    table.LUTDescriptor, table.LUTData = [2, 0, 16], b"\0\1\0\1"
    tags = {"RescaleSlope": "1", "RescaleIntercept": "0", "WindowWidth": "9", "NumberOfFrames": 1}
    tags |= {"PatientOrientation": ["L", "F"], "PixelAspectRatio": [1, 1], "ViewPosition": None}
    tags |= {"ViewCodeSequence": [view], "VOILUTSequence": [table], "BurnedInAnnotation": "NO"}
    tags |= {"PresentationLUTShape": "IDENTITY", "PresentationIntentType": "FOR PRESENTATION"}
    return dx(**tags, SpecificCharacterSet="ISO_IR 192", LossyImageCompression="00")


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
def test_a_file_cut_anywhere_is_refused(syntax: str, tmp_path: Path) -> None:
    whole = write(in_syntax(rich(), syntax), tmp_path / "whole.dcm").read_bytes()
    last = len(whole) - 12  # behind it only padding and the end of the sequence may be missing
    for cut in np.linspace(0, last, 40).astype(int):
        assert outcome(tmp_path / "cut.dcm", whole[:cut]) != "scored", f"cut at {cut}"


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
def test_changed_bytes_end_in_a_score_or_a_refusal(syntax: str, tmp_path: Path) -> None:
    """300 files with 1 to 4 changed bytes, in the header mostly; the seed is fixed."""
    whole = write(in_syntax(rich(), syntax), tmp_path / "whole.dcm").read_bytes()
    rng = random.Random(7)
    wrong = []
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 4))):
            data[rng.randrange(128, min(len(data), 1200))] = rng.choice(
                (0, 255, rng.randrange(256))
            )
        try:
            outcome(tmp_path / "changed.dcm", bytes(data))
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    assert not wrong, f"{len(wrong)} of 300, the first: {wrong[0]}"


READ = ["Modality", "SOPClassUID", "BodyPartExamined", "NumberOfFrames", "PresentationIntentType"]
READ += ["PhotometricInterpretation", "PresentationLUTShape", "RescaleSlope", "RescaleIntercept"]
READ += ["PatientOrientation", "PixelAspectRatio", "ViewCodeSequence", "Rows", "BitsStored"]
READ += ["WindowWidth", "VOILUTSequence", "LossyImageCompression", "BurnedInAnnotation"]
READ += ["StudyInstanceUID", "SOPInstanceUID", "SamplesPerPixel", "PixelRepresentation"]
READ += ["PixelPaddingValue", "ModalityLUTSequence", "ViewPosition", "PixelData"]


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        (b"ZZ", b"CANARY"),  # no such VR
        (b"LO", b"CANARY"),
        (b"US", b"CAN"),  # not a whole number of values
        (b"IS", b"CANARY"),
        (b"DS", b"1\\CANARY"),
        (b"SQ", b"CANARY"),
        (b"UI", b"\xff\xfeCANARY"),
        (b"PN", b"CANARY^\xff"),
        (b"AT", b"CANARY"),
        (b"FD", b""),
    ],
    ids=lambda v: repr(v)[2:-1],
)
def test_any_value_in_any_tag_that_is_read(vr: bytes, value: bytes, tmp_path: Path) -> None:
    """Never another exception or a warning, and never the value in the sentence."""
    wrong = []
    for keyword in READ:
        ds = rich()
        if keyword in ds:
            del ds[keyword]
        whole = write(ds, tmp_path / "whole.dcm").read_bytes()
        pixels = whole.rfind(b"\xe0\x7f\x10\x00")
        at = len(whole) if pixels < 0 else pixels
        odd = whole[:at] + raw_element(keyword, vr, value) + whole[at:]
        try:
            said = outcome(tmp_path / "odd.dcm", odd)
        except Exception as error:
            said = f"{type(error).__name__} {CANARY}"
        wrong += [f"{keyword}: {said}"] * (CANARY in said)
    assert not wrong


TALKATIVE = ["PatientName", "PatientID", "StudyDescription", "ViewPosition", "BodyPartExamined"]
TALKATIVE += ["Modality", "PhotometricInterpretation", "RescaleSlope", "StudyInstanceUID"]
TALKATIVE += ["SOPInstanceUID", "SOPClassUID", "PatientOrientation"]


@pytest.mark.parametrize("breaks", ["nothing", "pixels", "modality", "syntax"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_no_header_value_in_a_message_a_warning_or_a_log(
    syntax: str, breaks: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for keyword in TALKATIVE:
        ds = dx(PixelData=b"\0" * 10) if breaks == "pixels" else dx()
        ds.Modality = "CT" if breaks == "modality" else "DX"
        if keyword in ds:
            del ds[keyword]
        ds.private_block(0x0009, CANARY, create=True).add_new(1, "LO", CANARY)
        ds.file_meta.TransferSyntaxUID = syntax
        data = write(ds, tmp_path / "a.dcm").read_bytes()
        at = data.index(b"\x28\x00\x02\x00")  # SamplesPerPixel; order matters to nobody here
        vr = b"" if syntax == ImplicitVRLittleEndian else b"LO"
        data = data[:at] + raw_element(keyword, vr, CANARY.encode()) + data[at:]
        if breaks == "syntax":
            data = data.replace(syntax.encode(), CANARY.encode().ljust(len(syntax), b"\0"))
        caplog.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            said = outcome(tmp_path / "a.dcm", data)
        heard = [said, caplog.text, *(str(w.message) for w in caught)]
        assert not any(CANARY in text for text in heard), f"{keyword}: {heard}"


@pytest.mark.parametrize("keyword", ["BitsStored", "BitsAllocated", "HighBit"])
def test_a_number_in_the_wrong_tag_is_not_repeated(keyword: str, tmp_path: Path) -> None:
    """A date of birth or a patient number is a number too."""
    ds = dx()
    del ds[keyword]
    data = write(ds, tmp_path / "a.dcm").read_bytes()
    at = data.rindex(b"\xe0\x7f\x10\x00")
    said = outcome(
        tmp_path / "a.dcm", data[:at] + raw_element(keyword, b"DA", b"19570131") + data[at:]
    )
    assert said.startswith(("pixel_module", "bad_number"))
    assert "19570131" not in said


def test_a_character_set_that_is_a_name_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """pydicom repeats it in a log record, which a host application may well write to disk."""
    data = write(dx(), tmp_path / "a.dcm").read_bytes()
    at = data.index(b"\x08\x00\x16\x00")
    name = raw_element("SpecificCharacterSet", b"CS", CANARY.encode())
    outcome(tmp_path / "a.dcm", data[:at] + name + data[at:])
    assert CANARY not in caplog.text
