"""The pictures of a dataset: decoded into memory, decoded when asked for, or from a cache."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import FailedImage, RefusedImage, UsageError
from tier_infer.geometry import Geometry, resized
from tier_infer.images import load_image
from tier_train.data.cache import cached_pictures
from tier_train.data.dataset import Dataset, Pictures, Row

IN_MEMORY = 20_000  # pictures, 1.6 GB at a short side of 256


def load_pictures(
    dataset: Dataset, rows: list[Row], intensity: str, geometry: Geometry, skip_bad: bool = False
) -> tuple[list[Row], Pictures]:
    """The rows and, in their order, their pictures under the geometry, nothing cropped.

    An image that is refused stops the run, named and counted, unless skip_bad leaves it out. More
    than IN_MEMORY pictures are decoded when they are asked for; then the first one refused stops
    the run, and skip_bad is refused.
    """
    if dataset.kind == "cache":
        return rows, cached_pictures(dataset, rows, intensity, geometry)
    if len(rows) > IN_MEMORY:
        if skip_bad:
            raise UsageError(
                f"--skip-bad would have to decode {len(rows)} images before the first step; "
                "`tier-train data cache` does it once, leaves bad ones out, and makes training fast"
            )
        return rows, DecodedPictures(dataset, rows, intensity, geometry)
    kept: list[Row] = []
    pictures: list[NDArray[np.uint8]] = []
    refused: list[str] = []
    for row in rows:
        try:
            pictures.append(decode(dataset.folder / row.image_path, intensity, geometry))
            kept.append(row)
        except RefusedImage as refusal:
            refused.append(f"{place(dataset, row)}: {refusal}")
    if refused and not skip_bad:
        raise UsageError(
            f"{len(refused)} images of {_source(dataset)} are refused, the first at "
            f"{refused[0]}; mend them, or leave them out with --skip-bad"
        )
    return kept, pictures


class DecodedPictures:
    """Reads and resizes at every access; 8 megapixels of JPEG take a core about 60 ms."""

    def __init__(
        self, dataset: Dataset, rows: list[Row], intensity: str, geometry: Geometry
    ) -> None:
        self.dataset, self.rows = dataset, rows
        self.intensity, self.geometry = intensity, geometry
        self._one_at_a_time = Lock()  # libraries are silenced process-wide

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        row = self.rows[index]
        try:
            with self._one_at_a_time:
                return decode(self.dataset.folder / row.image_path, self.intensity, self.geometry)
        except RefusedImage as refusal:
            raise UsageError(
                f"{place(self.dataset, row)} is refused: {refusal}; mend it, or train from a cache "
                "without it: tier-train data cache --help"
            ) from None


def decode(path: Path, intensity: str, geometry: Geometry) -> NDArray[np.uint8]:
    """uint8 [h, w] as the geometry resizes it; raises RefusedImage."""
    if "\0" in str(path):
        raise FailedImage("unreadable", "the file can't be opened (no name of a file)")
    return resized(load_image(path, intensity, high_byte=geometry.high_byte).grey, geometry)


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name the file system can't even ask for
        return False


def place(dataset: Dataset, row: Row) -> str:
    """Where a row stands. Only a manifest's paths are the user's own words; others hold ids."""
    if dataset.kind == "manifest":
        return f"line {row.number}, {row.image_path}"
    return f"line {row.number} of {_source(dataset)}"


def _source(dataset: Dataset) -> str:
    return {"manifest": "the manifest", "mimic": "the metadata table"}.get(
        dataset.kind, dataset.path.name
    )
