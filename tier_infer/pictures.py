"""PNG and JPEG files → 8-bit radiographs. Whole or not at all: decoders fill up what is missing."""

from __future__ import annotations

import io
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tier_infer.content import check_content
from tier_infer.dicom.codestream import check_filled
from tier_infer.dicom.colour import grey_of_rgb
from tier_infer.dicom.pixel_data import MAX_EXPANSION
from tier_infer.dicom.pixel_module import MAX_PIXELS
from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage
from tier_infer.intensity import MIN_GREYS, used_greys
from tier_infer.quiet import quiet
from tier_infer.radiograph import Radiograph

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PICTURES = (PNG, JPEG)
MAX_SHALLOW = 64  # a 14-bit picture in a 16-bit PNG ends there
MAX_PARTS = 20_000  # chunks of a PNG
MAX_SCANS = 100  # of a progressive JPEG; encoders write about 10
START_OF_SCAN = b"\xff\xda"
ORIENTATION, SOFTWARE = 0x0112, 0x0131  # Exif tags
OWN_SOFTWARE = "tier-infer"  # in the PNG text chunk `Software` or the Exif tag of our own pictures
ADAM7 = (  # left, top, step across, step down of each pass (PNG 8.2)
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
    (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (PNG, table 11.1)


def read_picture(data: bytes, high_byte: bool = False) -> Radiograph:
    """Raises NotEvaluated or FailedImage, see `errors`. `high_byte`: see `_grey`."""
    turned, orientation, software = _decoded(data)
    if software.strip("\0 ") == OWN_SOFTWARE:
        raise NotEvaluated("own_output", "the picture is an output of tier-infer itself")
    grey = _grey(turned, high_byte)
    used = used_greys(np.bincount(grey.ravel(), minlength=256))
    shallow = grey.min() < grey.max() <= MAX_SHALLOW
    if shallow or (_bits_of(data) == 16 and used < MIN_GREYS):
        raise FailedImage(
            "pixel_depth",
            f"the picture uses only {used} of 256 levels; scale it to its full range, or give the "
            "DICOM file",
        )
    dark = _bits_of(data) == 16 and grey.max() <= 2 * MAX_SHALLOW
    flags = check_content(grey) + ["low_contrast"] * bool(dark or used < MIN_GREYS)
    flags += ["exif_rotated"] * (orientation in range(2, 9))
    return Radiograph(grey, "unknown", tuple(flags), display=grey)


def _decoded(data: bytes) -> tuple[Image.Image, int, str]:
    """The picture turned as its Exif tag says, that tag, and what software names itself."""
    with quiet():  # Pillow speaks of metadata; pixels are checked below
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                _check_size(image.width * image.height, len(data))
                if getattr(image, "n_frames", 1) > 1:
                    raise NotEvaluated("multi_frame", "the picture has several frames")
                if data.startswith(PNG):
                    _check_rows(data)
                    if _bits_of(data) < 8:
                        raise _bad_format(image.mode)
                elif data.count(START_OF_SCAN) > MAX_SCANS:
                    raise FailedImage("too_large", f"the picture has over {MAX_SCANS} scans")
                image.load()
                if data.startswith(JPEG):
                    check_filled(np.asarray(image), 8)
                exif = image.getexif()
                software = image.info.get("Software") or exif.get(SOFTWARE) or ""
                return ImageOps.exif_transpose(image), exif.get(ORIENTATION, 1), str(software)
        except RefusedImage:
            raise
        except (Image.DecompressionBombError, MemoryError):
            raise _too_large() from None
        except Exception as error:  # Pillow raises eight kinds on damaged files
            kind = type(error).__name__
            raise FailedImage("decode", f"the picture can't be decoded ({kind})") from None


def _bits_of(data: bytes) -> int:
    return data[24] if data.startswith(PNG) else 8


def _check_size(pixels: int, size: int) -> None:
    if pixels > MAX_PIXELS:
        raise _too_large()
    if pixels > MAX_EXPANSION * max(size, 2**10):
        raise FailedImage("expansion", f"the picture would expand more than {MAX_EXPANSION} times")


def _too_large() -> FailedImage:
    return FailedImage("too_large", f"the picture has more than {MAX_PIXELS} pixels")


def _check_rows(data: bytes) -> None:
    """All rows that IHDR promises are in IDAT, and no more (PNG 7.2, 8.1): Pillow would paint the
    missing ones black."""
    at, inflater, found, expected = len(PNG), zlib.decompressobj(), 0, 0
    if data.count(b"IDAT") > MAX_PARTS:
        raise FailedImage("too_large", f"the picture has over {MAX_PARTS} parts")
    while at + 8 <= len(data) and not inflater.eof:
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            expected = _bytes_of_rows(body)
        while kind == b"IDAT" and body and found <= expected:
            found += len(inflater.decompress(body, 2**20))
            body = inflater.unconsumed_tail
        at += 12 + size
    if found != expected:
        raise FailedImage("truncated", "the picture holds fewer or more rows than it says")


def _bytes_of_rows(header: bytes) -> int:
    width, height = (int.from_bytes(header[i : i + 4], "big") for i in (0, 4))
    bits, colour, interlaced = header[8], header[9], header[12]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * CHANNELS[colour] // 8))
    return total


def _grey(image: Image.Image, high_byte: bool) -> NDArray[np.uint8]:
    """uint8 [H, W]. 16 bits: x >> 8 as OpenCV reads them for CheXzero, else clip(x // 255) as
    TIER's PadChest reader does. They differ by one grey in half of the values."""
    if image.mode == "L":
        return np.array(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.array(image).astype(np.int64)
        return (wide >> 8 if high_byte else wide // 255).clip(0, 255).astype(np.uint8)
    if image.mode == "RGB":
        return grey_of_rgb(np.array(image))
    raise _bad_format(image.mode)


def _bad_format(mode: str) -> FailedImage:
    return FailedImage(
        "pixel_format", f"the picture has pixel format {mode}; allowed: 8- or 16-bit grey, RGB"
    )
