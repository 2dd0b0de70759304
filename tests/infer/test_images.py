"""python -m pytest tests/infer/test_images.py -- PNG, JPEG, folders, and what is neither."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.infer.dicom_files import dx, picture, told, write
from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage, UsageError
from tier_infer.images import load_image
from tier_infer.inputs import find_images
from tier_infer.radiograph import Radiograph

GREY = (picture(64, 48) >> 4).astype(np.uint8)
PRESETS = ("minmax", "mimic-jpg")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int = 48, height: int = 64, extra: bytes = b"") -> bytes:
    """An 8-bit grey PNG with GREY's pixels, whatever its header says."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" + bytes(row) for row in GREY))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(app1: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG", quality=95)
    plain = buffer.getvalue()
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + plain[2:]


def load(path: Path, data: bytes, intensity: str = "mimic-jpg") -> Radiograph:
    path.write_bytes(data)
    return load_image(path, intensity)


@pytest.mark.parametrize("intensity", PRESETS)
def test_8_bits_are_taken_as_they_are(intensity: str, tmp_path: Path) -> None:
    image = load(tmp_path / "a.png", png(), intensity)
    assert np.array_equal(image.grey, GREY)
    assert (image.view, told(image.flags), image.study_key) == ("unknown", set(), None)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg())))
    assert np.array_equal(load(tmp_path / "a.jpg", jpeg(), intensity).grey, decoded)


@pytest.mark.parametrize("intensity", PRESETS)
def test_16_bit_png(intensity: str, tmp_path: Path) -> None:
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(wide).save(tmp_path / "a.png")
    got = load_image(tmp_path / "a.png", intensity).grey
    assert np.array_equal(got, (wide // 255).clip(0, 255))
    assert got.dtype == np.uint8


def test_16_bit_png_without_contrast_after_the_division(tmp_path: Path) -> None:
    Image.fromarray(np.arange(200, dtype=np.uint16).reshape(10, 20)).save(tmp_path / "a.png")
    with pytest.raises(FailedImage) as caught:
        load_image(tmp_path / "a.png", "minmax")
    assert caught.value.reason == "pixel_depth"


def test_grey_stored_as_rgb_is_grey(tmp_path: Path) -> None:
    colour = np.repeat(GREY[..., None], 3, axis=2)
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert np.array_equal(load_image(tmp_path / "a.png", "minmax").grey, GREY)
    colour[5, 5, 2] ^= 2  # as far as JPEG may move a channel
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert np.abs(load_image(tmp_path / "a.png", "minmax").grey.astype(int) - GREY).max() <= 1


def test_colour_is_not_evaluated(tmp_path: Path) -> None:
    colour = np.repeat(GREY[..., None], 3, axis=2)
    colour[5, 5] = (100, 103, 100)  # one coloured pixel: a mark drawn on the film
    Image.fromarray(colour).save(tmp_path / "a.png")
    with pytest.raises(NotEvaluated, match="colour") as caught:
        load_image(tmp_path / "a.png", "minmax")
    assert caught.value.reason == "colour"


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1"])
def test_other_pixel_formats_are_refused_by_name(mode: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(FailedImage, match=f"pixel format {mode}; allowed: .* RGB") as caught:
        load_image(tmp_path / "a.png", "minmax")
    assert caught.value.reason == "pixel_format"


UPRIGHT = {  # Exif: what a stored picture has to undergo before it is shown
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", [0, 1, *UPRIGHT, 9])
def test_exif_orientation(orientation: int, dtype: type[np.generic], tmp_path: Path) -> None:
    stored: NDArray[np.generic] = GREY.astype(dtype) * (255 if dtype is np.uint16 else 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png", "minmax")
    assert np.array_equal(image.grey, UPRIGHT.get(orientation, lambda a: a)(GREY))
    assert told(image.flags) == ({"exif_rotated"} if orientation in UPRIGHT else set())


@pytest.mark.parametrize("data", [png(), jpeg()], ids=["png", "jpeg"])
def test_a_cut_picture_fails_wherever_it_is_cut(data: bytes, tmp_path: Path) -> None:
    for cut in range(0, len(data) - 20, max(1, len(data) // 60)):
        with pytest.raises(FailedImage):
            load(tmp_path / "a.png", data[:cut])


@pytest.mark.parametrize("side", [8193, 10_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    with pytest.raises(FailedImage) as caught:
        load(tmp_path / "a.png", png(side, side))
    assert caught.value.reason == "too_large"


BIG_TEXT = zlib.compress(b"A" * 3_000_000)
HOSTILE = {
    "short IHDR": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0\0\1"),
    "no pixels": png(0, 64),
    "zTXt bomb": png(extra=chunk(b"zTXt", b"Comment\0\0" + BIG_TEXT)),
    "iTXt bomb": png(extra=chunk(b"iTXt", b"Comment\0\1\0\0\0" + BIG_TEXT)),
    "iCCP bomb": png(extra=chunk(b"iCCP", b"x\0\0" + BIG_TEXT)),
    "exif is a word": png(extra=chunk(b"eXIf", b"Exif\0\0CANARY")),
    "exif ends early": png(extra=chunk(b"eXIf", b"MM\0*")),
    "exif points nowhere": png(extra=chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff")),
    "jpeg exif points nowhere": jpeg(b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    "jpeg exif is a word": jpeg(b"Exif\0\0CANARY"),
    "two orientations": jpeg(
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x02\0\0\0\x06\0\x03\0\0\0\0\0"
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_picture_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    """No other exception, and no warning on stderr: warnings are errors in this suite."""
    try:
        said = str(load(tmp_path / "a.png", data).grey.dtype)
    except RefusedImage as refusal:
        said = str(refusal)
    assert said
    assert "CANARY" not in said


@pytest.mark.parametrize("name", ["a.dcm", "a.DCM", "a", "a.png", "a.jpeg", "a.ima"])
@pytest.mark.parametrize("data", [b"", b"hello\n" * 99, b"\x89PN", b"\0" * 500])
def test_text_under_an_image_name_failed(name: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(FailedImage, match="neither DICOM" if data else "is empty") as caught:
        load(tmp_path / name, data)
    assert caught.value.reason == "not_an_image"


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "report.pdf"])
def test_a_stray_file_is_not_evaluated(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotEvaluated) as caught:
        load(tmp_path / name, b"hello\n" * 99)
    assert caught.value.reason == "not_an_image"


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    assert np.array_equal(load(tmp_path / "a.dcm", png()).grey, GREY)
    assert load_image(write(dx(), tmp_path / "b.png"), "minmax").view == "PA"


def test_what_cannot_be_opened_failed(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "holds no files"), (tmp_path / "no.dcm", "can't be opened")):
        with pytest.raises(FailedImage, match=words) as caught:
            load_image(path, "minmax")
        assert str(tmp_path) not in str(caught.value)


def test_a_folder_gives_its_files_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.dcm", "a.dcm", "sub/c.dcm", "Z.dcm", ".DS_Store", "sub/._c.dcm", "10.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inside = [str(tmp_path / n) for n in ("10.dcm", "Z.dcm", "a.dcm", "b.dcm", "sub/c.dcm")]
    assert find_images([str(tmp_path)]) == inside
    last = str(tmp_path / "b.dcm")
    assert find_images([last, str(tmp_path / "sub"), last]) == [last, inside[-1], last]


def test_an_empty_folder_failed(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    assert find_images([str(tmp_path)]) == [str(tmp_path)]  # a row of its own in every output
    with pytest.raises(FailedImage, match="holds no files") as caught:
        load_image(tmp_path, "mimic-jpg")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["nothing.dcm", "", "\0", "x" * 5000])
def test_a_missing_path_is_a_usage_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        find_images([f"{tmp_path}/missing/{name}"])
    assert caught.value.exit_code == 2
