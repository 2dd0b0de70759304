"""Objects that are no chest radiograph of one film, whatever their pixels look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence

from tests.infer.encodings.base import dataset, pack, picture, set_pixels
from tests.infer.encodings.same_files import code

PRESETS = ("voi", "minmax", "mimic-jpg", "chexpert-jpg")
BY_RULE = (  # reasons that say "not ours to score"; all others say "this file is not readable"
    "modality", "body_part", "multi_frame", "for_processing", "derived", "view", "colour",
    "own_output", "not_an_image", "dicomdir", "aspect_ratio",
)  # fmt: skip
CLASSES = {  # SOP classes of other objects, PS3.4 B.5
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "NM": "1.2.840.10008.5.1.4.1.1.20",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "RF": "1.2.840.10008.5.1.4.1.1.12.2",
    "XA": "1.2.840.10008.5.1.4.1.1.12.1",
    "IO": "1.2.840.10008.5.1.4.1.1.1.3",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "OT": "1.2.840.10008.5.1.4.1.1.7",
}
WITHOUT_PIXELS = {
    "SR": "1.2.840.10008.5.1.4.1.1.88.33",
    "PR": "1.2.840.10008.5.1.4.1.1.11.1",
    "KO": "1.2.840.10008.5.1.4.1.1.88.59",
    "RTPLAN": "1.2.840.10008.5.1.4.1.1.481.5",
}


@dataclass(frozen=True)
class Refusal:
    """`reason` under the presets named; others may score it. `scoring`: the bundle decides."""

    name: str
    data: bytes
    reason: str
    suffix: str = ".dcm"
    presets: tuple[str, ...] = PRESETS
    scoring: bool = False


def film() -> NDArray[np.uint16]:
    """uint16 [245, 230]: the picture, every second row and column."""
    return np.ascontiguousarray(picture()[::2, ::2])


def refuse(name: str, reason: str, **tags: Any) -> Refusal:
    """A good film with some tags replaced, or taken out with None."""
    return Refusal(name, pack(dataset(film(), **tags)), reason)


def rules() -> Iterator[Refusal]:
    for modality, sop in CLASSES.items():
        yield refuse(f"modality_{modality}", "modality", Modality=modality, SOPClassUID=sop)
    for modality, sop in WITHOUT_PIXELS.items():
        tags: Mapping[str, Any] = {"Modality": modality, "SOPClassUID": sop, "PixelData": None}
        yield refuse(f"modality_{modality}", "modality", **tags)
    yield Refusal("modality_RTDOSE", pack(_dose()), "modality")
    yield refuse("modality_unknown_word", "modality", Modality="XRAY")
    yield refuse("modality_absent_class_CT", "modality", Modality="", SOPClassUID=CLASSES["CT"])
    yield from _body_parts()
    yield from _views()
    yield from _intents()
    yield refuse("two_frames", "multi_frame", NumberOfFrames="2", PixelData=film().tobytes() * 2)
    yield refuse("frames_in_one_frame_file", "multi_frame", NumberOfFrames="3")
    yield refuse("dicomdir", "dicomdir", SOPClassUID="1.2.840.10008.1.3.10", PixelData=None)
    yield refuse("own_capture", "own_output", Manufacturer="tier-cxr")
    strip = np.ascontiguousarray(picture()[200:280])
    yield Refusal("strip", pack(dataset(strip)), "aspect_ratio", scoring=True)
    yield from _colours()


def _dose() -> Dataset:
    """32 bits, 15 planes, and no photometric doubt: only the modality gives it away."""
    ds = dataset(film(), Modality="RTDOSE", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2")
    set_pixels(ds, film().astype("<u4").tobytes())
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 31
    return ds


def _body_parts() -> Iterator[Refusal]:
    for body in ("LEG", "HAND", "SKULL", "ABDOMEN", "SOMETHING ELSE"):
        yield refuse(f"body_{body.replace(' ', '_')}", "body_part", BodyPartExamined=body)
    knee = Sequence([code("72696002", "SCT", "Knee")])
    yield refuse("region_knee", "body_part", BodyPartExamined=None, AnatomicRegionSequence=knee)


def _views() -> Iterator[Refusal]:
    for view in ("LL", "RL", "LATERAL", "LLO", "RAO"):
        file = refuse(f"view_{view}", "view", ViewPosition=view, PatientOrientation=None)
        yield Refusal(file.name, file.data, "view", scoring=True)
    lateral = Sequence([code("399067008", "SCT", "left lateral")])
    tags = {"ViewPosition": None, "ViewCodeSequence": lateral, "PatientOrientation": ["A", "F"]}
    yield Refusal("view_code_lateral", pack(dataset(film(), **tags)), "view", scoring=True)
    tags = {"ViewPosition": None, "PatientOrientation": ["A", "F"]}
    yield Refusal("view_by_orientation", pack(dataset(film(), **tags)), "view", scoring=True)


def _intents() -> Iterator[Refusal]:
    raw = "1.2.840.10008.5.1.4.1.1.1.1.1"
    yield refuse("for_processing", "for_processing", PresentationIntentType="FOR PROCESSING")
    tags = {"SOPClassUID": raw, "PresentationIntentType": None}
    yield refuse("for_processing_class", "for_processing", **tags)
    tags = {"PixelIntensityRelationship": "LIN", "PresentationIntentType": None}
    yield refuse("linear_without_intent", "for_processing", **tags)
    for name, keyword, value in (
        ("subtraction", "ImageType", ["DERIVED", "PRIMARY", "SUBTRACTION"]),
        ("dual_energy", "SeriesDescription", "Chest dual energy soft tissue"),
        ("bone_image", "DerivationDescription", "Bone image of dual energy exposure"),
        ("soft_tissue", "ImageType", ["DERIVED", "PRIMARY", "", "SOFT_TISSUE"]),
        ("bone_suppression", "DerivationDescription", "Bone suppression by software"),
        ("temporal_difference", "DerivationDescription", "Temporal difference to prior"),
        ("cad_result", "ImageType", ["DERIVED", "SECONDARY", "CAD_RESULT"]),
        ("annotated", "DerivationDescription", "Annotated by CAD software"),
        ("heatmap", "SeriesDescription", "AI heatmap"),
        ("tomosynthesis", "ImageType", ["DERIVED", "PRIMARY", "TOMOSYNTHESIS"]),
    ):
        yield refuse(f"derived_{name}", "derived", **{keyword: value})


def _colours() -> Iterator[Refusal]:
    grey = (film() >> 4).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    tags = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    overlay = rgb.copy()
    overlay[100:130, 60:120] = (230, 40, 30)
    yield Refusal("colour_overlay", pack(dataset(overlay, 8, **tags)), "colour")
    screen = rgb.copy()
    screen[:20] = (40, 80, 160)
    capture = {"Modality": "CR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}
    yield Refusal("colour_screenshot", pack(dataset(screen, 8, **tags, **capture)), "colour")
    text = rgb.copy()
    text[5:9, 5:25:2] = (255, 255, 0)  # 40 yellow pixels of 56,350
    yield Refusal("colour_annotation", pack(dataset(text, 8, **tags)), "colour")
    ds = dataset(grey, 8, PhotometricInterpretation="PALETTE COLOR")
    ramp = np.arange(256, dtype=np.int64)
    for name, entries in (("Red", ramp), ("Green", ramp**2 // 255), ("Blue", 255 - ramp)):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        data = (entries * 257).astype("<u2").tobytes()
        setattr(ds, f"{name}PaletteColorLookupTableData", data)
    yield Refusal("colour_palette", pack(ds), "colour")
