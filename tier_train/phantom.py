"""Procedural frontal chest radiographs with known findings, for tests and the offline demo.

These are drawings with no clinical meaning: no patient, no physics, no diagnostic value.

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
Mask = NDArray[np.bool_]
Film = NDArray[np.uint16]

FINDINGS = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
DISTRACTORS = ("pneumothorax", "pacemaker", "nodule")
SEVERITIES = ("mild", "moderate", "severe")
SIGN = {"right": -1.0, "left": 1.0}
P_NORMAL = 0.35  # neither finding nor distractor
P_FINDING = 0.2 / (1.0 - P_NORMAL)  # of abnormal cases, so 0.2 of all
P_DISTRACTOR = 0.12  # of abnormal cases; one left empty gets a distractor anyway
AIR = 0.72  # density that aerated lung takes away from soft tissue

# Variation between cases, uniform in (low, high): film position (tilt in radians), thorax and
# diaphragm, heart and mediastinum, soft parts and bones (gas, breast absent below 0), film. `haze`
# dims both lungs alike, as a shallow breath does; `slope` is the drift of density across the film.
# fmt: off
ANATOMY = {
    "dx": (-0.06, 0.06), "dy": (-0.06, 0.05), "scale": (0.80, 1.06), "tilt": (-0.13, 0.13),
    "half": (0.325, 0.40), "apex": (0.09, 0.15), "widest": (0.54, 0.74), "taper": (0.4, 1.0),
    "wall": (0.05, 0.13), "dome": (0.64, 0.77), "dome_drop": (-0.02, 0.05), "breast": (-0.1, 0.2),
    "ctr": (0.40, 0.51), "axis": (0.35, 0.85), "core": (0.045, 0.080), "vessels": (0.15, 0.40),
    "gas": (-0.15, 0.30), "abdomen": (0.20, 0.38), "rib_step": (0.068, 0.088), "ribs": (0.07, 0.15),
    "haze": (0.0, 0.25), "gain": (0.32, 0.46), "gamma": (0.85, 1.30), "slope": (-0.25, 0.25),
    "noise": (0.008, 0.035),
}
# fmt: on
# What mild, moderate and severe mean.
CTR_LARGE = (0.545, 0.595, 0.650)  # cardiothoracic ratio
EDEMA_OPACITY = (0.28, 0.44, 0.62)
CONSOLIDATION_OPACITY, CONSOLIDATION_RADIUS = (0.60, 0.78, 0.92), (0.080, 0.105, 0.135)
ATELECTASIS_OPACITY, DOME_RISE = (0.55, 0.72, 0.88), (0.025, 0.045, 0.070)
FLUID_HEIGHT = (0.120, 0.190, 0.300)  # lateral fluid edge above the costophrenic angle
PNEUMOTHORAX_GAP = (0.10, 0.17, 0.26)  # of the thorax half width


@dataclass(frozen=True)
class Finding:
    """One finding or distractor; the side is the patient's, "" where a field does not apply."""

    name: str  # of FINDINGS or DISTRACTORS
    side: str  # "right", "left", "bilateral" or ""
    severity: str  # of SEVERITIES
    zone: str  # "upper", "mid", "lower" or ""


@dataclass(frozen=True)
class Phantom:
    """A drawn film with its truth."""

    pixels: Film  # [H, W], 12 bit (0..4095), MONOCHROME2: bright = dense
    findings: tuple[Finding, ...]  # the five and the distractors present
    masks: dict[str, Mask]  # [H, W], for each of the five that is present

    @property
    def labels(self) -> dict[str, int]:
        """The five labels, 1 = present."""
        return {name: int(name in self.masks) for name in FINDINGS}


@dataclass(frozen=True)
class Case:
    """All that decides a drawing except its size and its noise."""

    findings: tuple[Finding, ...]
    body: Mapping[str, float]  # keys of ANATOMY
    jitter: Mapping[str, list[float]]  # name -> four numbers in -1..1, drawn present or not


@dataclass(frozen=True)
class Frame:
    """Where the pixels fall in this patient: float32 [H, W]."""

    x: Array
    y: Array
    flank: Array  # inner half width of the thorax at the pixel's height
    body: Mapping[str, float]  # ANATOMY after the findings that change it


def draw_phantom(seed: int, index: int, size: int = 128) -> Phantom:
    """Film `index` of series `seed`, `size` pixels square; depends on nothing else."""
    rng = np.random.default_rng([seed, index])
    case = sample_case(rng)
    pixels, masks = render_case(case, size, rng)
    return Phantom(pixels, case.findings, masks)


def sample_case(rng: np.random.Generator) -> Case:
    """Draw the findings, the anatomy and the shape of each finding."""
    names: list[str] = []
    if rng.random() >= P_NORMAL:
        names = [name for name in FINDINGS if rng.random() < P_FINDING]
        names += [name for name in DISTRACTORS if rng.random() < P_DISTRACTOR]
        names = names or [str(rng.choice(DISTRACTORS))]
    findings = tuple(_sample_finding(name, rng) for name in names)
    body = {key: rng.uniform(low, high) for key, (low, high) in ANATOMY.items()}
    jitter = {name: rng.uniform(-1, 1, 4).tolist() for name in FINDINGS + DISTRACTORS}
    return Case(findings, body, jitter)


def _sample_finding(name: str, rng: np.random.Generator) -> Finding:
    side, zone = str(rng.choice(["right", "left"])), ""
    if name in ("consolidation", "nodule"):
        zone = str(rng.choice(["upper", "mid", "lower"]))
    elif name == "atelectasis":
        zone = "lower" if rng.random() < 0.85 else "mid"
    if name == "edema" or (name in ("pleural_effusion", "atelectasis") and rng.random() < 0.3):
        side = "bilateral"
    elif name == "cardiomegaly":
        side = ""
    return Finding(name, side, str(rng.choice(SEVERITIES)), zone)


def render_case(case: Case, size: int, rng: np.random.Generator) -> tuple[Film, dict[str, Mask]]:
    """Draw a case: pixels uint16 [H, W] in 0..4095, masks bool [H, W] of the five present."""
    frame = _place(_changed_body(case), size)
    heart, core = _heart(frame), _core(frame)
    # A little air shows through: lung lies behind the heart, and so may an opacity.
    air = {side: _lung(frame, side) * (1.0 - 0.88 * np.maximum(heart, core)) for side in SIGN}
    opacity = frame.body["haze"] + frame.body["vessels"] * _vessels(frame)
    density = _bones(frame) + 0.2 * core
    masks: dict[str, Mask] = {}
    for finding in case.findings:
        jitter = case.jitter[finding.name]
        if finding.name == "cardiomegaly":
            masks[finding.name] = heart > 0.5
        elif finding.name in DISTRACTORS:
            density += _distractor(finding, frame, jitter, air[finding.side])
        else:
            parts = [_opacity(finding, s, frame, jitter) * air[s] for s in _sides(finding)]
            masks[finding.name] = np.any([part > 0.4 * part.max() for part in parts], axis=0)
            opacity += sum(parts)
    # Capped above 1 because fluid is denser than the chest wall behind aerated lung.
    density -= AIR * (air["right"] + air["left"]) * (1.0 - np.minimum(opacity, 1.25))
    # The heart has no lower border of its own where it lies on the diaphragm.
    density += _soft_parts(frame) + np.maximum(0.34 * heart, frame.body["abdomen"] * _below(frame))
    return _expose(density, frame.body, rng), masks


def _sides(finding: Finding) -> tuple[str, ...]:
    return ("right", "left") if finding.side == "bilateral" else (finding.side,)


def _changed_body(case: Case) -> dict[str, float]:
    """The anatomy after the findings that change it: large heart, raised diaphragm, shift."""
    body = dict(case.body)
    body |= {"right": body["dome"], "left": body["dome"] + body["dome_drop"], "heart_x": 0.0}
    for finding in case.findings:
        grade = SEVERITIES.index(finding.severity)
        if finding.name == "cardiomegaly":
            body["ctr"] = CTR_LARGE[grade] + 0.02 * case.jitter[finding.name][0]
        elif finding.name == "atelectasis":
            for side in _sides(finding):
                body[side] -= DOME_RISE[grade]
                body["heart_x"] += 0.4 * SIGN[side] * DOME_RISE[grade]
    return body


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Array, Array]:
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = np.meshgrid(steps, steps)
    return x, y


def _place(body: Mapping[str, float], size: int) -> Frame:
    """Undo shift, scale and tilt of the film."""
    x, y = _grid(size)[0] - body["dx"], _grid(size)[1] - body["dy"]
    cos, sin = math.cos(body["tilt"]) / body["scale"], math.sin(body["tilt"]) / body["scale"]
    x, y = cos * x + sin * y, cos * y - sin * x + 0.5
    q = np.clip((body["widest"] - y) / (body["widest"] - body["apex"]), 0.0, 1.0) ** 2
    rounded = np.sqrt(1.0 - q * (body["taper"] + (1.0 - body["taper"]) * q))
    return Frame(x, y, 0.10 + (body["half"] - 0.10) * rounded, body)


def _edge(depth: Array, width: float = 0.014) -> Array:
    """Smooth step from 0 (outside) to 1 (inside), `width` long, centred on depth 0."""
    t = np.clip(depth * (1.0 / width) + 0.5, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def _ellipse(x: Array, y: Array, a: float, b: float, turn: float = 0.0) -> Array:
    """Depth below the rim of an ellipse round the origin, semi-axes a, b; negative outside."""
    cos, sin = math.cos(turn), math.sin(turn)
    radius = np.sqrt(((cos * x + sin * y) / a) ** 2 + ((cos * y - sin * x) / b) ** 2)
    return np.asarray((1.0 - radius) * min(a, b))


def _above_dome(f: Frame, side: str) -> Array:
    """Height above one diaphragm, which falls off to the costophrenic angle."""
    return np.asarray(f.body[side] + 1.9 * (SIGN[side] * f.x - 0.15) ** 2 - f.y)


def _lung(f: Frame, side: str) -> Array:
    """Outline of one lung, 0..1."""
    u, apex = SIGN[side] * f.x, f.body["apex"]
    inner = 0.03 + 0.07 * np.clip((apex + 0.1 - f.y) * 10.0, 0.0, 1.0) ** 2
    down = np.minimum(_above_dome(f, side), f.y - apex)
    return _edge(np.minimum(np.minimum(f.flank - u, u - inner), down))


def _heart(f: Frame) -> Array:
    """Heart shadow 0..1, `ctr` of the thorax wide: a tilted ventricle and the right atrium."""
    width = 2.0 * f.body["half"] * f.body["ctr"]
    x, y = f.x - f.body["heart_x"], f.y - (f.body["dome"] + f.body["dome_drop"] - 0.31 * width)
    ventricle = _ellipse(x - 0.18 * width, y, 0.54 * width, 0.37 * width, f.body["axis"])
    atrium = _ellipse(x + 0.1 * width, y, 0.24 * width, 0.32 * width)
    return _edge(np.maximum(ventricle, atrium), 0.03)


def _core(f: Frame) -> Array:
    """Mediastinum 0..1, wider downwards, with the aortic knob on the patient's left."""
    column = f.body["core"] - np.abs(f.x) + 0.05 * np.clip(f.y - 0.35, -0.25, 0.3)
    return _edge(np.maximum(column, _ellipse(f.x - 0.048, f.y - 0.28, 0.042, 0.042)), 0.025)


def _vessels(f: Frame) -> Array:
    """Hila and the vessels that fan out of them, 0..1."""
    u, v = np.abs(f.x) - 0.06, f.y - 0.45
    r = np.sqrt(u * u + v * v) + 0.02
    fan = np.clip(np.cos(9.0 * v / r + 5.0 * u / r + 9.0 * r), 0.0, 1.0) ** 2
    return np.asarray(np.clip(1.0 - r * 3.6, 0.0, 1.0) * fan + _edge(0.05 - r, 0.06))


def _below(f: Frame) -> Array:
    """The abdomen under both diaphragms, 0..1."""
    under = np.where(f.x < 0.0, -_above_dome(f, "right"), -_above_dome(f, "left"))
    return _edge(under) * _edge(f.body["half"] + 0.03 - np.abs(f.x), 0.06)


def _soft_parts(f: Frame) -> Array:
    """Density of neck, shoulders and trunk, thinner to the skin, with trachea, gas and breasts."""
    u = np.abs(f.x)
    depth = 0.09 + (f.body["half"] + f.body["wall"] - 0.09) * _edge(f.y - 0.08, 0.20) - u
    density = _edge(depth, 0.03) * (0.70 + 0.3 * np.sqrt(np.clip(depth * 4.0, 0.0, 1.0)))
    gas = _ellipse(f.x - 0.17, f.y - f.body["left"] - 0.055, 0.075, 0.035)
    density -= max(0.0, f.body["gas"]) * _edge(gas, 0.03)
    breast = _edge(_ellipse(u - 0.2, f.y - 0.62, 0.15, 0.14), 0.05)
    trachea = _edge(0.018 - u) * _edge(0.36 - f.y, 0.1)
    density += max(0.0, f.body["breast"]) * breast - 0.2 * trachea
    return np.asarray(density * (1.0 + f.body["slope"] * f.x))


def _bones(f: Frame) -> Array:
    """Density of spine, clavicles and ribs: one periodic wave behind and a fainter one in front."""
    u, y, turn = np.abs(f.x), f.y, 2.0 * math.pi / f.body["rib_step"]
    behind = np.clip(np.cos(turn * (y - 1.3 * (u - 0.06) ** 2)), 0.0, 1.0)
    front = np.clip(np.cos(turn * (y + 0.45 * u)), 0.0, 1.0) * _edge(u - 0.19, 0.1)
    cage = _edge(f.flank + 0.025 - u, 0.02) * _edge(y - f.body["apex"], 0.05)
    ribs = f.body["ribs"] * cage * _edge(0.84 - y, 0.1) * (behind + 0.5 * front)
    spine = _edge(0.040 - u, 0.03) * (0.18 + 0.04 * np.cos(y * 125.0))
    collar = f.body["apex"] + 0.065 - 0.2 * u + 0.012 * np.sin(u * 20.0)
    clavicle = _edge(0.013 - np.abs(y - collar)) * _edge(u - 0.035) * _edge(0.34 - u, 0.04)
    return np.asarray(ribs + spine + 0.17 * clavicle)


def _opacity(finding: Finding, side: str, f: Frame, jitter: list[float]) -> Array:
    """Opacity of edema, consolidation, atelectasis or effusion on one side, before clipping."""
    grade, u, y, top = SEVERITIES.index(finding.severity), SIGN[side] * f.x, f.y, f.body[side]
    j0, j1, j2, j3 = jitter
    if finding.name == "pleural_effusion":
        gap = np.clip(f.flank - u, 0.0, 1.0)
        angle = top + 1.9 * (f.body["half"] - 0.15) ** 2
        surface = angle - FLUID_HEIGHT[grade] * (1.0 + 0.15 * j0) + 0.075 * gap / (gap + 0.04)
        return 1.2 * _edge(y - surface, 0.03)
    mottle = np.cos(61 * f.x + 23 * y) + np.cos(67 * y - 31 * f.x + 3 * j2) + np.cos(90 * u)
    if finding.name == "edema":
        wing = _edge(_ellipse(u - 0.16, y - 0.46, 0.14 + 0.01 * j0, 0.20 + 0.02 * j1), 0.14)
        return np.asarray(EDEMA_OPACITY[grade] * wing * (1.0 + 0.09 * mottle))
    if finding.name == "consolidation":
        height = {"upper": 0.30, "mid": 0.54, "lower": 0.80}[finding.zone] + 0.04 * j1
        cx, cy = 0.20 + 0.03 * j0, f.body["apex"] + height * (top - f.body["apex"])
        size = CONSOLIDATION_RADIUS[grade]
        patch = _ellipse(u - cx, y - cy, size, size * (0.95 + 0.2 * j2), j3) + 0.008 * mottle
        return np.asarray(CONSOLIDATION_OPACITY[grade] * _edge(patch, 0.045))
    cx, cy = 0.21 + 0.03 * j0, top - (0.16 if finding.zone == "mid" else 0.05) + 0.01 * j1
    plate = _ellipse(u - cx, y - cy, 0.10 + 0.02 * grade, 0.013 + 0.003 * grade, 0.3 * j2)
    base = 0.8 * _edge(0.045 + 0.01 * grade - _above_dome(f, side) + 0.006 * mottle, 0.04)
    return np.asarray(ATELECTASIS_OPACITY[grade] * np.maximum(_edge(plate, 0.012), base))


def _distractor(finding: Finding, f: Frame, jitter: list[float], air: Array) -> Array:
    """Density that a distractor adds (negative for the gas of a pneumothorax)."""
    u, y, grade = SIGN[finding.side] * f.x, f.y, SEVERITIES.index(finding.severity)
    if finding.name == "pneumothorax":
        gap = PNEUMOTHORAX_GAP[grade] * f.body["half"] * (1.5 - y)
        strip = _edge(np.maximum(u - f.flank + gap, f.body["apex"] + gap - y)) * air
        return np.asarray(0.45 * strip * (1.0 - strip) - 0.12 * strip)
    if finding.name == "nodule":
        cy = {"upper": 0.28, "mid": 0.44, "lower": 0.60}[finding.zone] + 0.03 * jitter[1]
        size = 0.014 + 0.005 * grade
        return 0.35 * _edge(_ellipse(u - 0.2 - 0.04 * jitter[0], y - cy, size, size))
    box = _edge(0.034 - np.maximum(np.abs(u - 0.25), np.abs(y - 0.24) * 1.2))
    lead = _edge(0.006 - 0.7 * np.abs(u - 0.03 - np.clip(0.44 - y, 0.0, 0.2)), 0.008)
    return 0.9 * np.maximum(box, lead * _edge(y - 0.24) * _edge(0.62 - y))


def _expose(density: Array, body: Mapping[str, float], rng: np.random.Generator) -> Film:
    """Film uint16 [H, W] in 0..4095: gain, gamma, noise (more behind dense parts), slight blur."""
    light = 0.03 + body["gain"] * np.clip(density, 0.0, None) ** body["gamma"]
    light += body["noise"] * (0.7 + 1.5 * light) * rng.standard_normal(light.shape, np.float32)
    padded = np.pad(light, 1, mode="edge")
    light = 0.25 * (padded[:-2] + padded[2:]) + 0.5 * padded[1:-1]
    light = 0.25 * (light[:, :-2] + light[:, 2:]) + 0.5 * light[:, 1:-1]
    return np.asarray((np.clip(light, 0.0, 1.0) * 4095.0).astype(np.uint16))
