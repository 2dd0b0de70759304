"""python -m pytest tests/infer/test_must_refuse.py -- no score, and the right word for why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.bit_damage import outcomes
from tests.infer.encodings.flag import SCORING, Flagged, flags
from tests.infer.encodings.refuse_files import files
from tests.infer.encodings.refuse_pixels import pixels
from tests.infer.encodings.refuse_rules import BY_RULE, Refusal, rules
from tier_infer.cli import main
from tier_infer.errors import RefusedImage
from tier_infer.images import IMAGE_SUFFIXES, load_bytes

REFUSED = {refusal.name: refusal for refusal in (*rules(), *pixels(), *files())}
FLAGGED = {case.name: case for case in flags()}
ALL_FLAGS = frozenset((
    "window_ignored", "several_windows", "lossy", "burned_in_annotation", "body_part_unknown",
    "modality_missing", "high_bits_masked", "pixel_padding", "padding_inside", "secondary_capture",
    "pediatric", "oriented", "aspect_resampled", "no_meta", "preamble", "intensity_linear",
    "outliers", "modality_lut", "grey_from_colour", "exif_rotated", "polarity_suspect",
    "rotation_suspect", "unlike_chest",
))  # fmt: skip


def answer(refusal: Refusal, preset: str) -> str:
    """Status and code of the refusal."""
    try:
        image = load_bytes(refusal.data, refusal.suffix, preset)
    except RefusedImage as found:
        return f"{found.status} {found.reason}" if str(found) else "no words"
    return f"scored, flags {', '.join(image.flags)}"


def wanted(refusal: Refusal) -> str:
    """A stray file beside a study is passed over; one with the name of an image is broken."""
    stray = refusal.reason == "not_an_image" and refusal.suffix in IMAGE_SUFFIXES
    by_rule = refusal.reason in BY_RULE and not stray
    return f"{'not_evaluated' if by_rule else 'failed'} {refusal.reason}"


def test_enough_of_them() -> None:
    reasons = {refusal.reason for refusal in REFUSED.values()}
    assert len(REFUSED) >= 150
    assert len(reasons) >= 30


@pytest.mark.parametrize("name", [name for name in REFUSED if not REFUSED[name].scoring])
def test_refused_with_the_right_reason(name: str) -> None:
    refusal = REFUSED[name]
    # What is too large is refused before a preset is looked at, and takes seconds to inflate.
    presets = refusal.presets[: 1 if refusal.reason == "too_large" else None]
    found = {preset: answer(refusal, preset) for preset in presets}
    assert found == dict.fromkeys(presets, wanted(refusal))


@pytest.mark.parametrize("name", [name for name in REFUSED if REFUSED[name].scoring])
def test_refused_by_what_the_bundle_knows(
    name: str, site: Path, tmp_path: Path, runner: CliRunner
) -> None:
    refusal = REFUSED[name]
    path = tmp_path / f"image{refusal.suffix}"
    path.write_bytes(refusal.data)
    done = runner.invoke(main, [str(path), "--bundle", str(site / "bundle"), "--json"])
    assert done.exit_code == 3, done.output
    (image,) = json.loads(done.stdout)["studies"][0]["images"]
    assert (image["status"], image["reason"]) == ("not_evaluated", refusal.reason)
    assert image["scores"] == {}


@pytest.mark.parametrize("codec", ["JPEG-LS", "JPEG-LS near"])
def test_jpeg_ls_notices_all_damage(codec: str) -> None:
    """The one codec here that does; `benchmarks/bit_damage.py` has the shares of the others."""
    assert {outcome.answer for outcome in outcomes(codec, 30)} <= {"refused", "same"}


@pytest.mark.parametrize("name", FLAGGED)
def test_flagged(name: str) -> None:
    case: Flagged = FLAGGED[name]
    for preset in case.presets:
        assert case.flag in load_bytes(case.data, case.suffix, preset).flags, preset


def test_every_flag_is_met() -> None:
    assert {case.flag for case in FLAGGED.values()} == ALL_FLAGS
    assert not SCORING & ALL_FLAGS
