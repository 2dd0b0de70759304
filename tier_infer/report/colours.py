"""The colours of a heatmap: Moreland's smooth cool-warm map on a fixed scale of Z.

K. Moreland, "Diverging Color Maps for Scientific Visualization", ISVC 2009, expanded version. Its
path from blue over grey to red runs through Msh, the polar form of CIELAB, so that equal steps of
Z look equally large and both signs weigh the same. Red and blue stay apart for readers with any
of the common colour deficiencies, which red and green would not.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

SCALE = 1.0  # |Z| shown at full colour; fixed, so that two pictures can be compared
COLD, WARM = (59, 76, 192), (180, 4, 38)  # sRGB ends of the map, from the paper
LEVELS = 256  # steps over the scale; even, so that Z = 0 is a level of its own
WHITE = (0.95047, 1.0, 1.08883)  # CIE XYZ of D65
TO_XYZ = np.array(  # linear sRGB → XYZ, IEC 61966-2-1
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
MIDDLE_M = 88.0  # least M of the grey in the middle


def colours(z: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [...] → uint8 sRGB [..., 3]; beyond ±SCALE the end of the map. NaN is not allowed."""
    steps = np.rint((z.clip(-SCALE, SCALE) / SCALE + 1) * (LEVELS / 2)).astype(int)
    result: NDArray[np.uint8] = cool_warm()[steps]
    return result


def hex_colour(z: float) -> str:
    """The same colour as CSS and SVG write it."""
    red, green, blue = colours(np.array(z, np.float32)).tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


@cache
def cool_warm() -> NDArray[np.uint8]:
    """uint8 [LEVELS + 1, 3]: the map from -SCALE to +SCALE."""
    cold, warm = _to_msh(COLD), _to_msh(WARM)
    middle = max(cold[0], warm[0], MIDDLE_M)
    rows = []
    for level in range(LEVELS + 1):
        t = level / LEVELS
        end = cold if t < 0.5 else warm
        weight = abs(2 * t - 1)  # 1 at the end, 0 in the middle
        hue = _spun_hue(end, middle)
        grey = (middle, 0.0, hue)
        mixed = [weight * e + (1 - weight) * g for e, g in zip(end, grey, strict=True)]
        rows.append(_to_srgb(*mixed))
    table = np.array(rows, np.uint8)
    table.flags.writeable = False
    return table


def _to_msh(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """sRGB in 0..255 → (M, s, h): length, angle from the grey axis, hue of the CIELAB vector."""
    value = np.array(rgb) / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    ratio = TO_XYZ @ linear / WHITE
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    light, a, b = 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])
    length = math.sqrt(light**2 + a**2 + b**2)
    return length, math.acos(light / length), math.atan2(b, a)


def _spun_hue(end: tuple[float, float, float], middle: float) -> float:
    """The hue at the grey end of a branch: turned so that the path is straight in CIELAB."""
    length, angle, hue = end
    if length >= middle:
        return hue
    spin = angle * math.sqrt(middle**2 - length**2) / (length * math.sin(angle))
    return hue + spin if hue > -math.pi / 3 else hue - spin


def _to_srgb(length: float, angle: float, hue: float) -> NDArray[np.int64]:
    """(M, s, h) → sRGB, int [3] in 0..255."""
    light = length * math.cos(angle)
    a = length * math.sin(angle) * math.cos(hue)
    b = length * math.sin(angle) * math.sin(hue)
    y = (light + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    ratio = np.where(f > 0.206893, f**3, (f - 16 / 116) / 7.787)
    linear = np.linalg.solve(TO_XYZ, ratio * WHITE).clip(0, 1)
    value = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    rounded: NDArray[np.int64] = np.rint(255 * value).astype(np.int64)
    return rounded
