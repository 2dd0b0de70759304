"""Procedural frontal chest radiographs with known findings, for tests and the offline demo.

These are drawings with no clinical meaning: no patient, no physics, no diagnostic value.

Lengths and densities are those of `anatomy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tier_train.phantoms.anatomy import (
    SIGN,
    Array,
    Frame,
    above_dome,
    below,
    bones,
    core,
    edge,
    ellipse,
    heart,
    lung,
    place,
    soft_parts,
    vessels,
)

Mask = NDArray[np.bool_]
Film = NDArray[np.uint16]

FINDINGS = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
DISTRACTORS = ("pneumothorax", "pacemaker", "nodule")
SEVERITIES = ("mild", "moderate", "severe")
P_NORMAL = 0.35  # neither finding nor distractor
P_FINDING = 0.16 / (1.0 - P_NORMAL)  # of abnormal cases, so 0.16 of all
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
ATELECTASIS_OPACITY, DOME_RISE = (0.65, 0.80, 0.92), (0.030, 0.050, 0.075)
FLUID_HEIGHT = (0.140, 0.215, 0.320)  # lateral fluid edge above the costophrenic angle
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
    frame = place(_changed_body(case), size)
    heart_shadow, mediastinum = heart(frame), core(frame)
    # A little air shows through: lung lies behind the heart, and so may an opacity.
    air = {
        side: lung(frame, side) * (1.0 - 0.88 * np.maximum(heart_shadow, mediastinum))
        for side in SIGN
    }
    opacity = frame.body["haze"] + frame.body["vessels"] * vessels(frame)
    density = bones(frame) + 0.2 * mediastinum
    masks: dict[str, Mask] = {}
    for finding in case.findings:
        jitter = case.jitter[finding.name]
        if finding.name == "cardiomegaly":
            masks[finding.name] = heart_shadow > 0.5
        elif finding.name in DISTRACTORS:
            density += _distractor(finding, frame, jitter, air[finding.side])
        else:
            parts = [_opacity(finding, s, frame, jitter) * air[s] for s in _sides(finding)]
            masks[finding.name] = np.any([part > 0.4 * part.max() for part in parts], axis=0)
            opacity += sum(parts)
    # Capped above 1 because fluid is denser than the chest wall behind aerated lung.
    density -= AIR * (air["right"] + air["left"]) * (1.0 - np.minimum(opacity, 1.25))
    # The heart has no lower border of its own where it lies on the diaphragm.
    density += soft_parts(frame) + np.maximum(
        0.34 * heart_shadow, frame.body["abdomen"] * below(frame)
    )
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


def _opacity(finding: Finding, side: str, f: Frame, jitter: list[float]) -> Array:
    """Opacity of edema, consolidation, atelectasis or effusion on one side, before clipping."""
    grade, u, y, top = SEVERITIES.index(finding.severity), SIGN[side] * f.x, f.y, f.body[side]
    j0, j1, j2, j3 = jitter
    if finding.name == "pleural_effusion":
        gap = np.clip(f.flank - u, 0.0, 1.0)
        angle = top + 1.9 * (f.body["half"] - 0.15) ** 2
        surface = angle - FLUID_HEIGHT[grade] * (1.0 + 0.15 * j0) + 0.075 * gap / (gap + 0.04)
        return 1.2 * edge(y - surface, 0.03)
    mottle = np.cos(61 * f.x + 23 * y) + np.cos(67 * y - 31 * f.x + 3 * j2) + np.cos(90 * u)
    if finding.name == "edema":
        wing = edge(ellipse(u - 0.16, y - 0.46, 0.14 + 0.01 * j0, 0.20 + 0.02 * j1), 0.14)
        return np.asarray(EDEMA_OPACITY[grade] * wing * (1.0 + 0.09 * mottle))
    if finding.name == "consolidation":
        height = {"upper": 0.30, "mid": 0.54, "lower": 0.80}[finding.zone] + 0.04 * j1
        cx, cy = 0.20 + 0.03 * j0, f.body["apex"] + height * (top - f.body["apex"])
        size = CONSOLIDATION_RADIUS[grade]
        patch = ellipse(u - cx, y - cy, size, size * (0.95 + 0.2 * j2), j3) + 0.008 * mottle
        return np.asarray(CONSOLIDATION_OPACITY[grade] * edge(patch, 0.045))
    cx, cy = 0.21 + 0.03 * j0, top - (0.16 if finding.zone == "mid" else 0.05) + 0.01 * j1
    plate = ellipse(u - cx, y - cy, 0.10 + 0.02 * grade, 0.013 + 0.003 * grade, 0.3 * j2)
    base = 0.8 * edge(0.045 + 0.01 * grade - above_dome(f, side) + 0.006 * mottle, 0.04)
    return np.asarray(ATELECTASIS_OPACITY[grade] * np.maximum(edge(plate, 0.012), base))


def _distractor(finding: Finding, f: Frame, jitter: list[float], air: Array) -> Array:
    """Density that a distractor adds (negative for the gas of a pneumothorax)."""
    u, y, grade = SIGN[finding.side] * f.x, f.y, SEVERITIES.index(finding.severity)
    if finding.name == "pneumothorax":
        gap = PNEUMOTHORAX_GAP[grade] * f.body["half"] * (1.5 - y)
        strip = edge(np.maximum(u - f.flank + gap, f.body["apex"] + gap - y)) * air
        return np.asarray(0.45 * strip * (1.0 - strip) - 0.12 * strip)
    if finding.name == "nodule":
        cy = {"upper": 0.28, "mid": 0.44, "lower": 0.60}[finding.zone] + 0.03 * jitter[1]
        size = 0.014 + 0.005 * grade
        return 0.35 * edge(ellipse(u - 0.2 - 0.04 * jitter[0], y - cy, size, size))
    box = edge(0.034 - np.maximum(np.abs(u - 0.25), np.abs(y - 0.24) * 1.2))
    lead = edge(0.006 - 0.7 * np.abs(u - 0.03 - np.clip(0.44 - y, 0.0, 0.2)), 0.008)
    return 0.9 * np.maximum(box, lead * edge(y - 0.24) * edge(0.62 - y))


def _expose(density: Array, body: Mapping[str, float], rng: np.random.Generator) -> Film:
    """Film uint16 [H, W] in 0..4095: gain, gamma, noise (more behind dense parts), slight blur."""
    light = 0.03 + body["gain"] * np.clip(density, 0.0, None) ** body["gamma"]
    light += body["noise"] * (0.7 + 1.5 * light) * rng.standard_normal(light.shape, np.float32)
    padded = np.pad(light, 1, mode="edge")
    light = 0.25 * (padded[:-2] + padded[2:]) + 0.5 * padded[1:-1]
    light = 0.25 * (light[:, :-2] + light[:, 2:]) + 0.5 * light[:, 1:-1]
    return np.asarray((np.clip(light, 0.0, 1.0) * 4095.0).astype(np.uint16))
