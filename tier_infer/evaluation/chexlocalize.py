"""CheXlocalize's masks: gt_segmentations_val.json and gt_segmentations_test.json.

    {"patient64622_study1_view1_frontal": {"Edema": {"size": [h, w], "counts": "…"}, …}, …}

`counts` is COCO's compressed run-length code: lengths of runs of 0 and 1 in turn, column by column,
each as characters 48 … 111 of five bits, the lowest first, 32 for "more follow"; the sixteen of the
last one is the sign. From the fourth on, a number is the difference to the one two before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Case
from tier_infer.label_sets import column_id

AIRSPACE = {"airspace_opacity": "lung_opacity"}  # what these files call it
MAX_PIXELS, MAX_BYTES = 2**26, 2**30  # an image; the test set's file has 10 million bytes
Masks = Callable[[Case, str], NDArray[np.bool_] | None]


def chexlocalize_masks(path: Path) -> Masks:
    """(case, label id) → bool [h, w] of the image as stored; None where nobody drew.

    Raises UsageError for another file, and on the call for a code that is none.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too long to be CheXlocalize's masks")
        read = json.loads(path.read_bytes())
        coded = {
            (image, AIRSPACE.get(column_id(name), column_id(name))): (code["size"], code["counts"])
            for image, masks in read.items()
            for name, code in masks.items()
        }
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise UsageError(f"{path} is no JSON of masks as CheXlocalize's gt_segmentations") from None

    def mask(case: Case, label: str) -> NDArray[np.bool_] | None:
        name = "_".join(case.image_path.split("/")[-3:]).rpartition(".")[0]
        if (name, label) not in coded:
            return None
        size, counts = coded[name, label]
        try:
            drawn = decode_runs(counts, *size)
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: a mask of {label} can't be decoded ({error})") from None
        return drawn if drawn.any() else None

    return mask


def decode_runs(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """bool [height, width]. ValueError for a code that does not fill the image exactly."""
    if not (0 < height * width <= MAX_PIXELS) or height < 0:
        raise ValueError("no size of an image")
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode("ascii"):
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("no run-length code")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) << (shift - 4)  # two's complement: the highest bit weighs minus
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError("runs do not fill the image")
    column_wise = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return column_wise.reshape(width, height).T
