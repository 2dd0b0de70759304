"""The crops that parity is measured on, and those that INT8 is calibrated on: the user's
radiographs, or phantoms. No crop serves both.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from tier_export.parity import Crops
from tier_infer.errors import RefusedImage, UsageError
from tier_infer.geometry import Geometry, to_crop
from tier_infer.images import load_image
from tier_infer.intensity import to_8bit
from tier_infer.label_sets import column_id
from tier_train.data.dataset import Dataset, Row, truth_table
from tier_train.data.manifest import read_manifest
from tier_train.phantoms.phantom import FINDINGS, draw_phantom

T = TypeVar("T")
PHANTOMS = "phantoms"
PHANTOM_SEED = 20221213  # no training set uses it: the first version of the paper's date
PHANTOM_COUNT = 320  # at a prevalence of 0.16 about 51 × 269 pairs a label, 7e-5 of AUC each
MAX_CROPS = 512
SPLITS = ("test", "val")  # that parity is measured on where a manifest has them
CALIBRATION_COUNT = 128  # of phantoms 8 give the same error as 256; radiographs differ more
FIRST_CALIBRATION = 100_000  # index of a phantom that parity is never measured on


def phantom_crops(
    geometry: Geometry, intensity: str, count: int = PHANTOM_COUNT, first: int = 0
) -> Crops:
    """uint8 [count, H, W] through the presets of the checkpoint or bundle.

    Drawn as large as they will be resized, so that the network sees details of every scale.
    """
    indices = range(first, first + count)
    drawn = [draw_phantom(PHANTOM_SEED, index, geometry.resize) for index in indices]
    pixels = [to_crop(to_8bit(p.pixels, intensity), geometry) for p in drawn]
    truth = {n: np.array([p.labels[n] for p in drawn], np.float32) for n in FINDINGS}
    return Crops(np.stack(pixels), truth, f"{count} phantoms")


def manifest_crops(
    path: Path,
    geometry: Geometry,
    intensity: str,
    limit: int = MAX_CROPS,
) -> Crops:
    """The rows of the first of SPLITS that the manifest has, of any other manifest all; at most
    `limit`, evenly taken."""
    manifest = read_manifest(path)
    for split in SPLITS:
        if rows := manifest.split(split):
            crops = _crops_of(manifest, rows, geometry, intensity, limit)
            return replace(crops, source=f"{crops.source} of split {split}")
    crops = _crops_of(manifest, list(manifest.rows), geometry, intensity, limit)
    return replace(crops, source=f"{crops.source} without a test split")


def evenly(rows: list[T], limit: int) -> list[T]:
    """At most `limit` of them."""
    return rows[:: max(1, -(-len(rows) // limit))]


def calibration_crops(source: str, geometry: Geometry, intensity: str) -> Crops:
    """`source` is a manifest, of which test rows are never taken, or the word phantoms."""
    if source == PHANTOMS:
        return phantom_crops(geometry, intensity, CALIBRATION_COUNT, FIRST_CALIBRATION)
    path = Path(source)
    if not path.is_file():
        raise UsageError(
            f"--int8 {source} is no file; give a manifest of radiographs, or the word {PHANTOMS}"
        )
    manifest = read_manifest(path)
    rows = [row for row in manifest.rows if row.split != "test"]
    if not rows:
        raise UsageError(
            f"{path} has only test rows, and on those the gate is measured; --int8 needs train or "
            f"val rows, or the word {PHANTOMS}"
        )
    return _crops_of(manifest, rows, geometry, intensity, CALIBRATION_COUNT)


def check_apart(calibration: Crops, crops: Crops) -> None:
    """UsageError where INT8 would be judged on the crops that its ranges were taken from."""
    judged = {crop.tobytes() for crop in crops.pixels}
    both = sum(crop.tobytes() in judged for crop in calibration.pixels)
    if both:
        raise UsageError(
            f"{both} of {calibration.source} that --int8 is calibrated on are among the "
            f"{crops.source} that it is judged on; give the manifest a test split, name other "
            f"images with --dataset, or calibrate on {PHANTOMS}"
        )


def _crops_of(
    manifest: Dataset, rows: list[Row], geometry: Geometry, intensity: str, limit: int
) -> Crops:
    path = manifest.path
    rows = evenly(rows, limit)
    if manifest.intensity not in ("", intensity):
        raise UsageError(f"{path} names intensity {manifest.intensity}, the checkpoint {intensity}")
    crops = []
    for row in rows:
        try:
            file = manifest.folder / row.image_path
            image = load_image(file, intensity, high_byte=geometry.high_byte)
            crops.append(to_crop(image.grey, geometry))
        except RefusedImage as refusal:
            raise UsageError(f"{path} line {row.number}, {row.image_path}: {refusal}") from None
    columns = {column_id(column): column for column in manifest.label_columns}
    # Only the count: a file's name may be a patient's, and it would leave with the bundle.
    return Crops(np.stack(crops), truth_table(rows, columns), f"{len(rows)} radiographs")
