"""Any input file → one 8-bit radiograph. DICOM goes through the intensity preset, PNG and JPEG
files of 8 bits are taken as they are: they already went through somebody's.

Scoring calls this in a child process of its own (`reader`); training, on files that the researcher
chose, calls it directly.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tier_infer.content import check_content
from tier_infer.dicom.colour import grey_of_rgb
from tier_infer.dicom.pixel_data import MAX_PIXELS
from tier_infer.dicom.read import StoredImage, is_dicom, read_dicom
from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage
from tier_infer.intensity import Levels, count_levels, has_outliers, to_8bit
from tier_infer.quiet import quiet
from tier_infer.radiograph import Radiograph

MAX_FILE_BYTES = 256 * 2**20
IMAGE_SUFFIXES = ("", ".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg")
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
MIN_LEVELS = 64  # of 256: a 12-bit picture in a 16-bit PNG keeps 16
ORIENTATION, SOFTWARE = 0x0112, 0x0131  # Exif tags
OWN_SOFTWARE = "tier-infer"  # in the PNG text chunk `Software` or the Exif tag of our own pictures


def load_image(path: Path, intensity: str, display: bool = False) -> Radiograph:
    """Raises NotEvaluated or FailedImage with a reason; see `errors`.

    `display` asks for the picture that a monitor would show besides the one that is scored.
    """
    try:
        if path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK):
                raise FailedImage("unreadable", "the folder can't be opened (Permission denied)")
            raise FailedImage("empty_folder", "the folder holds no files")
        if path.exists() and not path.is_file():
            raise FailedImage("unreadable", "it is no regular file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FailedImage("unreadable", f"the file can't be opened ({error.strerror})") from None
    return load_bytes(data, path.suffix, intensity, display)


def load_bytes(data: bytes, suffix: str, intensity: str, display: bool = False) -> Radiograph:
    """The content of one file. `suffix` only tells a stray file from a broken image."""
    if len(data) > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 2**20
        raise FailedImage("too_large", f"the file is over {limit} MiB, the limit for one image")
    if data.startswith(PICTURES) and data[128:132] != b"DICM":
        return _read_picture(data)
    if is_dicom(data[:132]):
        return _render(read_dicom(data), intensity, display)
    # A stray README in a study folder is no failure of the study; a broken .dcm is.
    kind = FailedImage if suffix.lower() in IMAGE_SUFFIXES else NotEvaluated
    raise kind(
        "not_an_image", "the file is neither DICOM (no DICM prefix), PNG nor JPEG by its content"
    )


def _render(image: StoredImage, intensity: str, display: bool) -> Radiograph:
    flags = list(image.flags)
    try:
        levels = count_levels(image.stored, image.padding)
        grey = image.pose.apply(_as_preset(image, intensity, levels))
        flags += check_content(_as_film(image), image.grayscale.inverted)
        shown = image.pose.apply(_as_shown(image, intensity, levels)) if display else None
    except RefusedImage as refusal:
        refusal.study_key, refusal.view = image.study_key, image.view
        raise
    if intensity == "voi":
        flags += ["several_windows"] * image.grayscale.several_windows
    else:
        flags += ["window_ignored"] * (image.grayscale.voi is not None)
        flags += ["outliers"] * has_outliers(levels)
    keys = (image.study_key, image.instance_key, image.patient_key)
    return Radiograph(grey, image.view, tuple(flags), *keys, display=shown)


def _as_preset(image: StoredImage, intensity: str, levels: Levels) -> NDArray[np.uint8]:
    return to_8bit(image.stored, intensity, image.grayscale, image.padding, levels)


def _as_shown(image: StoredImage, intensity: str, levels: Levels) -> NDArray[np.uint8]:
    """uint8 [H, W] as a monitor shows it; where the window is broken, as the preset does."""
    try:
        return _as_preset(image, "voi", levels)
    except FailedImage:
        return _as_preset(image, intensity, levels)


def _as_film(image: StoredImage) -> NDArray[np.integer]:
    """Values [H, W] upright, no window, padding dark: what the content checks look at."""
    values = image.stored
    if image.grayscale.modality_lut is not None:
        values = image.grayscale.modality_lut(values.astype(np.float64)).astype(np.int32)
    if image.padding is not None:
        film = values[~image.padding]
        dark = film.max() if image.grayscale.inverted else film.min()
        values = np.where(image.padding, dark, values)
    return image.pose.roughly(values)


def _read_picture(data: bytes) -> Radiograph:
    too_large = FailedImage("too_large", f"the picture has more than {MAX_PIXELS} pixels")
    with quiet():  # Pillow speaks of metadata; pixels are checked below
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise too_large
                if getattr(image, "n_frames", 1) > 1:
                    raise NotEvaluated("multi_frame", "the picture has several frames")
                image.load()
                exif = image.getexif()
                orientation = exif.get(ORIENTATION, 1)
                software = image.info.get("Software") or exif.get(SOFTWARE) or ""
                turned = ImageOps.exif_transpose(image)
        except RefusedImage:
            raise
        except (Image.DecompressionBombError, MemoryError):
            raise too_large from None
        except Exception as error:  # Pillow raises eight kinds on damaged files
            kind = type(error).__name__
            raise FailedImage("decode", f"the picture can't be decoded ({kind})") from None
    if str(software).strip("\0 ") == OWN_SOFTWARE:
        raise NotEvaluated("own_output", "the picture is an output of tier-infer itself")
    grey = _grey(turned)
    if turned.mode not in ("L", "RGB") and grey.min() < grey.max() < MIN_LEVELS:
        raise FailedImage(
            "pixel_depth",
            f"the 16-bit picture uses only the lowest {int(grey.max()) + 1} of 256 levels; "
            "scale it to its full range, or give the DICOM file",
        )
    if grey.min() == grey.max():
        raise FailedImage(
            "constant_image", "every pixel has the same value, so there is no picture"
        )
    flags = ["exif_rotated"] * (orientation in range(2, 9)) + check_content(grey)
    return Radiograph(grey, "unknown", tuple(flags), display=grey)


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [H, W]. 16-bit PNG: clip(x // 255), as TIER's PadChest reader does (peers: x / 255)."""
    if image.mode == "L":
        return np.array(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.array(image).astype(np.int64)
        return (wide // 255).clip(0, 255).astype(np.uint8)
    if image.mode == "RGB":
        return grey_of_rgb(np.array(image))
    raise FailedImage(
        "pixel_format",
        f"the picture has pixel format {image.mode}; allowed: 8- or 16-bit grey, RGB",
    )
