"""Square pixels, head up, the patient's right on the left: how a chest radiograph is looked at.

Headers may declare a mirrored, turned or stretched picture (PS3.3 C.7.6.1.1.1, C.7.6.3.1.7). It is
put right here and flagged. What no header declares stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from tier_infer.dicom.header import numbers, tag, texts
from tier_infer.errors import FailedImage

OPPOSITE = {"L": "R", "R": "L", "H": "F", "F": "H", "A": "P", "P": "A"}
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
MAX_STRETCH = 4.0
AGREE = 1.02  # two statements of one ratio, rounded differently
EQUAL = 0.005  # spacings that differ by less are one spacing, written with few digits


@dataclass(frozen=True)
class Pose:
    """How to turn and stretch stored rows and columns, in this order: transpose, flips, stretch."""

    transpose: bool = False
    flip_rows: bool = False  # top for bottom
    flip_columns: bool = False  # left for right
    row_to_column: float = 1.0  # distance between rows divided by that between columns

    @property
    def flags(self) -> list[str]:
        turned = self.transpose or self.flip_rows or self.flip_columns
        return ["oriented"] * turned + ["aspect_resampled"] * (self.row_to_column != 1)

    def apply(self, grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [H, W] as stored → uint8 upright, with square pixels; only ever enlarged."""
        ratio = self.row_to_column
        if ratio != 1:
            height, width = grey.shape
            size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
            grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
        return np.ascontiguousarray(self._turned(grey))

    def roughly(self, stored: NDArray[np.integer]) -> NDArray[np.integer]:
        """The same pose for values of any depth, nearest pixels: to look at, not to score."""
        height, width = stored.shape
        ratio = self.row_to_column
        if ratio > 1:
            stored = stored[
                (np.arange(round(height * ratio)) / ratio).astype(int).clip(0, height - 1)
            ]
        elif ratio < 1:
            columns = (np.arange(round(width / ratio)) * ratio).astype(int)
            stored = stored[:, columns.clip(0, width - 1)]
        return self._turned(stored)

    def _turned(self, picture: NDArray[Any]) -> NDArray[Any]:
        if self.transpose:
            picture = picture.T
        if self.flip_rows:
            picture = picture[::-1]
        return picture[:, ::-1] if self.flip_columns else picture


def read_pose(ds: Dataset, view: str) -> Pose:
    """Raises FailedImage orientation or pixel_aspect."""
    return Pose(*_turn(texts(ds, "PatientOrientation"), view), _stretch(ds))


def _turn(orientation: list[str], view: str) -> tuple[bool, bool, bool]:
    """(transpose, flip rows, flip columns) that lead to L\\F, or to F downwards for a lateral."""
    if not any(orientation):  # type 2C: may be there and empty
        return False, False, False
    if len(orientation) != 2 or not all(o[:1] in OPPOSITE for o in orientation):
        raise FailedImage("orientation", f"{tag('PatientOrientation')} must be two directions")
    along_row, down_column = (o[0] for o in orientation)
    across = {"lateral": "AP", "oblique": "APLR"}.get(view, "LR")
    transpose = along_row in ("H", "F")
    if transpose:  # what runs along a row will run down a column
        along_row, down_column = down_column, along_row
    if along_row not in across or down_column not in ("H", "F"):
        raise FailedImage(
            "orientation",
            f"{tag('PatientOrientation')} does not fit a {view} view of a standing patient",
        )
    return transpose, down_column == "H", along_row == "R"


def _stretch(ds: Dataset) -> float:
    """Distance between rows over distance between columns; PixelAspectRatio is exactly that.

    All that is said must agree. Two spacings of 0 are written by devices that know none (NEMA's own
    CR sample does).
    """
    ratios = []
    for keyword in ("PixelAspectRatio", *SPACINGS):
        pair = numbers(ds, keyword)
        if not pair or (keyword in SPACINGS and not any(pair)):
            continue
        if len(pair) != 2 or min(pair) <= 0 or max(pair) > MAX_STRETCH * min(pair):
            raise FailedImage(
                "pixel_aspect",
                f"{tag(keyword)} must be two positive numbers, one at most {MAX_STRETCH:g} times "
                "the other",
            )
        ratios.append(pair[0] / pair[1])
    if ratios and max(ratios) > AGREE * min(ratios):
        raise FailedImage("pixel_aspect", "pixel spacings and aspect ratio contradict each other")
    ratio = ratios[0] if ratios else 1.0
    return 1.0 if abs(ratio - 1) <= EQUAL else ratio
