"""Which DICOM headers are a chest radiograph that may be scored. Rules as data, in the order asked.

Each rule looks at one tag and answers with a reason code and one sentence, or with nothing.
Values are repeated in a message only when they are words the standard defines: anything else could
be a name that somebody typed into the wrong field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from tier_infer.errors import FailedImage, NotEvaluated

RADIOGRAPHY = ("CR", "DX", "DR")  # DR is not in the standard any more, but in old archives
RADIOGRAPHY_SOP = (  # PS3.4 B.5; asked only when Modality is missing
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
)
FOR_PROCESSING_SOP = "1.2.840.10008.5.1.4.1.1.1.1.1"
CHEST = ("CHEST", "THORAX", "LUNG", "CHESTABDOMEN", "CHEST_TO_ABDOMEN", "PORT CHEST")
FRONTAL = ("PA", "AP")
LATERAL = ("LL", "RL", "LATERAL", "LAT")
OBLIQUE = ("RLO", "LLO", "RAO", "LAO", "RPO", "LPO", "OBLIQUE", "LLD", "RLD")
MODALITIES = {
    "CR",
    "DX",
    "DR",
    "CT",
    "MR",
    "US",
    "NM",
    "PT",
    "PET",
    "MG",
    "RF",
    "XA",
    "OT",
    "SC",
    "SR",
    "PR",
    "SEG",
    "REG",
    "RTDOSE",
    "RTPLAN",
    "RTSTRUCT",
    "RTIMAGE",
    "ES",
    "XC",
    "OP",
    "OCT",
    "ECG",
    "DOC",
    "KO",
    "IO",
    "PX",
    "RG",
    "SM",
    "GM",
    "BI",
    "TG",
    "LS",
    "MS",
    "HD",
    "PLAN",
    "RWV",
}
BODY_PARTS = {
    "ABDOMEN",
    "ANKLE",
    "ARM",
    "BREAST",
    "CSPINE",
    "CLAVICLE",
    "ELBOW",
    "EXTREMITY",
    "FINGER",
    "FOOT",
    "FOREARM",
    "HAND",
    "HEAD",
    "HIP",
    "HUMERUS",
    "KNEE",
    "LEG",
    "LSPINE",
    "NECK",
    "PELVIS",
    "RIB",
    "SHOULDER",
    "SKULL",
    "SPINE",
    "TSPINE",
    "TOE",
    "WRIST",
}
PHOTOMETRIC = {
    "MONOCHROME1",
    "MONOCHROME2",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
    "YBR_PARTIAL_420",
} | {"PALETTE COLOR"}


def named(ds: Dataset, keyword: str, vocabulary: Iterable[str] = ()) -> str:
    """'(0028,0004) PhotometricInterpretation is RGB', the value only when it is a known word."""
    value = text(ds, keyword)
    if not value:
        return f"{tag(keyword)} is missing"
    return f"{tag(keyword)} is {value if value in set(vocabulary) else 'another value'}"


def tag(keyword: str) -> str:
    number = tag_for_keyword(keyword) or 0
    return f"({number >> 16:04X},{number & 0xFFFF:04X}) {keyword}"


def value_of(ds: Dataset, keyword: str) -> Any:
    """pydicom converts a value when it is asked for, and may fail on it with any exception."""
    try:
        return ds.get(keyword)
    except Exception:
        raise FailedImage("bad_value", f"{tag(keyword)} can't be read") from None


def values(ds: Dataset, keyword: str) -> list[Any]:
    """All values of a tag; a single one is a list of one."""
    value = value_of(ds, keyword)
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | Sequence) else [value]


def text(ds: Dataset, keyword: str) -> str:
    value = value_of(ds, keyword)
    return "" if value is None else str(value).strip().upper()


def number(ds: Dataset, keyword: str, default: float | None = None) -> float | None:
    """A numeric tag as float; `default` when absent, FailedImage when it is not a finite number."""
    value = value_of(ds, keyword)
    if value is None or value == "":
        return default
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise FailedImage("bad_number", f"{tag(keyword)} must be a finite number")
    return result


def whole(ds: Dataset, keyword: str) -> int:
    """A type 1 integer; no default is guessed."""
    result = number(ds, keyword)
    if result is None:
        raise FailedImage("pixel_module", f"{tag(keyword)} is missing, so pixels can't be read")
    if not result.is_integer():
        raise FailedImage("bad_number", f"{tag(keyword)} must be a whole number")
    return int(result)


def check_object(ds: Dataset) -> None:
    """Is it a single-frame grey chest radiograph? NotEvaluated by rule otherwise."""
    modality, sop = text(ds, "Modality"), text(ds, "SOPClassUID")
    if modality not in RADIOGRAPHY and (modality or sop not in RADIOGRAPHY_SOP):
        raise NotEvaluated(
            "modality", f"{named(ds, 'Modality', MODALITIES)}; only CR and DX images are scored"
        )
    body = text(ds, "BodyPartExamined")
    if body and body not in CHEST:
        found = named(ds, "BodyPartExamined", BODY_PARTS)
        raise NotEvaluated("body_part", f"{found}; only chest radiographs are scored")
    if "PixelData" not in ds:
        raise FailedImage("no_pixels", "(7FE0,0010) PixelData is missing: there is no image")
    if (number(ds, "NumberOfFrames", 1) or 1) != 1:
        raise NotEvaluated(
            "multi_frame", "(0028,0008) NumberOfFrames is above 1; only single images are scored"
        )
    if text(ds, "PresentationIntentType") == "FOR PROCESSING" or sop == FOR_PROCESSING_SOP:
        raise NotEvaluated(
            "for_processing",
            "(0008,0068) PresentationIntentType is FOR PROCESSING; "
            "send the image FOR PRESENTATION of the same exposure",
        )


def check_polarity(ds: Dataset) -> bool:
    """True when stored values must be inverted to make dense tissue bright.

    MONOCHROME1 and a negative rescale slope each invert once (PS3.3 C.7.6.3.1.2, C.11.1);
    PresentationLUTShape INVERSE merely restates MONOCHROME1 (PS3.3 C.8.11.3).
    """
    photometric, shape = text(ds, "PhotometricInterpretation"), text(ds, "PresentationLUTShape")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise FailedImage(
            "photometric",
            f"{named(ds, 'PhotometricInterpretation', PHOTOMETRIC)}; "
            "allowed: MONOCHROME1, MONOCHROME2",
        )
    if (photometric, shape) in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        raise FailedImage(
            "polarity",
            "(2050,0020) PresentationLUTShape contradicts (0028,0004) PhotometricInterpretation, "
            "so black and white can't be told apart",
        )
    slope = number(ds, "RescaleSlope", 1.0) or 0.0
    number(ds, "RescaleIntercept", 0.0)
    if slope == 0:
        raise FailedImage("rescale", "(0028,1053) RescaleSlope is 0, which leaves no image")
    return (photometric == "MONOCHROME1") != (slope < 0)


def check_unsupported(ds: Dataset) -> None:
    """What this version can't render exactly is refused rather than guessed."""
    orientation = tuple(str(v).upper()[:1] for v in values(ds, "PatientOrientation"))
    aspect = [str(v) for v in values(ds, "PixelAspectRatio")]
    if values(ds, "ModalityLUTSequence"):
        raise FailedImage("modality_lut", "(0028,3000) ModalityLUTSequence is not supported")
    if "PixelPaddingValue" in ds:
        raise FailedImage(
            "pixel_padding",
            "(0028,0120) PixelPaddingValue is not supported: it moves the grey scale",
        )
    if aspect and (len(aspect) != 2 or aspect[0] != aspect[1]):
        raise FailedImage(
            "aspect_ratio", "(0028,0034) PixelAspectRatio other than 1\\1 is not supported"
        )
    if orientation not in ((), ("L", "F")) and view_of(ds) != "lateral":
        raise FailedImage(
            "orientation",
            "(0020,0020) PatientOrientation is not L\\F: the image is mirrored or rotated",
        )


def view_of(ds: Dataset) -> str:
    """'PA', 'AP', 'lateral', 'oblique' or 'unknown', from ViewPosition or ViewCodeSequence."""
    position = text(ds, "ViewPosition")
    codes = [] if position else values(ds, "ViewCodeSequence")
    if codes and isinstance(codes[0], Dataset):
        position = text(codes[0], "CodeMeaning")
        position = {"POSTERO-ANTERIOR": "PA", "ANTERO-POSTERIOR": "AP"}.get(position, position)
    if position in FRONTAL:
        return position
    if position in OBLIQUE or "OBL" in position:
        return "oblique"
    return "lateral" if position in LATERAL or "LAT" in position else "unknown"


def header_flags(ds: Dataset) -> list[str]:
    """What a reader of the score should know and the header says."""
    flags = []
    if values(ds, "WindowWidth") or values(ds, "VOILUTSequence"):
        flags.append("window_ignored")  # both intensity presets work on stored values
    if text(ds, "LossyImageCompression") == "01":
        flags.append("lossy")
    if text(ds, "BurnedInAnnotation") == "YES":
        flags.append("burned_in_annotation")
    if not text(ds, "BodyPartExamined"):
        flags.append("body_part_unknown")
    if not text(ds, "Modality"):
        flags.append("modality_missing")
    return flags
