"""Which DICOM headers are a chest radiograph that may be scored. Rules as data, in the order asked.

Each rule answers with a reason code and one sentence, or with nothing.
"""

from __future__ import annotations

import re

from pydicom import Dataset

from tier_infer.dicom.header import items, named, number, numbers, tag, text, texts
from tier_infer.dicom.syntaxes import ALWAYS_LOSSY, LOSSY
from tier_infer.errors import FailedImage, NotEvaluated

RADIOGRAPHY = ("CR", "DX", "DR")  # DR is not in the standard any more, but in old archives
RADIOGRAPHY_SOP = (  # PS3.4 B.5; stands in for a missing Modality, and must not contradict one
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
)
FOR_PROCESSING_SOP = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE_SOP = "1.2.840.10008.5.1.4.1.1.7"
DICOMDIR_SOP = "1.2.840.10008.1.3.10"
OWN_OUTPUT = "TIER-CXR"  # what a secondary capture of ours says in Manufacturer

CHEST = (
    "CHEST",
    "THORAX",
    "LUNG",
    "CHESTABDOMEN",
    "CHEST_TO_ABDOMEN",
    "CHESTABDPELVIS",
    "PORT CHEST",
)
CHEST_CODES = (  # PS3.16 CID 4: SNOMED CT, and the older SRT spelling where there was one
    "816094009", "51185008", "T-D3000",  # chest
    "39607008", "T-28000",  # lung
    "416550000", "R-FAB55",  # chest and abdomen
    "416775004", "R-FAB56",  # chest, abdomen and pelvis
    "43799004", "T-D3200",  # intrathoracic
)  # fmt: skip
VIEW_CODES = {  # PS3.16 CID 4010: SNOMED CT, and its older SRT spelling
    "AP": ("399348003", "R-10206"),
    "PA": ("272479007", "R-40888", "R-10214"),
    "lateral": (
        "399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232",
        "399352003", "R-10228", "399260004", "R-10224",
    ),
    "oblique": (
        "399182000", "R-102C1", "399135007", "R-10220", "399356000", "R-40985", "399006002",
        "R-10212", "399038007", "R-10210", "399184004", "R-10238", "399236003", "R-10234",
        "399160007", "R-10204", "399312000", "R-10208", "399059000", "R-10216", "260427002",
        "R-40783", "260426006", "R-40782", "399099002", "R-10230", "399368009", "R-10226",
        "399225005", "R-10250", "399288005", "R-10248", "399132005", "R-10252", "399325008",
        "R-10254", "399061009", "R-10241", "399004004", "R-10246",
    ),
}  # fmt: skip
FRONTAL = ("PA", "AP")
LATERAL = ("LL", "RL", "LLAT", "RLAT")
MEANINGS = {"POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP"}
OBLIQUE_STEMS = ("OBL", "DECUB", "LORDO", "AXIAL", "TANGENT", "SWIMMER")
OBLIQUE = ("RLO", "LLO", "RAO", "LAO", "RPO", "LPO", "OBLIQUE", "LLD", "RLD")
PROCESSED = (  # words in ImageType, DerivationDescription or SeriesDescription
    "SUBTRACT", "DUAL ENERGY", "DUAL_ENERGY", "DUALENERGY", "SOFT TISSUE", "SOFT_TISSUE",
    "BONE SUPP", "BONE_SUPP", "BONE IMAGE", "TEMPORAL DIFF", "HEATMAP", "SALIENCY", "CAD_", "CAD ",
    "ANNOTATED", "TOMOSYNTHESIS", "LOCALIZER", "SOFTTISSUE", "RIB SUPP", "RIB REMOVAL", "CLEARREAD",
    "SCREEN SAVE",
)  # fmt: skip
PROCESSED_TYPES = {"DES", "BONE", "TISSUE", "SOFT"}  # values of ImageType, whole
MODALITIES = frozenset(
    {
        "CR", "DX", "DR", "CT", "MR", "US", "NM", "PT", "PET", "MG", "RF", "XA", "OT", "SC",
        "SR", "PR", "SEG", "REG", "RTDOSE", "RTPLAN", "RTSTRUCT", "RTIMAGE", "ES", "XC", "OP",
        "OCT", "ECG", "DOC", "KO", "IO", "PX", "RG", "SM", "GM", "BI", "TG", "LS", "MS", "HD",
        "PLAN", "RWV", "OSS",
    }
)  # fmt: skip
BODY_PARTS = frozenset(
    {
        "ABDOMEN", "ANKLE", "ARM", "BREAST", "CSPINE", "CLAVICLE", "ELBOW", "EXTREMITY",
        "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "KNEE", "LEG", "LSPINE",
        "NECK", "PELVIS", "RIB", "SHOULDER", "SKULL", "SPINE", "TSPINE", "TOE", "WRIST",
    }
)  # fmt: skip
ADULT = 18  # years
AGE = re.compile("([0-9]{1,3})([DWMY]?)")
MAX_LOSSY_RATIO = 30.0


def check_object(ds: Dataset) -> None:
    """Is it a single-frame chest radiograph? NotEvaluated by rule otherwise. Pixels untouched."""
    modality, sop = text(ds, "Modality"), text(ds, "SOPClassUID")
    if sop == DICOMDIR_SOP or "DirectoryRecordSequence" in ds:
        raise NotEvaluated(
            "dicomdir", "the file is a DICOMDIR; its references are not followed, name its folder"
        )
    if modality not in RADIOGRAPHY and (modality or sop not in RADIOGRAPHY_SOP):
        raise NotEvaluated(
            "modality", f"{named(ds, 'Modality', MODALITIES)}; only CR and DX images are scored"
        )
    if sop and sop not in (*RADIOGRAPHY_SOP, FOR_PROCESSING_SOP) and not _captured(sop):
        raise NotEvaluated(
            "modality",
            f"{tag('SOPClassUID')} is no CR, DX or Secondary Capture image, whatever "
            f"{tag('Modality')} says",
        )
    _check_body(ds)
    if OWN_OUTPUT in text(ds, "Manufacturer"):
        raise NotEvaluated("own_output", "the image is an output of tier-infer itself")
    if "PixelData" not in ds:
        raise FailedImage("no_pixels", f"{tag('PixelData')} is missing: there is no image")
    if (number(ds, "NumberOfFrames", 1) or 1) != 1:
        raise NotEvaluated(
            "multi_frame", f"{tag('NumberOfFrames')} is above 1; only single images are scored"
        )
    _check_intent(ds, sop)
    if any(ratio > MAX_LOSSY_RATIO for ratio in numbers(ds, "LossyImageCompressionRatio")):
        raise FailedImage(
            "lossy_ratio", f"{tag('LossyImageCompressionRatio')} is above {MAX_LOSSY_RATIO:g}"
        )


def _captured(sop: str) -> bool:
    """Secondary Capture, also its multi-frame classes (…7.1 to …7.4)."""
    return sop == SECONDARY_CAPTURE_SOP or sop.startswith(SECONDARY_CAPTURE_SOP + ".")


def _check_body(ds: Dataset) -> None:
    body = text(ds, "BodyPartExamined")
    if body and body not in CHEST:
        found = named(ds, "BodyPartExamined", BODY_PARTS)
        raise NotEvaluated("body_part", f"{found}; only chest radiographs are scored")
    if any(code not in CHEST_CODES for code in _regions(ds)):
        raise NotEvaluated(
            "body_part", f"{tag('AnatomicRegionSequence')} names another region than the chest"
        )


def _regions(ds: Dataset) -> list[str]:
    codes = [text(item, "CodeValue") for item in items(ds, "AnatomicRegionSequence")]
    return [code for code in codes if code]


def _check_intent(ds: Dataset, sop: str) -> None:
    """Raw exposures and processed derivatives look like radiographs and are none (C.8.11.3)."""
    intent, relation = text(ds, "PresentationIntentType"), text(ds, "PixelIntensityRelationship")
    stored_as = text(ds.file_meta, "MediaStorageSOPClassUID")  # may say what the dataset hides
    if intent == "FOR PROCESSING" or FOR_PROCESSING_SOP in (sop, stored_as):
        raise NotEvaluated(
            "for_processing",
            f"{tag('PresentationIntentType')} is FOR PROCESSING; "
            "send the image FOR PRESENTATION of the same exposure",
        )
    if relation == "LIN" and intent != "FOR PRESENTATION":
        raise NotEvaluated(
            "for_processing",
            f"{tag('PixelIntensityRelationship')} is LIN and {tag('PresentationIntentType')} is "
            "missing: the values are detector readings; send the image FOR PRESENTATION",
        )
    where = [text(ds, "DerivationDescription") + " ", text(ds, "SeriesDescription") + " "]
    where += [value + " " for value in texts(ds, "ImageType")[2:]]
    whole = PROCESSED_TYPES & set(texts(ds, "ImageType")[2:])
    if whole or any(word in line for line in where for word in PROCESSED):
        raise NotEvaluated(
            "derived",
            f"{tag('ImageType')}, {tag('DerivationDescription')} or {tag('SeriesDescription')} "
            "says that this is a processed derivative (subtraction, CAD, ...), no radiograph",
        )


def view_of(ds: Dataset) -> str:
    """'PA', 'AP', 'lateral', 'oblique' or 'unknown': ViewPosition, ViewCodeSequence, orientation.

    An unknown view whose rows run from front to back is a lateral one (C.7.6.1.1.1).
    """
    position, coded = _view_in(text(ds, "ViewPosition")), "unknown"
    for item in items(ds, "ViewCodeSequence")[:1]:
        code = text(item, "CodeValue")
        known = [view for view, of_view in VIEW_CODES.items() if code in of_view]
        coded = known[0] if known else _view_in(text(item, "CodeMeaning"))
    both = {position, coded} - {"unknown"}
    if len(both) == 2 and not both <= set(FRONTAL):
        raise FailedImage(
            "orientation", f"{tag('ViewPosition')} and {tag('ViewCodeSequence')} contradict"
        )
    found = position if position != "unknown" else coded
    if found != "unknown":
        return found
    rows_run = texts(ds, "PatientOrientation")[:1]
    return "lateral" if rows_run and rows_run[0][:1] in ("A", "P") else "unknown"


def _view_in(words: str) -> str:
    """The view that free words name; 'AP PLATE' is no lateral, 'PA LORDOTIC' no frontal."""
    found = re.findall("[A-Z]+", re.sub("(POSTERO|ANTERO)[ -]", r"\1", words))
    if any(word in OBLIQUE or word.startswith(OBLIQUE_STEMS) for word in found):
        return "oblique"
    if any(word in LATERAL or word.startswith(("LAT", "PROFIL")) for word in found):
        return "lateral"
    views = {MEANINGS.get(word, word) for word in found} & set(FRONTAL)
    return views.pop() if len(views) == 1 else "unknown"


def header_flags(ds: Dataset) -> list[str]:
    """What a reader of the score should know and the header says."""
    asked = (
        ("lossy", _lossy(ds)),
        ("burned_in_annotation", text(ds, "BurnedInAnnotation") == "YES"),
        ("body_part_unknown", not text(ds, "BodyPartExamined")
         and not _regions(ds)),
        ("modality_missing", not text(ds, "Modality")),
        ("secondary_capture", _captured(text(ds, "SOPClassUID"))),
        ("intensity_linear", text(ds, "PixelIntensityRelationship") == "LIN"),
        ("pediatric", _years(ds) < ADULT),
    )  # fmt: skip
    return [name for name, true in asked if true]


def _lossy(ds: Dataset) -> bool:
    """By the tag; a transfer syntax that may lose counts unless the tag denies it (C.7.6.1.1.5)."""
    said = text(ds, "LossyImageCompression")
    uid = text(ds.file_meta, "TransferSyntaxUID")
    return said == "01" or uid in ALWAYS_LOSSY or (said != "00" and uid in LOSSY)


def _years(ds: Dataset) -> float:
    """Age by PatientAge (PS3.5 6.2: nnnD, W, M, Y; archives also hold plain years), else by birth
    and study dates; none: inf."""
    age = AGE.fullmatch(text(ds, "PatientAge"))
    if age:
        return int(age[1]) / {"D": 365.25, "W": 52.18, "M": 12.0}.get(age[2] or "Y", 1.0)
    born, taken = text(ds, "PatientBirthDate"), text(ds, "StudyDate") or text(ds, "AcquisitionDate")
    if len(born) == len(taken) == 8 and born.isdecimal() and taken.isdecimal():
        return (int(taken) - int(born)) / 10_000
    return float("inf")
