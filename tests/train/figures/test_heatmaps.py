"""python -m pytest tests/train/figures/test_heatmaps.py -- figures 3 and 4."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tests.train.figures.twins import truth_of
from tier_infer.cells import cell_boxes
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.geometry import to_crop
from tier_infer.label_sets import load_label_set
from tier_train.checkpoint import Checkpoint
from tier_train.cli.figures import figures
from tier_train.evaluation.members import chosen
from tier_train.figures import heatmaps, released
from tier_train.figures.pair import NAMES, Pair, make_pair, read_crops
from tier_train.towers.text_encoder import embed_prompts

EDEMA = chosen(load_label_set("chexpert"), ["edema"])


@pytest.fixture(scope="module")
def cohort(manifest: Path) -> Cohort:
    return open_cohort(f"manifest:{manifest}")


def _first(manifest: Path, label: str, value: str) -> int:
    """Line of the first row of this truth."""
    rows = truth_of(manifest)
    return next(i for i, r in enumerate(rows) if r[label] == value and r["view"] == "PA") + 2


def _query(checkpoint: Checkpoint, prompts: tuple[str, ...]) -> Any:
    """eq. 3 in float64."""
    each = embed_prompts(checkpoint.model.words, checkpoint.tokenizer, list(prompts)).double()
    mean = each.mean(0)
    return mean / mean.norm()


def _patches(checkpoint: Checkpoint, folder: Path, names: list[str]) -> Any:
    films = [np.asarray(Image.open(folder / name)) for name in names]
    geometry = make_pair(checkpoint, checkpoint).presets.geometry
    crops = torch.from_numpy(np.stack([to_crop(film, geometry) for film in films]))
    with torch.no_grad():
        return checkpoint.model.encode_image(crops)[1].double()  # [N, g, g, D]


def _command(twins: tuple[Path, Path], manifest: Path, output: Path, *more: str) -> Result:
    args = ["heatmaps", "--regularized", str(twins[0]), "--unregularized", str(twins[1])]
    args += ["--dataset", f"manifest:{manifest}", "-o", str(output), "--threads", "1", *more]
    return CliRunner().invoke(figures, args)


def test_the_cells_are_z_of_both_models_and_the_first_cases_are_shown(
    twins: tuple[Path, Path], pair: Pair, manifest: Path, tmp_path: Path
) -> None:
    done = _command(twins, manifest, tmp_path, "--label", "edema")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [f"{tmp_path}/heatmaps_edema.{kind}" for kind in ("png", "json")]
    facts = json.loads((tmp_path / "heatmaps_edema.json").read_text())
    lines = [_first(manifest, "edema", value) for value in "10"]
    assert [case["line"] for case in facts["cases"]] == lines
    assert {case["chosen_by"] for case in facts["cases"]} == {"first in the table's order"}
    label = EDEMA.labels[0]
    rows = truth_of(manifest)
    names = [rows[line - 2]["image_path"] for line in lines]
    for name, one in zip(NAMES, pair, strict=True):
        table = _query(one, label.positive) - _query(one, label.negative)
        expected = _patches(one, manifest.parent, names) @ table
        for case, cells in zip(facts["cases"], expected, strict=True):
            assert np.array(case["cells"][name]) == pytest.approx(cells.numpy(), abs=1e-5)
    most = max(np.abs(c["cells"][n]).max() for c in facts["cases"] for n in NAMES)
    assert facts["scale"][1] >= most
    assert facts["scale"][0] == -facts["scale"][1]


def test_a_hot_cell_is_drawn_where_the_network_looked(
    pair: Pair, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = np.zeros((7, 7), np.float32)
    hot[1, 5] = 0.9

    def planted(one: Checkpoint, table: Any, crops: Any) -> Any:
        cells = hot if one is pair.regularized else np.zeros_like(hot)
        return np.zeros((1, 1), np.float32), cells[None, None]

    monkeypatch.setattr(heatmaps, "cells_of", planted)
    rows = {kind: heatmaps.choose(cohort, "edema", kind, None) for kind in ("positive", "negative")}
    shown = heatmaps.show(pair, cohort, EDEMA, rows)
    asked = heatmaps.Asked("margin", None, {"positive": False, "negative": True})
    facts = heatmaps.facts_of(pair, cohort, EDEMA, shown, asked)
    figure = heatmaps.draw(facts, shown, pair)
    canvas = figure.canvas
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    height, width = shown[0].film.shape
    boxes = cell_boxes(height, width, pair.presets.geometry, 7)
    left, top, right, bottom = boxes[1, 5]

    def colour(panel: int, x: float, y: float) -> Any:
        """Of the pixel of the figure that shows (x, y) of the film."""
        across, up = figure.axes[panel].transData.transform((x, y))
        return pixels[len(pixels) - 1 - int(up), int(across)]

    def red(panel: int, x: float, y: float) -> bool:
        level = colour(panel, x, y)
        return bool(level[0] > level[2] + 40)

    inside = [(x, y) for x in (left + 0.5, right - 0.5) for y in (top + 0.5, bottom - 0.5)]
    beside = [(left - 0.5, top + 5), (right + 0.5, top + 5), (left + 5, top - 0.5)]
    assert all(red(1, *at) for at in inside)
    assert not any(red(1, *at) for at in [*beside, (left + 5, bottom + 0.5)])
    assert not any(red(panel, *at) for panel in (0, 2) for at in inside)
    heat = [image for image in figure.axes[1].get_images() if image.get_array().shape == (7, 7)]
    assert heat[0].get_interpolation() == "nearest"
    scales = {image.get_clim() for axis in figure.axes[:6] for image in axis.get_images()[1:]}
    assert scales == {(-1.0, 1.0)}, "one scale for all maps"


def test_the_caption_names_prompts_cases_and_how_many_there_are(
    pair: Pair, cohort: Cohort, manifest: Path
) -> None:
    second = [r["image_path"] for r in truth_of(manifest) if r["edema"] == "0"][1]
    rows = {
        "positive": heatmaps.choose(cohort, "edema", "positive", None),
        "negative": heatmaps.choose(cohort, "edema", "negative", str(manifest.parent / second)),
    }
    assert cohort.cases[rows["negative"]].image_path == second
    shown = heatmaps.show(pair, cohort, EDEMA, rows)
    asked = heatmaps.Asked("margin", 0.5, {"positive": False, "negative": True})
    facts = heatmaps.facts_of(pair, cohort, EDEMA, shown, asked)
    figure = heatmaps.draw(facts, shown, pair)
    words = " ".join(figure.texts[0].get_text().split())
    for part in (
        *(f"“{prompt}”" for label in EDEMA.labels for prompt in (*label.positive, *label.negative)),
        f"positive line {_first(manifest, 'edema', '1')}, the first in the table's order",
        "named by the user",
        "Cases of the 16 images",
        "one scale of ±0.5",
        "λ_patch=0.2",
        "Research use only",
    ):
        assert part in words


def test_the_released_style_stretches_over_the_set(
    twins: tuple[Path, Path], pair: Pair, manifest: Path, tmp_path: Path
) -> None:
    done = _command(twins, manifest, tmp_path, "--label", "edema", "--style", "released")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "heatmaps_edema_released.json").read_text())
    frontal = [row["image_path"] for row in truth_of(manifest)]
    assert facts["scale"] == [-0.3, 0.5]
    assert facts["stretched_over_images"] == len(frontal)
    label = EDEMA.labels[0]
    for name, one in zip(NAMES, pair, strict=True):
        patches = _patches(one, manifest.parent, frontal)
        units = []
        for prompts in (label.positive, label.negative):
            cosines = (patches @ _query(one, prompts)).numpy()
            low, high = np.percentile(cosines, 1), np.percentile(cosines, 99)
            units.append(np.clip((cosines - low) / (high - low), 0, 1))
        for case in facts["cases"]:
            at = case["line"] - 2
            expected = units[0][at] - units[1][at]
            assert np.array(case["cells"][name]) == pytest.approx(expected, abs=2e-4)


def test_a_flat_map_stretches_to_nothing() -> None:
    cosines = np.full((3, 2, 2, 2), 0.25, np.float32)
    cosines[:, 0] = np.arange(12).reshape(3, 2, 2) / 12
    got = released.stretch(cosines)
    assert (got[0].min(), got[2].max()) == (0, 1)
    assert np.isfinite(got).all()


def test_training_on_the_same_table_is_said_in_the_caption(
    pair: Pair, cohort: Cohort, manifest: Path
) -> None:
    rows = {kind: heatmaps.choose(cohort, "edema", kind, None) for kind in ("positive", "negative")}
    shown = heatmaps.show(pair, cohort, EDEMA, rows)
    asked = heatmaps.Asked("margin", None, {"positive": False, "negative": False})
    assert heatmaps.facts_of(pair, cohort, EDEMA, shown, asked)["cautions"] == []
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    trained = replace(pair.regularized, training={"data": "mine", "manifest_sha256": digest})
    facts = heatmaps.facts_of(replace(pair, regularized=trained), cohort, EDEMA, shown, asked)
    assert len(facts["cautions"]) == 1
    assert "trained on mine" in facts["cautions"][0]
    words = " ".join(heatmaps.draw(facts, shown, pair).texts[0].get_text().split())
    assert f"Caution: {facts['cautions'][0]}." in words


@pytest.mark.parametrize("name", ["notes.txt", "heatmaps_edema.png", "heatmaps_edema.json"])
def test_files_of_others_are_not_overwritten(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    done = _command(twins, manifest, tmp_path, "--label", "edema")
    assert done.exit_code == 2
    assert "name another folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--label", "edeema"), "'edeema' is not in label set chexpert"),
        (("--label", "edema", "--positive", "films/99.png"), "is no image of"),
        (("--label", "edema", "--negative", "{positive}"), "the table says 1 of edema, not 0"),
        (("--label", "edema", "--style", "released", "--scale", "1"), "style margin"),
        (("--label", "edema", "--device", "tpu"), "allowed: cpu, cuda"),
        (("--label", "lungs", "--queries", "nowhere"), "label set 'nowhere'"),
    ],
)
def test_what_can_not_be_drawn_is_refused(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    rows = truth_of(manifest)
    positive = rows[_first(manifest, "edema", "1") - 2]["image_path"]
    done = _command(twins, manifest, tmp_path / "a", *(w.format(positive=positive) for w in more))
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_lateral_view_is_shown_only_by_name(cohort: Cohort) -> None:
    first, second = np.flatnonzero(cohort.truth_of("edema") == 1)[:2]
    cases = list(cohort.cases)
    cases[first] = replace(cases[first], view="lateral")
    turned = replace(cohort, cases=tuple(cases))
    assert heatmaps.choose(cohort, "edema", "positive", None) == first
    assert heatmaps.choose(turned, "edema", "positive", None) == second
    assert heatmaps.choose(turned, "edema", "positive", cases[first].image_path) == first


def test_a_label_without_a_column_or_a_case_is_refused(cohort: Cohort) -> None:
    with pytest.raises(UsageError, match="has no column for pneumonia"):
        heatmaps.choose(cohort, "pneumonia", "positive", None)
    none = replace(cohort, truth=np.zeros_like(cohort.truth))
    with pytest.raises(UsageError, match="has no frontal image with edema = 1"):
        heatmaps.choose(none, "edema", "positive", None)


def test_an_unreadable_first_case_stops(pair: Pair, cohort: Cohort, tmp_path: Path) -> None:
    lost = replace(cohort, root=tmp_path)
    with pytest.raises(UsageError, match=r"line \d+ of .* is refused: .*; name another image"):
        heatmaps.show(pair, lost, EDEMA, {"positive": 0})


def test_pixels_that_may_hold_a_name_are_not_shown_unasked(
    pair: Pair, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:

    def burned(*args: Any, **kwargs: Any) -> Any:
        for block in read_crops(*args, **kwargs):
            for _, result, _ in block:
                result.flags.append("burned_in_annotation")
            yield block

    monkeypatch.setattr(heatmaps, "read_crops", burned)
    with pytest.raises(UsageError, match="may hold a name"):
        heatmaps.show(pair, cohort, EDEMA, {"positive": 0})
    assert len(heatmaps.show(pair, cohort, EDEMA, {"positive": 0}, burned_in=True)) == 1


def test_without_matplotlib_the_install_line(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    done = _command(twins, manifest, tmp_path / "a", "--label", "edema")
    assert done.exit_code == 2
    assert "pip install 'tier-cxr[plots]'" in done.stderr
