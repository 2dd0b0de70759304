"""Writes presets_opencv.npz: random films and what the recipes of two data sets make of them.

    .uv/bin/uv venv CV_FOLDER
    .uv/bin/uv pip install --python CV_FOLDER/bin/python opencv-python-headless numpy
    CV_FOLDER/bin/python tests/data/make_presets_opencv.py

mimic-jpg (MIT-LCP/mimic-cxr, issue 16): x - min, / max, * 255, truncated to uint8; 255 - x for
MONOCHROME1; cv2.equalizeHist. chexpert-jpg (stanfordmlgroup/chexpert-labeler, issue 11):
cv2.convertScaleAbs(x, alpha=255 / max); inverted likewise; cv2.equalizeHist.

The inputs are made from their seeds by `films`, by NumPy's PCG64 and integer arithmetic alone, so
the test makes the same ones. Keys: <recipe>_<name>[_mono1], uint8 [H, W]; `opencv`, the version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

SHAPES = ((37, 41), (23, 23), (1, 300), (31, 17), (12, 40))
FILMS = 7  # per depth


def films() -> Iterator[tuple[str, np.ndarray]]:
    """uint16 arrays of 12, 14 and 16 bits: noise, ramps with noise, narrow and skewed ranges."""
    for bits in (12, 14, 16):
        top = 2**bits
        for seed in range(FILMS):
            rng = np.random.default_rng([bits, seed])
            shape = SHAPES[seed % len(SHAPES)]
            kind = seed % 4
            if kind == 0:
                grey = rng.integers(0, top, shape)
            elif kind == 1:  # a ramp over columns, some noise, dark corners cut to 0
                ramp = np.arange(shape[1]) * (top * 3 // 4) // shape[1]
                grey = np.maximum(ramp + rng.integers(-top // 8, top // 8, shape), 0)
            elif kind == 2:  # a narrow range far above 0, as of an unwindowed detector
                grey = rng.integers(top // 2, top // 2 + top // 20, shape)
            else:  # skewed: most pixels dark, few bright
                grey = rng.integers(0, top, shape) * rng.integers(0, top, shape) // top
            yield f"{bits}_{seed}", grey.astype(np.uint16)


def mimic(x: np.ndarray, mono1: bool) -> np.ndarray:
    image = x.astype(float) - x.min()
    image = (image / image.max() * 255).astype(np.uint8)
    return cv2.equalizeHist(255 - image if mono1 else image)


def chexpert(x: np.ndarray, mono1: bool) -> np.ndarray:
    image = cv2.convertScaleAbs(x, alpha=255.0 / x.max())
    return cv2.equalizeHist(255 - image if mono1 else image)


if __name__ == "__main__":
    import cv2  # in an environment of its own; the test only needs `films`

    table: dict[str, np.ndarray] = {"opencv": np.array(cv2.__version__)}
    for name, film in films():
        for mono1 in (False, True):
            key = name + "_mono1" * mono1
            table |= {f"mimic_{key}": mimic(film, mono1), f"chexpert_{key}": chexpert(film, mono1)}
    np.savez_compressed(Path(__file__).with_name("presets_opencv.npz"), **table)
