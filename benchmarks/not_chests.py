"""Drawings of all but a chest radiograph, for `content_checks.py`. Seeded, no clinical meaning."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

N = 256  # pixels a side
Grey = NDArray[np.uint8]
Rng = np.random.Generator


def draw(kind: str, seed: int, index: int) -> Grey:
    """uint8 [256, 256]; the same for the same arguments."""
    rng = np.random.default_rng([seed, index, sorted(KINDS).index(kind)])
    return KINDS[kind](rng)


def _stretch(values: NDArray[np.floating]) -> Grey:
    return ((values - values.min()) / np.ptp(values) * 255).astype(np.uint8)


def _finish(image: Image.Image, rng: Rng, blur: float) -> Grey:
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), np.float64)
    return _stretch((soft + rng.normal(0, 6, soft.shape)).clip(0))


def _canvas(grey: int = 8) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (N, N), grey)
    return image, ImageDraw.Draw(image)


def _greys(rng: Rng) -> tuple[int, int]:
    """Soft tissue and bone."""
    return int(rng.integers(80, 140)), int(rng.integers(170, 240))


def hand(rng: Rng) -> Grey:
    image, pen = _canvas()
    flesh, bone = _greys(rng)
    x, y, size = 128 + rng.uniform(-20, 20), 160 + rng.uniform(-20, 20), rng.uniform(0.7, 1.15)
    pen.ellipse((x - 50 * size, y - 55 * size, x + 50 * size, y + 55 * size), fill=flesh)
    pen.rectangle((x - 32 * size, y, x + 32 * size, N), fill=flesh)
    for degrees in (-60, -22, -7, 7, 22):
        angle = np.deg2rad(degrees + rng.uniform(-6, 6))
        tip = (35 + (70 if degrees == -60 else 95)) * size
        end = (x + np.sin(angle) * tip, y - np.cos(angle) * tip)
        pen.line((x, y, *end), fill=flesh, width=int(26 * size))
        for start, stop in ((0.15, 0.42), (0.5, 0.68), (0.73, 0.85), (0.88, 1)):
            joint = [(x + (end[0] - x) * t, y + (end[1] - y) * t) for t in (start, stop)]
            pen.line((*joint[0], *joint[1]), fill=bone, width=int(11 * size))
    for left, right in ((-24, -4), (4, 22)):
        pen.rectangle((x + left * size, y + 45 * size, x + right * size, N), fill=bone)
    return _finish(image, rng, 2)


def knee(rng: Rng) -> Grey:
    image, pen = _canvas()
    flesh, bone = _greys(rng)
    count = int(rng.integers(1, 3))
    for place in range(count):
        x = rng.uniform(-10, 10) + (128 if count == 1 else 70 + 116 * place)
        w, y = (75 if count == 1 else 50) * rng.uniform(0.8, 1.2), 128 + rng.uniform(-25, 25)
        pen.polygon([(x - w, 0), (x + w, 0), (x + w * 0.75, N), (x - w * 0.75, N)], fill=flesh)
        pen.rectangle((x - w * 0.3, 0, x + w * 0.3, y - 30), fill=bone)
        pen.ellipse((x - w * 0.65, y - 55, x + w * 0.65, y - 4), fill=bone)
        pen.ellipse((x - w * 0.65, y + 3, x + w * 0.65, y + 38), fill=bone)
        pen.rectangle((x - w * 0.28, y + 20, x + w * 0.2, N), fill=bone)
        pen.rectangle((x + w * 0.35, y + 25, x + w * 0.48, N), fill=bone - 20)
    return _finish(image, rng, 2)


def abdomen(rng: Rng) -> Grey:
    image, pen = _canvas()
    flesh = int(rng.integers(130, 180))
    left, right = 15 + rng.uniform(-12, 12), 241 + rng.uniform(-12, 12)
    pen.rounded_rectangle((left, -40, right, 300), radius=60, fill=flesh)
    for _ in range(int(rng.integers(4, 14))):  # gas
        x, y, r = rng.uniform(43, 213), rng.uniform(35, 205), rng.uniform(6, 22)
        gas = int(flesh * rng.uniform(0.5, 0.85))
        pen.ellipse((x - r * 1.4, y - r, x + r * 1.4, y + r), fill=gas)
    for row in range(-10, 206, 36):
        pen.rounded_rectangle((108, row, 148, row + 28), radius=5, fill=flesh + 55)
    for x in (68, 188):
        pen.ellipse((x - 45, 175, x + 45, 265), fill=flesh + 45)
    return _finish(image, rng, 4)


def skull(rng: Rng) -> Grey:
    image, pen = _canvas()
    grey, x, y = int(rng.integers(120, 190)), 128 + rng.uniform(-10, 10), 115 + rng.uniform(-10, 10)
    pen.ellipse((x - 85, y - 100, x + 85, y + 95), fill=grey + 60)
    pen.ellipse((x - 77, y - 92, x + 77, y + 87), fill=grey)
    for eye in (x - 33, x + 33):
        pen.ellipse((eye - 24, y + 10, eye + 24, y + 52), fill=grey - 60)
    pen.polygon([(x, y + 50), (x - 14, y + 85), (x + 14, y + 85)], fill=grey - 55)
    pen.rectangle((x - 45, y + 90, x + 45, N), fill=grey - 10)
    return _finish(image, rng, 3)


def pelvis(rng: Rng) -> Grey:
    image, pen = _canvas()
    flesh = int(rng.integers(90, 150))
    bone, wing = flesh + 70, 20 + rng.uniform(-8, 8)
    pen.rounded_rectangle((8, -30, 248, 300), radius=50, fill=flesh)
    for side in (-1, 1):
        x = 128 + side * 70
        pen.ellipse((x - 50, wing, x + 50, 140), fill=bone)
        pen.ellipse((x + side * 10 - 28, 130, x + side * 10 + 28, 186), fill=bone + 10)
        pen.rectangle((x + side * 15 - 16, 160, x + side * 15 + 16, N), fill=bone)
        pen.ellipse((x - side * 38 - 26, 165, x - side * 38 + 26, 225), outline=bone, width=10)
    pen.polygon([(95, 20), (161, 20), (128, 150)], fill=bone + 15)
    return _finish(image, rng, 3)


def text(rng: Rng) -> Grey:
    paper, ink = (255, 0) if rng.random() < 0.6 else (10, 240)
    image, pen = _canvas(paper)
    y = int(rng.integers(4, 30))
    while y < N - 10:
        line = "".join(chr(int(c)) for c in rng.integers(97, 123, int(rng.integers(0, 42))))
        pen.text((int(rng.integers(4, 30)), y), line, fill=ink)
        y += int(rng.integers(11, 22))
    return np.asarray(image)


def checkerboard(rng: Rng) -> Grey:
    fields = int(rng.integers(2, 24))
    y, x = np.mgrid[:N, :N] + rng.integers(0, N, 2)[:, None, None]
    board = (y * fields // N + x * fields // N) % 2 * 200
    return _stretch(board + rng.normal(0, 5, (N, N)))


def stripes(rng: Rng) -> Grey:
    y, x = np.mgrid[:N, :N] / N
    angle, waves = rng.uniform(0, np.pi), rng.uniform(0.5, 12)
    wave = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    return _stretch(wave + rng.normal(0, 0.1, (N, N)))


def gradient(rng: Rng) -> Grey:
    y, x = np.mgrid[:N, :N] / N
    angle = rng.uniform(0, 2 * np.pi)
    noise = rng.normal(0, rng.uniform(0.003, 0.1), (N, N))
    return _stretch(x * np.cos(angle) + y * np.sin(angle) + noise)


def vignette(rng: Rng) -> Grey:
    y, x = np.mgrid[:N, :N] / N - 0.5 - rng.uniform(-0.25, 0.25, 2)[:, None, None]
    distance = np.hypot(x * rng.uniform(0.6, 1.6), y) * rng.choice([-1, 1])
    return _stretch(distance + rng.normal(0, 0.02, (N, N)))


def clouds(rng: Rng) -> Grey:
    def layer(points: int) -> NDArray[np.float32]:
        image = Image.fromarray(rng.random((points, points)).astype(np.float32))
        return np.asarray(image.resize((N, N), Image.Resampling.BICUBIC))

    fine = 0.5 * rng.random() * layer(16)
    return _stretch(layer(int(rng.integers(3, 9))) + fine + rng.normal(0, 0.03, (N, N)))


def shapes(rng: Rng) -> Grey:
    image, pen = _canvas(int(rng.integers(0, 256)))
    for number in range(int(rng.integers(2, 14))):
        x, y = rng.uniform(-30, N - 20, 2)
        w, h = rng.uniform(10, 150, 2)
        add = pen.ellipse if number % 2 else pen.rectangle
        add((x, y, x + w, y + h), fill=int(rng.integers(0, 256)))
    return _finish(image, rng, 1)


def step_wedge(rng: Rng) -> Grey:
    """A monitor test pattern: grey fields within a frame of lines."""
    image, pen = _canvas(128)
    fields, margin = int(rng.integers(3, 6)), int(rng.integers(10, 50))
    size, levels = (N - 2 * margin) / fields, np.linspace(0, 255, fields**2)
    if rng.random() < 0.5:
        rng.shuffle(levels)
    for number, level in enumerate(levels):
        x, y = margin + number % fields * size, margin + number // fields * size
        pen.rectangle((x, y, x + size, y + size), fill=int(level))
    for place in range(0, N, int(rng.integers(16, 40))):
        pen.line((place, 0, place, margin), fill=255)
        pen.line((0, place, margin, place), fill=255)
    return _finish(image, rng, 0.5)


def inserts(rng: Rng) -> Grey:
    """A round quality phantom with inserts."""
    image, pen = _canvas()
    pen.ellipse((20, 20, 236, 236), fill=120)
    for _ in range(int(rng.integers(5, 25))):
        x, y, r = *rng.uniform(40, 216, 2), rng.uniform(3, 14)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=int(rng.choice([60, 220])))
    return _finish(image, rng, 1)


BODY_PARTS = (hand, knee, abdomen, skull, pelvis)
PATTERNS = (
    text, checkerboard, stripes, gradient, vignette, clouds, shapes, step_wedge, inserts,
)  # fmt: skip
KINDS = {drawing.__name__: drawing for drawing in BODY_PARTS + PATTERNS}
