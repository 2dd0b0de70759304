"""python -m pytest tests/train/test_phantom.py -- the drawn films and their impressions."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from tier_train.phantoms import phantom
from tier_train.phantoms.impressions import write_impression
from tier_train.phantoms.phantom import (
    DISTRACTORS,
    FINDINGS,
    SEVERITIES,
    Case,
    Finding,
    draw_phantom,
    sample_case,
)

SEED = 11
PHRASES = {
    "atelectasis": r"atelectasis|volume loss",
    "cardiomegaly": r"cardiomegaly|enlarge",
    "consolidation": r"consolidation|pneumonia",
    "edema": r"edema",
    "pleural_effusion": r"effusion|pleural space|blunting",
}
NEGATED = re.compile(r"^(no|there is no|no evidence of) ")
PROMPTS = """Atelectasis is present.
Basilar opacity and volume loss is likely due to atelectasis.
Cardiomegaly is present.
The heart shadow is enlarged.
The cardiac silhouette is enlarged.
Consolidation is present.
Dense white area of right lung indicative of consolidation.
Edema is present.
Increased fluid in the alveolar wall indicates pulmonary edema.
Blunting of the costophrenic angles represents pleural effusions.
The pleural space is filled with fluid.
Layering pleural effusions are present.
No abnormalities are present.
The chest is normal.
No clinically significant radiographic abnormalities.
No radiographically visible abnormalities in the chest.""".lower()


def _example(name: str, side: str, severity: str, zone: str, index: int) -> Case:
    case = sample_case(np.random.default_rng([SEED, index]))
    return dataclasses.replace(case, findings=(Finding(name, side, severity, zone),))


def _side_and_zone(name: str) -> tuple[str, str]:
    side = {"cardiomegaly": "", "edema": "bilateral"}.get(name, "right")
    return side, {"consolidation": "mid", "atelectasis": "lower"}.get(name, "")


def _rendered(case: Case, size: int = 128) -> tuple[Any, dict[str, Any]]:
    return phantom.render_case(case, size, np.random.default_rng(0))


def _centroid(mask: np.ndarray) -> np.ndarray:
    return np.asarray((np.argwhere(mask).mean(axis=0) + 0.5) / mask.shape[0])


def _reports(count: int) -> list[tuple[set[str], str]]:
    pairs = []
    for index in range(count):
        findings = sample_case(np.random.default_rng([SEED, index])).findings
        text = write_impression(findings, np.random.default_rng([SEED, index, 1]))
        pairs.append(({finding.name for finding in findings}, text))
    return pairs


def test_a_film_depends_on_seed_and_index_only() -> None:
    forwards = [draw_phantom(SEED, index) for index in range(4)]
    np.random.default_rng(0).random()
    backwards = [draw_phantom(SEED, index) for index in reversed(range(4))][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        assert np.array_equal(first.pixels, second.pixels)
        assert first.findings == second.findings
        assert all(np.array_equal(first.masks[name], second.masks[name]) for name in first.masks)
    assert not np.array_equal(forwards[0].pixels, forwards[1].pixels)
    assert not np.array_equal(forwards[0].pixels, draw_phantom(SEED + 1, 0).pixels)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_pixels_are_12_bit_and_use_the_range(size: int) -> None:
    for index in range(6):
        pixels = draw_phantom(SEED, index, size).pixels
        assert pixels.dtype == np.uint16
        assert pixels.shape == (size, size)
        assert pixels.max() <= 4095
        assert np.ptp(pixels) > 1500
        assert (pixels == 4095).mean() < 0.02, "overexposed"


def test_everything_is_drawn_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    expose = phantom._expose

    def spy(density: Any, body: Any, rng: Any) -> Any:
        seen.append(density.dtype)
        return expose(density, body, rng)

    monkeypatch.setattr(phantom, "_expose", spy)
    every = tuple(Finding(n, "left", "mild", "lower") for n in FINDINGS + phantom.DISTRACTORS)
    _rendered(dataclasses.replace(_example("edema", "left", "mild", "", 0), findings=every))
    assert seen == [np.dtype(np.float32)]


def test_prevalence_labels_and_masks() -> None:
    films = [draw_phantom(SEED, index) for index in range(400)]
    labels = np.array([[film.labels[name] for name in FINDINGS] for film in films])
    # Three standard deviations of 400 draws round 0.20 and 0.35.
    assert np.all(np.abs(labels.mean(axis=0) - 0.20) < 0.06), labels.mean(axis=0)
    assert abs(np.mean([not film.findings for film in films]) - 0.35) < 0.07
    for film in films:
        assert film.masks.keys() == {f.name for f in film.findings} & set(FINDINGS)
        for name, mask in film.masks.items():
            assert mask.dtype == np.bool_
            assert mask.shape == film.pixels.shape
            assert 8 <= mask.sum() < 0.4 * mask.size, (name, film.findings)


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_brightens_its_mask(name: str) -> None:
    side, zone = _side_and_zone(name)
    for index in range(5):
        gains = []
        for severity in SEVERITIES:
            case = _example(name, side, severity, zone, index)
            pixels, masks = _rendered(case)
            plain, none = _rendered(dataclasses.replace(case, findings=()))
            assert none == {}
            change = pixels.astype(float) - plain
            gains.append(float(change[masks[name]].sum()))
            assert change[masks[name]].mean() > change[~masks[name]].mean()
        assert gains[2] > gains[1] > gains[0]
        assert gains[2] > 0.0


@pytest.mark.parametrize("name", ["atelectasis", "consolidation", "pleural_effusion"])
def test_the_patients_right_is_on_the_images_left(name: str) -> None:
    zone = _side_and_zone(name)[1]
    for index in range(8):
        for side, low, high in (("right", 0.0, 0.5), ("left", 0.5, 1.0)):
            _, masks = _rendered(_example(name, side, "moderate", zone, index))
            assert low < _centroid(masks[name])[1] < high


def test_zones_run_from_top_to_bottom() -> None:
    heights = [
        _centroid(_rendered(_example("consolidation", "left", "mild", zone, 0))[1]["consolidation"])
        for zone in ("upper", "mid", "lower")
    ]
    assert heights[0][0] + 0.05 < heights[1][0] < heights[2][0] - 0.05


@pytest.mark.parametrize("name", FINDINGS)
def test_256_shows_the_same_anatomy_as_128(name: str) -> None:
    side, zone = _side_and_zone(name)
    case = _example(name, side, "moderate", zone, 3)
    small, large = _rendered(case, 128), _rendered(case, 256)
    assert np.allclose(_centroid(small[1][name]), _centroid(large[1][name]), atol=0.01)
    halved = large[0].reshape(128, 2, 128, 2).mean(axis=(1, 3))
    assert np.corrcoef(halved.ravel(), small[0].ravel())[0, 1] > 0.98


def test_an_impression_is_reproducible_and_varied() -> None:
    texts = [text for _, text in _reports(200)]
    assert texts == [text for _, text in _reports(200)]
    assert len(set(texts)) > 120


def test_an_impression_names_what_is_present_and_nothing_else() -> None:
    negations = 0
    for present, text in _reports(1500):
        sentences = re.findall(r"[^.]+\.", text.lower())
        assert 1 <= len(sentences) <= 5, text
        assert "{" not in text
        assert "  " not in text
        stated = [s.strip() for s in sentences if not NEGATED.match(s.strip())]
        negations += len(stated) < len(sentences)
        for name in FINDINGS:
            said = any(re.search(PHRASES[name], sentence) for sentence in stated)
            assert said == (name in present), (name, text)
        for sentence in set(map(str.strip, sentences)) - set(stated):
            assert not any(re.search(PHRASES[n], sentence) for n in present & set(PHRASES)), text
            assert not ("pneumothorax" in present and "pneumothorax" in sentence), text
    assert 0.3 < negations / 1500 < 0.8


def test_an_impression_tells_side_zone_and_severity() -> None:
    for index in range(60):
        rng = np.random.default_rng([SEED, index, 1])
        text = write_impression([Finding("consolidation", "left", "severe", "upper")], rng).lower()
        assert "left" in text
        assert "upper" in text
        assert "right" not in text
        text = write_impression([Finding("pleural_effusion", "right", "severe", "")], rng).lower()
        assert re.search("large|massive", text)
        assert "right" in text
        assert "left" not in text


def test_prompts_use_the_words_of_reports_but_do_not_occur_in_them() -> None:
    reports = [text.lower() for _, text in _reports(1500)]
    words = set(re.findall(r"[a-z]+", " ".join(reports)))
    assert set(re.findall(r"[a-z]+", PROMPTS)) - words <= {"filled"}
    for prompt in PROMPTS.splitlines():
        assert not any(prompt.rstrip(".") in report for report in reports), prompt


def test_a_case_with_every_finding_still_gets_a_report() -> None:
    # Found by drawing 4,100 cases: nothing was left to deny.
    sides = {"edema": "bilateral", "cardiomegaly": ""}
    everything = tuple(
        Finding(name, sides.get(name, "right"), "mild", "lower")
        for name in (*FINDINGS, *DISTRACTORS)
    )
    for draw in range(50):
        assert write_impression(everything, np.random.default_rng(draw))
