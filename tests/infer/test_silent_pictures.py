"""python -m pytest tests/infer/test_silent_pictures.py -- what no tag tells: pictures squeezed into
a few greys, cut short, or one of two. Found in review; each was scored in silence."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from tests.infer.dicom_files import codestream, dx
from tests.infer.encodings import codecs
from tests.infer.test_contradictions import FILM, FILM8, lut, palette, read, verdict, white_rows
from tests.infer.test_images import chunk
from tier_infer.words import CAUTION

PRESETS = ("mimic-jpg", "chexpert-jpg", "minmax", "voi")
SQUEEZED = {"low_contrast", "outliers", "clipped"}
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


# The picture lies within a few grey levels.


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 10, 20, 40])
def test_white_rows_of_any_share_are_flagged(rows: int, preset: str) -> None:
    assert set(read(dx(white_rows(rows), 16), preset).flags) & CAUTION & SQUEEZED
    assert not set(read(dx(FILM), preset).flags) & CAUTION


def test_one_outlier_without_a_window_is_flagged_under_voi() -> None:
    film = FILM.copy()
    film[5, 5] = 65535
    assert "outliers" in read(dx(film, 16), "voi").flags


@pytest.mark.parametrize(
    ("center", "width", "found"),
    [
        (40, 400, "blank_image"),
        (4090, 10, "blank_image"),
        (128, 256, "blank_image"),
        (700, 1200, "scored clipped"),
        (3500, 800, "scored clipped"),
        (2048, 4096, "scored"),
    ],
)
def test_a_window_of_another_range_is_told(center: int, width: int, found: str) -> None:
    assert verdict(dx(FILM, WindowCenter=center, WindowWidth=width), "voi") == found


def test_a_voi_lut_of_12_bits_that_says_16_is_flagged() -> None:
    assert "low_contrast" in read(dx(FILM, VOILUTSequence=[lut(range(4096), 16)]), "voi").flags
    assert not set(read(dx(FILM, VOILUTSequence=[lut(range(4096))]), "voi").flags) & CAUTION


@pytest.mark.parametrize("kind", ["J2K", "JPEG-LS", "lossless", "baseline"])
def test_8_bits_inside_a_file_of_12(kind: str) -> None:
    """A gateway wrote other pixels and left BitsStored and the window as they were."""
    if kind == "lossless" and codecs.imagecodecs is None:
        pytest.skip("imagecodecs writes the file")
    syntax, stream = {
        "J2K": lambda: (codecs.J2K_LOSSLESS, codecs.jpeg_2000(FILM8)),
        "JPEG-LS": lambda: (codecs.JPEG_LS, codecs.jpeg_ls_stream(FILM8)),
        "lossless": lambda: (codecs.JPEG_LOSSLESS_SV1, codecs.jpeg_lossless(FILM8, 8)),
        "baseline": lambda: (codecs.JPEG_BASELINE, codecs.jpeg_baseline(FILM8)),
    }[kind]()
    found = verdict(codestream(dx(FILM, **WINDOW), stream, syntax), "voi")
    assert not found.startswith("scored") or "low_contrast" in found


def test_palette_entries_of_12_bits_are_flagged() -> None:
    assert "low_contrast" in verdict(palette(16, scale=16))


def png(rows: NDArray[Any], bits: int, colour: int = 0) -> bytes:
    height, width = FILM.shape
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    big = rows.astype(rows.dtype.newbyteorder(">"))
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in big), 1)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_shallow_pictures() -> None:
    nibbles, outlier = (FILM >> 8).astype(np.uint8), FILM.copy()
    outlier[0, 0] = 65535
    kinds = {
        "14 of 16 bits": (png(FILM * 4, 16), "pixel_depth"),
        "15 of 16 bits": (png(FILM * 8, 16), "scored low_contrast"),
        "12 bits and an outlier": (png(outlier, 16), "pixel_depth"),
        "12 bits of colour": (png(np.repeat(FILM[..., None], 3, 2), 16, 2), "pixel_depth"),
        "4 bits": (png(nibbles[:, ::2] << 4 | nibbles[:, 1::2], 4), "pixel_format"),
        "32 levels": (png(FILM8 >> 3, 8), "pixel_depth"),
        "all 16": (png(FILM * 16, 16), "scored"),
    }
    found = {name: verdict(data, suffix=".png") for name, (data, _) in kinds.items()}
    assert found == {name: expected for name, (_, expected) in kinds.items()}


# One image, whole.

JPEG = codecs.jpeg_baseline(FILM8, 98)
OTHER = codecs.jpeg_baseline(np.roll(FILM8, 200, 1), 98)


def jpeg(data: bytes, suffix: str) -> str:
    if suffix == ".jpg":
        return verdict(data, suffix=suffix)
    even = data + b"\0" * (len(data) % 2)
    return verdict(codestream(dx(FILM8, 8), even, codecs.JPEG_BASELINE))


def enclosed(pixels: bytes, syntax: str, film: NDArray[Any] = FILM8) -> str:
    ds = dx(film, film.dtype.itemsize * 8 if film is FILM8 else 12)
    ds.file_meta.TransferSyntaxUID, ds.PixelData = syntax, pixels
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return verdict(ds)


@pytest.mark.parametrize("table", [True, False])
def test_a_second_frame_is_not_dropped(table: bool) -> None:
    ls = [codecs.jpeg_ls_stream(film) for film in (FILM, np.roll(FILM, 100, 0))]
    j2k = [codecs.jpeg_2000(film) for film in (FILM, np.roll(FILM, 100, 0))]
    for frames, syntax, film in (
        ([JPEG, OTHER], codecs.JPEG_BASELINE, FILM8),
        (ls, codecs.JPEG_LS, FILM),
        (j2k, codecs.J2K_LOSSLESS, FILM),
    ):
        assert enclosed(encapsulate(frames, has_bot=table), syntax, film) == "multi_frame"
    assert enclosed(encapsulate([JPEG + OTHER], has_bot=table), codecs.JPEG_BASELINE) == (
        "multi_frame"
    )


def test_a_second_frame_of_rle_is_not_dropped() -> None:
    frames = [codecs.rle_frame(film) for film in (FILM, np.roll(FILM, 100, 0))]
    assert enclosed(encapsulate(frames[:1]), RLELossless, FILM).startswith("scored")
    assert enclosed(encapsulate(frames), RLELossless, FILM) == "multi_frame"


def test_an_end_marker_inside_a_table_ends_nothing() -> None:
    """Quantisation tables, comments and thumbnails may hold the bytes FF D9."""
    exif = b"Exif\0\0" + codecs.jpeg_baseline(np.ascontiguousarray(FILM8[::8, ::8]))
    for option in ({"quality": 6}, {"comment": b"a\xff\xd9b"}, {"exif": exif}):
        data = codecs._pillow(FILM8, "JPEG", **option)
        assert data.count(b"\xff\xd9") > 1
        assert jpeg(data, ".dcm").startswith("scored")


@pytest.mark.parametrize("suffix", [".jpg", ".dcm"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_a_jpeg_cut_short_with_its_end_put_back(share: float, suffix: str) -> None:
    assert jpeg(JPEG, suffix).startswith("scored")
    assert jpeg(JPEG[: int(len(JPEG) * share)] + b"\xff\xd9", suffix) == "truncated"


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_cut_jpeg_that_is_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = codecs._pillow(FILM8, "JPEG", quality=98, exif=exif)
    assert jpeg(data[: int(len(data) * 0.8)] + b"\xff\xd9", ".jpg") == "truncated"


def test_a_grey_border_is_no_missing_row_of_jpeg_2000() -> None:
    film = FILM * 16
    film[-8:] = 2**15
    stream = codestream(dx(film, 16), codecs.jpeg_2000(film), codecs.J2K_LOSSLESS)
    assert np.array_equal(read(stream).grey, read(dx(film, 16)).grey)


def test_pixels_beyond_bits_stored_are_no_ringing() -> None:
    """4 % of the pixels reach into the 13th bit, and the transfer syntax may be lossy."""
    film = FILM.copy()
    film.flat[np.argsort(FILM, axis=None)[-film.size // 25 :]] += 2000
    assert verdict(codestream(dx(film), codecs.jpeg_2000(film), codecs.J2K)) == "bits_stored"


def test_a_lossy_syntax_is_flagged_whatever_the_tag_says() -> None:
    ds = codestream(dx(FILM8, 8, LossyImageCompression="00"), JPEG, codecs.JPEG_BASELINE)
    assert "lossy" in read(ds).flags
