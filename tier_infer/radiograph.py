"""What reading a file gives, whatever it was: one upright 8-bit radiograph and its remarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Radiograph:
    """`grey`: uint8 [H, W], bright = dense, patient's right on the left of the picture.

    The keys group images in memory; they are identifiers and are shown only when asked for.
    """

    grey: NDArray[np.uint8]
    view: str  # PA, AP, lateral, oblique, unknown
    flags: tuple[str, ...]
    study_key: str | None = None  # StudyInstanceUID
    instance_key: str | None = None  # SOPInstanceUID
    patient_key: str | None = None  # digest of PatientID
    display: NDArray[np.uint8] | None = None  # [H, W] like grey: what a monitor would show
