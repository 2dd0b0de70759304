"""python -m pytest tests/infer/test_contradictions.py -- files that say two things at once.
Found in review; each was scored in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from tests.infer.dicom_files import codestream, dx, pack, told
from tests.infer.encodings import base, codecs
from tier_infer.errors import RefusedImage
from tier_infer.images import load_bytes
from tier_infer.radiograph import Radiograph
from tier_infer.scoring import ImageResult
from tier_infer.studies import group_studies

FILM = np.ascontiguousarray(base.picture()[:488])  # uint16 [488, 460], 12 bits, a real chest
FILM8 = (FILM >> 4).astype(np.uint8)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
SPACING, IMAGER = "PixelSpacing", "ImagerPixelSpacing"
NEEDS_IMAGECODECS = pytest.mark.skipif(codecs.imagecodecs is None, reason="it writes the file")


def read(file: Dataset | bytes, preset: str = "minmax", suffix: str = ".dcm") -> Radiograph:
    return load_bytes(file if isinstance(file, bytes) else pack(file), suffix, preset)


def verdict(file: Dataset | bytes, preset: str = "minmax", suffix: str = ".dcm") -> str:
    """The reason of a refusal, or 'scored' and the flags."""
    try:
        return " ".join(["scored", *read(file, preset, suffix).flags])
    except RefusedImage as refusal:
        return refusal.reason


def white_rows(count: int) -> NDArray[np.uint16]:
    """The film with its first rows at 65535, as a white border or a stitched strip leaves them."""
    film = FILM.copy()
    film[:count] = 65535
    return film


def lut(table: list[int] | range, bits: int = 12) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(table), 0, bits])
    item.add_new("LUTData", "US", list(table))
    return item


# Black and white.


def test_the_polarity_is_that_of_what_is_scored() -> None:
    """An inverting VOI LUT makes a negative of a normal film, and a film of a negative one."""
    inverting = {"VOILUTSequence": [lut(range(4095, -1, -1))]}
    assert "polarity_suspect" in read(dx(FILM, **inverting), "voi").flags
    assert "polarity_suspect" not in read(dx(np.uint16(4095) - FILM, **inverting), "voi").flags


@pytest.mark.parametrize("preset", ["mimic-jpg", "chexpert-jpg", "minmax"])
def test_a_falling_voi_lut_is_refused_whatever_its_first_entry(preset: str) -> None:
    table = [0, *range(4094, -1, -1)]  # black collimation
    assert verdict(dx(FILM, VOILUTSequence=[lut(table)]), preset) == "voi_lut"


@NEEDS_IMAGECODECS
def test_a_stream_that_has_lost_the_sign_is_refused() -> None:
    signed = (FILM.astype(np.int32) - 2048).astype(np.int16)
    stream = codecs.jpeg_lossless(signed.astype(np.uint16) & 0xFFF, 12)
    whole = codestream(dx(signed, 12), stream, codecs.JPEG_LOSSLESS_SV1)
    assert np.array_equal(read(whole).grey, read(dx(FILM)).grey)
    lost = codestream(dx(signed, 16), stream, codecs.JPEG_LOSSLESS_SV1)
    assert verdict(lost) == "decode"


# Padding and colour.


@pytest.mark.parametrize(("vr", "value"), [("SS", -1), ("US", 65535)])
def test_padding_of_either_vr(vr: str, value: int) -> None:
    ds = dx(white_rows(20), 16)
    ds.add_new("PixelPaddingValue", vr, value)
    image = read(ds)
    assert "pixel_padding" in image.flags
    assert image.grey[:20].max() == 0
    assert np.array_equal(image.grey[20:], read(dx(FILM)).grey[20:])


@pytest.mark.parametrize(("bits", "value"), [(12, 0x800), (8, 0x80)])
def test_padding_written_as_the_pixels_own_bits_is_refused(bits: int, value: int) -> None:
    film = (FILM >> 12 - bits).astype(np.int32) - (1 << bits - 1)
    film[:40] = -(1 << bits - 1)
    ds = dx(film.astype(np.int16 if bits > 8 else np.int8), bits)
    ds.add_new("PixelPaddingValue", "US", value)
    assert verdict(ds) == "pixel_padding"


def colour(**tags: Any) -> Dataset:
    ds = dx(FILM8, 8, SamplesPerPixel=3, PhotometricInterpretation="RGB", **tags)
    ds.PlanarConfiguration = 0
    return base.set_pixels(ds, np.repeat(FILM8[..., None], 3, 2).tobytes())


@pytest.mark.parametrize("tags", [WINDOW, {"WindowCenter": 40, "WindowWidth": 80}])
def test_windows_and_padding_mean_nothing_in_colour(tags: dict[str, int]) -> None:
    image = read(colour(**tags, PixelPaddingValue=200), "voi")
    assert np.array_equal(image.grey, read(dx(FILM8, 8), "voi").grey)
    assert told(image.flags) == {"grey_from_colour"}


def palette(bits: int = 8, scale: int = 1) -> Dataset:
    """Index 255 is black."""
    ds = dx(255 - FILM8, 8, PhotometricInterpretation="PALETTE COLOR")
    entries = np.arange(255, -1, -1).astype(f"u{bits // 8}") * scale
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        ds.add_new(f"{name}Descriptor", "US", [256, 0, bits])
        setattr(ds, f"{name}Data", entries.tobytes())
    return ds


def test_padding_is_no_index_of_a_palette() -> None:
    ds = palette()
    ds.add_new("PixelPaddingValue", "US", 255)
    assert np.array_equal(read(ds).grey, read(dx(FILM8, 8)).grey)
    ds.add_new("PixelPaddingValue", "US", 60)  # grey 195, and no part of it
    assert np.array_equal(read(ds).grey, read(dx(FILM8, 8)).grey)


def test_a_slope_in_colour_is_refused() -> None:
    assert verdict(colour(RescaleSlope=-1, RescaleIntercept=0)) == "rescale"


# Two tags.


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelAspectRatio": [1, 1], IMAGER: [0.2, 0.1]}, "pixel_aspect"),
        ({SPACING: [0.1, 0.1], IMAGER: [0.2, 0.1]}, "pixel_aspect"),
        ({"PixelAspectRatio": [2, 1], SPACING: [0.1, 0.1]}, "pixel_aspect"),
        ({"PixelAspectRatio": [2, 1], IMAGER: [0.2, 0.1]}, "scored aspect_resampled"),
        ({SPACING: [0.139, 0.139], IMAGER: [0.14, 0.139]}, "scored"),  # rounded
    ],
)
def test_spacings_must_agree(tags: dict[str, list[float]], reason: str) -> None:
    assert verdict(dx(FILM, **tags)) == reason


@pytest.mark.parametrize("sop", ["2", "4", "1.2", "1.3", "13.1.3"])
def test_an_object_of_another_class_is_not_evaluated(sop: str) -> None:
    """CT, MR, mammography, intra-oral, tomosynthesis: whatever Modality says."""
    assert verdict(dx(FILM, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{sop}")) == "modality"


def test_two_views_that_contradict_are_refused() -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "399067008", "SCT", "lateral"
    assert verdict(dx(FILM, ViewPosition="AP", ViewCodeSequence=[item])) == "orientation"
    assert read(dx(FILM, ViewPosition="LL", ViewCodeSequence=[item])).view == "lateral"


@pytest.mark.parametrize(
    ("view", "names"),
    {
        "AP": "AP PLATE|AP PORTABLE|AP SUPINE|AP-SUPINE|ANTERO-POSTERIOR",
        "PA": "UPRIGHT PA|POSTERO ANTERIOR|POSTEROANTERIOR",
        "lateral": "LATERALE|LATERALIS|PA-LAT|LT-LAT|CHEST-LAT|LEFT LATERAL|PROFIL",
        "oblique": "PA LORDOTIC|DECUB|RIGHT DECUBITUS|SWIMMERS|AXIAL|AP LAO|PA OBL",
    }.items(),
)
def test_free_words_of_views(view: str, names: str) -> None:
    found = {name: read(dx(FILM, ViewPosition=name)).view for name in names.split("|")}
    assert set(found.values()) == {view}, found


def test_a_tag_that_stands_twice_is_refused() -> None:
    data = pack(dx(FILM))
    at = data.index(b"\x28\x00\x04\x00CS")
    first = data[at : at + 8 + data[at + 6]]
    for other in (first, first.replace(b"MONOCHROME2", b"MONOCHROME1")):
        assert verdict(data[:at] + other + data[at:]) == "unreadable"
    pixels = data[data.index(b"\xe0\x7f\x10\x00OW") :]
    assert verdict(data + pixels) == "unreadable"


@pytest.mark.parametrize("tail", [b"\0" * 8, b"\0" * 500, b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0" * 2])
def test_what_archives_append_is_nothing(tail: bytes) -> None:
    if tail.startswith(b"\xfc"):
        tail = (tail[: len(tail) // 2] + b"\0" * 4) * 2  # data set trailing padding
    image = read(pack(dx(FILM)) + tail)
    assert np.array_equal(image.grey, read(dx(FILM)).grey)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImageType", ["DERIVED", "SECONDARY", "", "DES"]),
        ("ImageType", ["DERIVED", "PRIMARY", "BONE"]),
        ("ImageType", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
        ("SeriesDescription", "SOFTTISSUE"),
        ("SeriesDescription", "Rib suppression"),
        ("SeriesDescription", "ClearRead Rib Removal"),
    ],
)
def test_derived_pictures_are_not_evaluated(keyword: str, value: object) -> None:
    assert verdict(dx(FILM, **{keyword: value})) == "derived"


# Two files.


def result(**fields: Any) -> ImageResult:
    known = {"view": "PA", "scores": {"edema": 1.0}, "digest": "d", "study_key": "s"}
    return ImageResult("a.dcm", **(known | {"instance_key": "i", "patient_key": "p"} | fields))


@pytest.mark.parametrize("fields", [{"view": "lateral"}, {"study_key": None, "patient_key": "q"}])
def test_a_copy_with_another_header_is_no_copy(fields: dict[str, Any]) -> None:
    others = {"study_key": fields.get("study_key", "s")}
    studies = group_studies([result(**fields), result(**others)])
    assert {i.reason for s in studies for i in s.images} == {"uid_not_unique"}


def test_a_picture_sent_again_under_a_new_uid_counts_once() -> None:
    other = result(instance_key="k", digest="e", scores={"edema": 0.0})
    (study,) = group_studies([result(), result(instance_key="j"), other])
    assert [i.flags for i in study.images] == [[], ["duplicate"], []]
    assert study.scores == {"edema": 0.5}


def test_a_lateral_is_no_copy_of_a_frontal() -> None:
    (study,) = group_studies([result(view="lateral"), result(instance_key="j")])
    assert study.scores == {"edema": 1.0}
