"""Any input file → one 8-bit radiograph. DICOM goes through the intensity preset, PNG and JPEG
files of 8 bits are taken as they are: they already went through somebody's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tier_infer.dicom import read_dicom
from tier_infer.errors import FailedImage, NotEvaluated, UsageError
from tier_infer.intensity import to_8bit
from tier_infer.pixel_data import MAX_PIXELS

IMAGE_SUFFIXES = ("", ".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg")
MIN_LEVELS = 64  # of 256: a 12-bit picture in a 16-bit PNG keeps 16
ORIENTATION = 0x0112  # Exif tag
MAX_COLOUR_DIFFERENCE = 2  # grey levels between channels that JPEG may leave in a grey picture


@dataclass(frozen=True)
class Radiograph:
    """`grey`: uint8 [H, W], bright = dense, patient's right on the left of the picture."""

    grey: NDArray[np.uint8]
    view: str
    flags: tuple[str, ...]
    study_key: str | None = None
    instance_key: str | None = None


def find_images(paths: Iterable[str]) -> list[str]:
    """Files as given; a folder gives its files, recursively and in a fixed order.

    A folder that is empty or can't be opened stands for itself, so that it gets a row of its own.
    """
    found: list[str] = []
    for given in paths:
        try:
            is_folder, exists = Path(given).is_dir(), Path(given).exists()
        except PermissionError:  # load_image will say so
            is_folder, exists = False, True
        except (OSError, ValueError):  # a name the file system can't even ask for
            is_folder = exists = False
        if is_folder:
            found.extend(_files_in(given) or [given])
        elif exists:
            found.append(given)
        else:
            raise UsageError(f"{given} does not exist; give a DICOM, PNG or JPEG file or a folder")
    return found


def _files_in(folder: str) -> list[str]:
    closed: list[str] = []
    inside: list[str] = []
    for root, _, names in os.walk(folder, onerror=lambda error: closed.append(error.filename)):
        inside += [os.path.join(root, name) for name in names if not name.startswith(".")]
    return sorted([path for path in inside if os.path.isfile(path)] + closed)


def load_image(path: Path, intensity: str) -> Radiograph:
    """Raises NotEvaluated or FailedImage with a reason; see `errors`."""
    try:
        if path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK):
                raise FailedImage("unreadable", "the folder can't be opened (Permission denied)")
            raise FailedImage("empty_folder", "the folder holds no files")
        if path.exists() and not path.is_file():
            raise FailedImage("unreadable", "it is no regular file")
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise FailedImage("unreadable", f"the file can't be opened ({error.strerror})") from None
    if head[128:132] == b"DICM":
        image = read_dicom(path)
        try:
            grey = to_8bit(image.stored, intensity, image.inverted)
        except FailedImage as refusal:
            refusal.study_key, refusal.view = image.study_key, image.view
            raise
        return Radiograph(grey, image.view, image.flags, image.study_key, image.instance_key)
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return _read_picture(path)
    # A stray README in a study folder is no failure of the study; a broken .dcm is.
    kind = FailedImage if path.suffix.lower() in IMAGE_SUFFIXES else NotEvaluated
    raise kind(
        "not_an_image", "the file is neither DICOM (no DICM prefix), PNG nor JPEG by its content"
    )


def _read_picture(path: Path) -> Radiograph:
    too_large = FailedImage("too_large", f"the picture has more than {MAX_PIXELS} pixels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's speak of metadata; pixels are checked below
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise too_large
                image.load()
                orientation = image.getexif().get(ORIENTATION, 1)
                turned = ImageOps.exif_transpose(image)
        except FailedImage:
            raise
        except Image.DecompressionBombError:
            raise too_large from None
        except Exception as error:  # Pillow raises eight kinds on damaged files
            kind = type(error).__name__
            raise FailedImage("decode", f"the picture can't be decoded ({kind})") from None
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
    return Radiograph(grey, "unknown", ("exif_rotated",) if orientation in range(2, 9) else ())


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [H, W]. 16-bit PNG: clip(x // 255), as TIER's PadChest reader does (peers: x / 255)."""
    if image.mode == "L":
        return np.array(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.array(image).astype(np.int64)
        return (wide // 255).clip(0, 255).astype(np.uint8)
    if image.mode == "RGB":
        colour = np.array(image).astype(np.int16)
        if np.ptp(colour, axis=2).max() <= MAX_COLOUR_DIFFERENCE:
            return np.array(image.convert("L"))
        raise NotEvaluated("colour", "the picture is in colour; only grey radiographs are scored")
    raise FailedImage(
        "pixel_format",
        f"the picture has pixel format {image.mode}; allowed: 8- or 16-bit grey, RGB",
    )
