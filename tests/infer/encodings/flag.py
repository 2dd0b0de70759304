"""Films that are scored, with a remark that a reader of the score must see."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydicom.sequence import Sequence

from tests.infer.encodings import codecs
from tests.infer.encodings.base import compressed, dataset, pack, picture
from tests.infer.encodings.refuse_pixels import NOT_VOI
from tests.infer.encodings.refuse_rules import PRESETS, film
from tests.infer.encodings.same_windows import lut

CR_CLASS = "1.2.840.10008.5.1.4.1.1.1"
SCORING = frozenset({"view_unknown", "enlarged", "duplicate"})  # set where the bundle is known


@dataclass(frozen=True)
class Flagged:
    """A file that is scored under `presets`, and the flag that it must carry there."""

    name: str
    data: bytes
    flag: str
    presets: tuple[str, ...] = PRESETS
    suffix: str = ".dcm"


def flagged(name: str, flag: str, presets: tuple[str, ...] = PRESETS, **tags: Any) -> Flagged:
    return Flagged(name, pack(dataset(film(), **tags)), flag, presets)


def flags() -> Iterator[Flagged]:
    p, g = film(), (film() >> 4).astype(np.uint8)
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    yield flagged("window", "window_ignored", NOT_VOI, **window)
    table = Sequence([lut(np.arange(4096), 0, 12)])
    yield flagged("voi_lut", "window_ignored", NOT_VOI, VOILUTSequence=table)
    two = {"WindowCenter": ["2048", "1000"], "WindowWidth": ["4096", "500"]}
    yield flagged("two_windows", "several_windows", ("voi",), **two)
    yield flagged("lossy_said", "lossy", LossyImageCompression="01")
    ds = compressed(dataset(g, 8), codecs.JPEG_BASELINE, codecs.jpeg_baseline(g))
    yield Flagged("lossy_by_syntax", pack(ds), "lossy")
    yield flagged("burned_in", "burned_in_annotation", BurnedInAnnotation="YES")
    yield flagged("no_body_part", "body_part_unknown", BodyPartExamined=None)
    yield flagged("no_modality", "modality_missing", Modality="")
    junk = p | np.random.default_rng(3).integers(0, 16, p.shape).astype(np.uint16) << 12
    yield Flagged("junk", pack(dataset(junk)), "high_bits_masked")
    padded = p.astype(np.uint16) + 100
    padded[:6] = padded[-6:] = 0
    yield Flagged("padding", pack(dataset(padded, 13, PixelPaddingValue=0)), "pixel_padding")
    inside = p.astype(np.uint16) + 100
    inside[100:140, 90:130] = 0
    yield Flagged("hole", pack(dataset(inside, 13, PixelPaddingValue=0)), "padding_inside")
    capture = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "CR"}
    yield flagged("capture", "secondary_capture", **capture)
    yield flagged("child_by_age", "pediatric", PatientAge="004Y")
    yield flagged("child_in_months", "pediatric", PatientAge="018M")
    born = {"PatientAge": None, "PatientBirthDate": "20100305", "StudyDate": "20200102"}
    yield flagged("child_by_dates", "pediatric", **born)
    mirrored = np.ascontiguousarray(p[:, ::-1])
    ds = dataset(mirrored, PatientOrientation=["R", "F"])
    yield Flagged("mirrored", pack(ds), "oriented")
    yield flagged("stretched", "aspect_resampled", PixelSpacing=["0.2", "0.3"])
    ds = dataset(p)
    del ds.file_meta
    buffer = io.BytesIO()
    ds.save_as(buffer, implicit_vr=True, little_endian=True)
    yield Flagged("bare_dataset", buffer.getvalue(), "no_meta")
    data = pack(dataset(p))
    yield Flagged("elf_preamble", b"\x7fELF\2\1\1" + b"\0" * 121 + data[128:], "preamble")
    yield Flagged("script_preamble", b"#!/bin/sh\nid\nexit\n".ljust(128) + data[128:], "preamble")
    yield flagged("linear", "intensity_linear", PixelIntensityRelationship="LIN")
    bright = p.copy()
    bright[:2, :2] = 65535
    yield Flagged("outliers", pack(dataset(bright, 16)), "outliers", NOT_VOI)
    same = lut(np.arange(4096), 0, 12)
    same.ModalityLUTType = "US"
    yield flagged("modality_lut", "modality_lut", ModalityLUTSequence=Sequence([same]))
    rgb = np.repeat(g[..., None], 3, axis=2)
    tags = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    yield Flagged("rgb", pack(dataset(rgb, 8, **tags)), "grey_from_colour")
    whole = picture()
    negative = pack(dataset(4095 - whole))  # says MONOCHROME2, is a negative
    yield Flagged("wrong_polarity", negative, "polarity_suspect")
    yield Flagged("on_its_side", pack(dataset(np.ascontiguousarray(whole.T))), "rotation_suspect")
    down = np.ascontiguousarray(whole[::-1, ::-1])
    yield Flagged("upside_down", pack(dataset(down)), "rotation_suspect")
    y, x = np.mgrid[:245, :230]
    rings = (2000 + 1900 * np.sin(np.hypot(y - 60, x - 200) / 6)).astype(np.uint16)
    yield Flagged("rings", pack(dataset(rings)), "unlike_chest")
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to look at it
    Image.fromarray(np.rot90(g)).save(buffer, "JPEG", quality=95, exif=exif)
    yield Flagged("exif_turned", buffer.getvalue(), "exif_rotated", suffix=".jpg")
