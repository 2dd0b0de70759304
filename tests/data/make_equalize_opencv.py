"""Writes equalize_opencv.npz: small pictures and what OpenCV's equalizeHist makes of them.

    .uv/bin/uv venv /tmp/cv
    .uv/bin/uv pip install --python /tmp/cv/bin/python opencv-python-headless numpy
    /tmp/cv/bin/python tests/data/make_equalize_opencv.py

Keys: in_<name> and out_<name>, uint8 [H, W]; `opencv`, the version that answered.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20240)
    y, x = np.mgrid[:72, :64]
    lungs = 128 + 90 * np.cos(x / 12) * np.cos(y / 31) + rng.normal(0, 6, x.shape)
    framed = np.pad(lungs[:48, :40].clip(0, 255), 8)
    found = {
        "noise": rng.integers(0, 256, (41, 37)),
        "lungs": lungs.clip(0, 255),
        "black_frame": framed,
        "white_frame": 255 - framed,
        "narrow": rng.integers(100, 108, (40, 40)),
        "two_levels": rng.integers(0, 2, (31, 17)) * 199 + 20,
        "one_level": np.full((12, 9), 77),
        "one_pixel_differs": np.where(np.arange(400).reshape(20, 20) == 7, 255, 0),
        "one_pixel": np.full((1, 1), 200),
        "row": np.arange(256)[None, ::-1],
        "dark": 255 * rng.random((40, 40)) ** 6,
        "bright": 255 * rng.random((40, 40)) ** 0.2,
        "even_steps": np.repeat(np.arange(0, 103), 5)[:510].reshape(30, 17),  # many ties of rint
    }
    for size in range(2, 22):  # every denominator, so that float32 rounding shows
        found[f"small_{size}"] = rng.integers(0, 256, (size, size + 1))
    return {name: np.ascontiguousarray(array, dtype=np.uint8) for name, array in found.items()}


if __name__ == "__main__":
    table: dict[str, np.ndarray] = {"opencv": np.array(cv2.__version__)}
    for name, array in pictures().items():
        table |= {f"in_{name}": array, f"out_{name}": cv2.equalizeHist(array)}
    np.savez_compressed(Path(__file__).with_name("equalize_opencv.npz"), **table)
