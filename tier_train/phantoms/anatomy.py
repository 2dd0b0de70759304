"""The anatomy of the drawn chest: where each structure lies and how dense it is.

Lengths are fractions of the field, so every size shows the same anatomy: x runs from -0.5 to 0.5
with 0 on the midline, y from 0 (top) to 1. The patient's right is at negative x, as on a light
box; u = side * x is the distance from the midline on one side. Density 0 is air outside the body,
1 plain soft tissue; an opacity of 1 replaces all the air of the lung.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# float32 at run time (a test checks); numpy's type stubs lose it when a Python float comes in.
Array = NDArray[np.floating[Any]]
SIGN = {"right": -1.0, "left": 1.0}


@dataclass(frozen=True)
class Frame:
    """Where the pixels fall in this patient: float32 [H, W]."""

    x: Array
    y: Array
    flank: Array  # inner half width of the thorax at the pixel's height
    body: Mapping[str, float]  # ANATOMY after the findings that change it


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Array, Array]:
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = np.meshgrid(steps, steps)
    return x, y


def place(body: Mapping[str, float], size: int) -> Frame:
    """Undo shift, scale and tilt of the film."""
    x, y = grid(size)[0] - body["dx"], grid(size)[1] - body["dy"]
    cos, sin = math.cos(body["tilt"]) / body["scale"], math.sin(body["tilt"]) / body["scale"]
    x, y = cos * x + sin * y, cos * y - sin * x + 0.5
    q = np.clip((body["widest"] - y) / (body["widest"] - body["apex"]), 0.0, 1.0) ** 2
    rounded = np.sqrt(1.0 - q * (body["taper"] + (1.0 - body["taper"]) * q))
    return Frame(x, y, 0.10 + (body["half"] - 0.10) * rounded, body)


def edge(depth: Array, width: float = 0.014) -> Array:
    """Smooth step from 0 (outside) to 1 (inside), `width` long, centred on depth 0."""
    t = np.clip(depth * (1.0 / width) + 0.5, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def ellipse(x: Array, y: Array, a: float, b: float, turn: float = 0.0) -> Array:
    """Depth below the rim of an ellipse round the origin, semi-axes a, b; negative outside."""
    cos, sin = math.cos(turn), math.sin(turn)
    radius = np.sqrt(((cos * x + sin * y) / a) ** 2 + ((cos * y - sin * x) / b) ** 2)
    return np.asarray((1.0 - radius) * min(a, b))


def above_dome(f: Frame, side: str) -> Array:
    """Height above one diaphragm, which falls off to the costophrenic angle."""
    return np.asarray(f.body[side] + 1.9 * (SIGN[side] * f.x - 0.15) ** 2 - f.y)


def lung(f: Frame, side: str) -> Array:
    """Outline of one lung, 0..1."""
    u, apex = SIGN[side] * f.x, f.body["apex"]
    inner = 0.03 + 0.07 * np.clip((apex + 0.1 - f.y) * 10.0, 0.0, 1.0) ** 2
    down = np.minimum(above_dome(f, side), f.y - apex)
    return edge(np.minimum(np.minimum(f.flank - u, u - inner), down))


def heart(f: Frame) -> Array:
    """Heart shadow 0..1, `ctr` of the thorax wide: a tilted ventricle and the right atrium."""
    width = 2.0 * f.body["half"] * f.body["ctr"]
    x, y = f.x - f.body["heart_x"], f.y - (f.body["dome"] + f.body["dome_drop"] - 0.31 * width)
    ventricle = ellipse(x - 0.18 * width, y, 0.54 * width, 0.37 * width, f.body["axis"])
    atrium = ellipse(x + 0.1 * width, y, 0.24 * width, 0.32 * width)
    return edge(np.maximum(ventricle, atrium), 0.03)


def core(f: Frame) -> Array:
    """Mediastinum 0..1, wider downwards, with the aortic knob on the patient's left."""
    column = f.body["core"] - np.abs(f.x) + 0.05 * np.clip(f.y - 0.35, -0.25, 0.3)
    return edge(np.maximum(column, ellipse(f.x - 0.048, f.y - 0.28, 0.042, 0.042)), 0.025)


def vessels(f: Frame) -> Array:
    """Hila and the vessels that fan out of them, 0..1."""
    u, v = np.abs(f.x) - 0.06, f.y - 0.45
    r = np.sqrt(u * u + v * v) + 0.02
    fan = np.clip(np.cos(9.0 * v / r + 5.0 * u / r + 9.0 * r), 0.0, 1.0) ** 2
    return np.asarray(np.clip(1.0 - r * 3.6, 0.0, 1.0) * fan + edge(0.05 - r, 0.06))


def below(f: Frame) -> Array:
    """The abdomen under both diaphragms, 0..1."""
    under = np.where(f.x < 0.0, -above_dome(f, "right"), -above_dome(f, "left"))
    return edge(under) * edge(f.body["half"] + 0.03 - np.abs(f.x), 0.06)


def soft_parts(f: Frame) -> Array:
    """Density of neck, shoulders and trunk, thinner to the skin, with trachea, gas and breasts."""
    u = np.abs(f.x)
    depth = 0.09 + (f.body["half"] + f.body["wall"] - 0.09) * edge(f.y - 0.08, 0.20) - u
    density = edge(depth, 0.03) * (0.70 + 0.3 * np.sqrt(np.clip(depth * 4.0, 0.0, 1.0)))
    gas = ellipse(f.x - 0.17, f.y - f.body["left"] - 0.055, 0.075, 0.035)
    density -= max(0.0, f.body["gas"]) * edge(gas, 0.03)
    breast = edge(ellipse(u - 0.2, f.y - 0.62, 0.15, 0.14), 0.05)
    trachea = edge(0.018 - u) * edge(0.36 - f.y, 0.1)
    density += max(0.0, f.body["breast"]) * breast - 0.2 * trachea
    return np.asarray(density * (1.0 + f.body["slope"] * f.x))


def bones(f: Frame) -> Array:
    """Density of spine, clavicles and ribs: one periodic wave behind and a fainter one in front."""
    u, y, turn = np.abs(f.x), f.y, 2.0 * math.pi / f.body["rib_step"]
    behind = np.clip(np.cos(turn * (y - 1.3 * (u - 0.06) ** 2)), 0.0, 1.0)
    front = np.clip(np.cos(turn * (y + 0.45 * u)), 0.0, 1.0) * edge(u - 0.19, 0.1)
    cage = edge(f.flank + 0.025 - u, 0.02) * edge(y - f.body["apex"], 0.05)
    ribs = f.body["ribs"] * cage * edge(0.84 - y, 0.1) * (behind + 0.5 * front)
    spine = edge(0.040 - u, 0.03) * (0.18 + 0.04 * np.cos(y * 125.0))
    collar = f.body["apex"] + 0.065 - 0.2 * u + 0.012 * np.sin(u * 20.0)
    clavicle = edge(0.013 - np.abs(y - collar)) * edge(u - 0.035) * edge(0.34 - u, 0.04)
    return np.asarray(ribs + spine + 0.17 * clavicle)
