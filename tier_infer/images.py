"""Any input file → one 8-bit radiograph. DICOM goes through the intensity preset, PNG and JPEG
files of 8 bits are taken as they are: they already went through somebody's.

Scoring calls this in a child process of its own (`reader`); training, on files that the researcher
chose, calls it directly.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tier_infer.content import check_content
from tier_infer.dicom.read import StoredImage, is_dicom, read_dicom
from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage
from tier_infer.intensity import (
    Levels,
    contrast_flags,
    count_levels,
    grey_table,
    has_outliers,
    to_8bit,
)
from tier_infer.pictures import PICTURES, read_picture
from tier_infer.radiograph import Radiograph

MAX_FILE_BYTES = 256 * 2**20
SIDEWAYS = ("lateral", "oblique")
IMAGE_SUFFIXES = ("", ".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg")


def load_image(
    path: Path, intensity: str, display: bool = False, high_byte: bool = False
) -> Radiograph:
    """Raises NotEvaluated or FailedImage with a reason; see `errors`.

    `display` asks for the picture that a monitor would show besides the one that is scored.
    `high_byte` is the geometry's: it says how 16-bit PNG files become 8 bits.
    """
    try:
        if path.is_dir():
            if path.is_symlink():
                raise FailedImage("unreadable", "it is a link to a folder and is not followed")
            if not os.access(path, os.R_OK | os.X_OK):
                raise FailedImage("unreadable", "the folder can't be opened (Permission denied)")
            raise FailedImage("empty_folder", "the folder holds no files")
        if path.exists() and not path.is_file():
            raise FailedImage("unreadable", "it is no regular file")
        with path.open("rb") as file:
            size = min(os.fstat(file.fileno()).st_size, MAX_FILE_BYTES)
            data = file.read(size + 1)  # a buffer of this size is taken at once
    except OSError as error:
        raise FailedImage("unreadable", f"the file can't be opened ({error.strerror})") from None
    return load_bytes(data, suffix_of(path.name), intensity, display, high_byte)


def suffix_of(name: str) -> str:
    """The suffix that tells an image; a hidden file is none, whatever it is called."""
    return ".hidden" if name.startswith(".") else Path(name).suffix.lower()


def load_bytes(
    data: bytes, suffix: str, intensity: str, display: bool = False, high_byte: bool = False
) -> Radiograph:
    """The content of one file. `suffix` only tells a stray file from a broken image."""
    if len(data) > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 2**20
        raise FailedImage("too_large", f"the file is over {limit} MiB, the limit for one image")
    if data.startswith(PICTURES) and data[128:132] != b"DICM":
        return read_picture(data, high_byte)
    if is_dicom(data[:132]):
        return _render(read_dicom(data), intensity, display)
    # A stray README in a study folder is no failure of the study; a broken .dcm is.
    kind = FailedImage if suffix.lower() in IMAGE_SUFFIXES else NotEvaluated
    words = "the file is neither DICOM (no DICM prefix), PNG nor JPEG by its content"
    raise kind("not_an_image", words if data else "the file is empty (0 bytes)")


def _render(image: StoredImage, intensity: str, display: bool) -> Radiograph:
    flags = list(image.flags)
    try:
        levels = count_levels(image.stored, image.padding)
        seen = [] if intensity == "voi" else _content_of_film(image)
        grey = image.pose.apply(_as_preset(image, intensity, levels))
        if intensity == "voi":  # a VOI LUT may invert, so the result is looked at
            seen = check_content(grey)
        flags += seen if image.view not in SIDEWAYS else []  # learned from frontal films
        flags += _scaling_flags(image, intensity, levels)
        shown = _as_shown(image, intensity, levels, grey) if display else None
    except RefusedImage as refusal:
        refusal.study_key, refusal.view = image.study_key, image.view
        raise
    keys = (image.study_key, image.instance_key, image.patient_key)
    return Radiograph(grey, image.view, tuple(flags), *keys, display=shown)


def _scaling_flags(image: StoredImage, intensity: str, levels: Levels) -> list[str]:
    grayscale = image.grayscale
    flags = contrast_flags(levels, grey_table(levels, intensity, grayscale), grayscale)
    if intensity == "voi" and grayscale.voi is not None:
        return flags + ["several_windows"] * grayscale.several_windows
    flags += ["window_ignored"] * (grayscale.voi is not None)
    return flags + ["outliers"] * has_outliers(levels)


def _as_preset(image: StoredImage, intensity: str, levels: Levels) -> NDArray[np.uint8]:
    return to_8bit(image.stored, intensity, image.grayscale, image.padding, levels)


def _as_shown(
    image: StoredImage, intensity: str, levels: Levels, grey: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """uint8 [H, W] as a monitor shows it; where the window is broken, `grey` as it is scored."""
    if intensity == "voi":
        return grey
    try:
        return image.pose.apply(_as_preset(image, "voi", levels))
    except FailedImage:
        return grey


def _content_of_film(image: StoredImage) -> list[str]:
    """The content checks on values upright, no window, padding dark."""
    values = image.stored
    if image.grayscale.modality_lut is not None:
        values = image.grayscale.modality_lut(values.astype(np.float64)).astype(np.int32)
    if image.padding is not None:
        film = values[~image.padding]
        dark = film.max() if image.grayscale.inverted else film.min()
        values = np.where(image.padding, dark, values)
    return check_content(image.pose.roughly(values), image.grayscale.inverted)
