"""Where a finding was drawn on an image: PNG files, CheXlocalize's JSON, or the dataset's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tier_infer.errors import UsageError
from tier_infer.evaluation.chexlocalize import chexlocalize_masks
from tier_infer.evaluation.cohort import Cohort

Mask = NDArray[np.bool_]
Masks = Callable[[int, str], Mask | None]  # row of the cohort, label id
MAX_PIXELS = 2**26


def open_masks(cohort: Cohort, place: Path | None) -> Masks:
    """row, label → bool [H, W], or None where nobody drew.

    `place`: a folder with LABEL/IMAGE.png, IMAGE the image's path under the dataset without its
    suffix; or CheXlocalize's gt_segmentations JSON; None: the masks that come with the dataset.
    UsageError where there is no such thing, and on the call for a file that is no mask.
    """
    if place is None:
        if not cohort.masks:
            raise UsageError(
                f"{cohort.name} comes without masks; name a folder of LABEL/IMAGE.png, or "
                "CheXlocalize's gt_segmentations JSON, with --masks"
            )
        return lambda row, label: _own(cohort, row, label)
    if place.is_dir():
        return lambda row, label: _in_folder(cohort, place, row, label)
    drawn = chexlocalize_masks(place)
    return lambda row, label: drawn(cohort.cases[row], label)


def _own(cohort: Cohort, row: int, label: str) -> Mask | None:
    places = cohort.masks.get(label)
    return read_mask(cohort.root / places[row]) if places and places[row] else None


def _in_folder(cohort: Cohort, folder: Path, row: int, label: str) -> Mask | None:
    path = folder / label / Path(cohort.cases[row].place).with_suffix(".png")
    return read_mask(path) if path.is_file() else None


def read_mask(path: Path) -> Mask | None:
    """bool [H, W], True where the picture is brighter than half of its brightest: files of 0 and 1
    and of 0 and 255 say the same. None for a black one."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS or image.mode not in ("1", "L", "P", "RGB"):
                raise ValueError(image.mode)
            grey = np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UsageError(f"{path} is no mask: an 8-bit PNG, bright inside") from None
    mask = grey > grey.max() / 2
    return mask if mask.any() else None
