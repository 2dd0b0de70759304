"""python -m pytest tests/infer/test_equivalence.py -- one picture in a hundred encodings.

Under the preset `voi` all of them are one picture; under the others too, where no window is
involved. What can't be rendered must be refused with the reason stated: never another picture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.infer.encodings import Case, same
from tests.infer.encodings.reference import PRESETS, difference, expected, small
from tier_infer.bundle import load_bundle
from tier_infer.engine import Engine
from tier_infer.errors import RefusedImage
from tier_infer.geometry import to_crop
from tier_infer.images import load_bytes
from tier_infer.radiograph import Radiograph
from tier_infer.scoring import select_labels

CASES = {case.name: case for case in same()}
ROUNDING = 1  # grey level: 0.5 of the table, 0.5 of the display
EQUALISED = 3.0  # how much steeper than 1 a histogram equalisation of this picture gets on average
RINGING = 16  # grey levels that one pixel of a lossy encoding may be off, before equalisation
RESAMPLED = 0.02 * 255  # mean grey levels at 224 x 224; half of the columns are not there
SCORE_LOSSLESS, SCORE_LOSSY = 0.01, 0.03


@cache
def read(name: str, preset: str) -> Radiograph | str:
    """What tier-infer makes of a case: the picture, or the reason of its refusal."""
    case = CASES[name]
    try:
        return load_bytes(case.data, case.suffix, preset)
    except RefusedImage as refusal:
        return refusal.reason


def wrong(case: Case, preset: str, grey: NDArray[np.uint8]) -> str:
    """Empty when the picture is right; else how far it is off."""
    want = expected(case, preset)
    if case.resampled:
        stretch = (grey.shape[1] / grey.shape[0]) / (want.shape[1] / want.shape[0])
        mean = float(np.abs(small(grey) - small(want)).mean())
        ok = abs(stretch - 1) < 0.01 and mean <= RESAMPLED
        return "" if ok else f"stretch {stretch:.3f}, mean {mean:.2f}"
    mean, most = difference(grey, want)
    if case.bound:
        steep = EQUALISED if preset.endswith("jpg") else 1
        ok = mean <= case.bound * steep and most <= RINGING * steep
        return "" if ok else f"mean {mean:.2f}, up to {most} levels off"
    # Only voi rounds; the others are recipes with one result, bit for bit.
    allowed = ROUNDING if preset == "voi" or case.suffix != ".dcm" else 0
    return "" if most <= allowed else f"mean {mean:.2f}, up to {most} levels off"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CASES)
def test_same_picture(name: str, preset: str) -> None:
    case, image = CASES[name], read(name, preset)
    if preset in case.refused:
        assert image == case.refused[preset]
        return
    assert isinstance(image, Radiograph), f"refused: {image}"
    assert not wrong(case, preset, image.grey)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].suffix == ".dcm"])
def test_flags_say_what_was_done(name: str, preset: str) -> None:
    """Exactly the flags of the encoding: none is missing, none is made up."""
    case, image = CASES[name], read(name, preset)
    if preset in case.refused:
        pytest.skip(f"refused: {case.refused[preset]}")
    want = set(case.flags)
    if preset == "voi":
        want |= case.voi_flags
    else:
        want |= case.other_flags | ({"window_ignored"} if case.window else set())
    assert isinstance(image, Radiograph)
    assert set(image.flags) == want


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_agree_where_no_window_is_involved(preset: str) -> None:
    """Not only each with its own recipe: all with the plain file, but for what rounding moves."""
    plain = expected(CASES["mono2"], preset)
    for name, case in CASES.items():
        image = read(name, preset)
        if case.window or case.resampled or isinstance(image, str) or case.suffix != ".dcm":
            continue
        if image.grey.shape == plain.shape:
            mean, _ = difference(image.grey, plain)
            assert mean <= RESAMPLED, name


def test_counts() -> None:
    """The goal of the first comparison: 0 of at least 40 wrong, at least 33 of its 35 scored."""
    pytest.importorskip("imagecodecs", reason="writes the JPEG lossless and extended cases")
    voi = {name: read(name, "voi") for name in CASES}
    scored = {name for name, image in voi.items() if isinstance(image, Radiograph)}
    listed = {name for name, case in CASES.items() if case.listed}
    assert (len(CASES), len(listed)) == (109, 35)
    assert len(scored & listed) >= 33
    assert len(scored) >= 100


@pytest.fixture(scope="module")
def score(site: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """grey [H, W] → Z [L] of the small bundle that the suite trains."""
    bundle = load_bundle(site / "bundle")
    engine, selection = Engine(bundle, "cpu"), select_labels(bundle, None)

    def run(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        crop = to_crop(grey, bundle.manifest.resolved_geometry())
        return selection.image_scores(engine.encode(crop[None]))[0]

    return run


@pytest.mark.parametrize("preset", PRESETS)
def test_scores_agree(
    preset: str, score: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
) -> None:
    plain = read("mono2", preset)
    assert isinstance(plain, Radiograph)
    reference = score(plain.grey)
    for name, case in CASES.items():
        image = read(name, preset)
        if isinstance(image, str) or (case.window and preset != "voi"):
            continue
        if case.suffix != ".dcm" and preset.endswith("jpg"):
            continue  # 8-bit files are never equalised
        loose = case.bound or case.resampled or image.grey.shape != plain.grey.shape
        allowed = SCORE_LOSSY if loose else SCORE_LOSSLESS
        assert np.abs(score(image.grey) - reference).max() < allowed, name
