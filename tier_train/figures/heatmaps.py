"""Figures 3 and 4: one positive and one negative case, regularized beside unregularized.

Two styles. `margin` draws what the runtime draws: Z of every cell, unsmoothed, all four maps on one
scale. `released` draws the maps of `tier_train.figures.released`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort, described
from tier_infer.geometry import crop_box
from tier_infer.label_sets import LabelSet
from tier_infer.report.overlay import may_show
from tier_train.evaluation.margin import margin_table
from tier_train.evaluation.members import sets_of
from tier_train.figures.drawing import heat_colours, new_figure, save_figure, save_json
from tier_train.figures.pair import (
    NAMES,
    Pair,
    cautions_in_words,
    cautions_of,
    cells_of,
    head_of,
    models_in_words,
    read_crops,
)

STYLES = ("margin", "released")
SCALES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)  # Z lies in [−2, 2]
RELEASED_SCALE = (-0.3, 0.5)  # of the released code's heatmaps
OPACITY = {"margin": 0.45, "released": 0.75}
Cells = NDArray[np.float32]  # [g, g]


@dataclass(frozen=True)
class Shown:
    """A row of the figure."""

    kind: str  # positive or negative
    row: int  # of the cohort
    film: NDArray[np.uint8]  # [H, W], as a monitor shows it
    z: tuple[float, float]  # of the image, per model
    cells: tuple[Cells, Cells]


def choose(cohort: Cohort, label: str, kind: str, asked: str | None) -> int:
    """The row of the image asked for, else of the first in the dataset's order that is not lateral.

    UsageError where the table does not say that it is positive, or negative.
    """
    truth, wanted = cohort.truth_of(label), 1.0 if kind == "positive" else 0.0
    if asked is None:
        for row, case in enumerate(cohort.cases):
            if truth[row] == wanted and case.view != "lateral":
                return row
        raise UsageError(f"{cohort.name} has no frontal image with {label} = {wanted:g}")
    place = os.path.abspath(asked)
    for row, case in enumerate(cohort.cases):
        if asked in (case.image_path, case.place) or place == os.path.abspath(
            cohort.root / case.place
        ):
            if truth[row] != wanted:
                said = "nothing" if np.isnan(truth[row]) else f"{truth[row]:g}"
                raise UsageError(
                    f"--{kind} {asked}: the table says {said} of {label}, not {wanted:g}; name "
                    "another image"
                )
            return row
    raise UsageError(f"--{kind} {asked} is no image of {cohort.name}; name one as its table does")


def show(
    pair: Pair, cohort: Cohort, labels: LabelSet, rows: dict[str, int], burned_in: bool = False
) -> list[Shown]:
    """kind → row: the cases with Z of the only label's cells. UsageError for a refused image."""
    tables = [margin_table(checkpoint, labels) for checkpoint in pair]
    found = []
    for block in read_crops(cohort, list(rows.values()), pair.presets, keep_picture=True):
        for row, result, crop in block:
            line = f"line {cohort.cases[row].line} of {cohort.name}"
            if crop is None or result.display is None:
                raise UsageError(f"{line} is refused: {result.message}; name another image")
            if not may_show(result, burned_in):
                raise UsageError(
                    f"the pixels of {line} may hold a name; look at it, then --allow-burned-in"
                )
            both = [
                cells_of(checkpoint, table, crop[None])
                for checkpoint, table in zip(pair, tables, strict=True)
            ]
            kind = next(name for name, at in rows.items() if at == row)
            z = (float(both[0][0][0, 0]), float(both[1][0][0, 0]))
            cells = (both[0][1][0, 0], both[1][1][0, 0])
            found.append(Shown(kind, row, result.display, z, cells))
    return found


def scale_of(shown: list[Shown]) -> float:
    """The least of SCALES that holds every cell."""
    most = max(float(np.abs(cells).max()) for case in shown for cells in case.cells)
    return next(scale for scale in SCALES if most <= scale or scale == SCALES[-1])


@dataclass(frozen=True)
class Asked:
    """What the caption has to say."""

    style: str
    scale: float | None  # None: wide enough for all four maps
    named: dict[str, bool]  # kind → whether the user named the image
    set_images: int = 0  # that stretched the released style's maps


def facts_of(
    pair: Pair, cohort: Cohort, labels: LabelSet, shown: list[Shown], asked: Asked
) -> dict[str, Any]:
    label = labels.labels[0]
    scale = asked.scale or scale_of(shown)
    low, high = RELEASED_SCALE if asked.style == "released" else (-scale, scale)
    return head_of("heatmaps", pair, described(cohort)) | sets_of(labels) | {
        "cautions": cautions_of(pair, cohort, "first_frontal"),
        "label": label.id,
        "prompts": {"positive": list(label.positive), "negative": list(label.negative)},
        "style": asked.style,
        "scale": [low, high],
        "stretched_over_images": asked.set_images or None,
        "cases": [
            {
                "case": case.kind,
                "line": cohort.cases[case.row].line,
                "chosen_by": "name" if asked.named[case.kind] else "first in the table's order",
                "z": dict(zip(NAMES, case.z, strict=True)),
                "cells": {n: c.tolist() for n, c in zip(NAMES, case.cells, strict=True)},
            }
            for case in shown
        ],
    }  # fmt: skip


def files_of(label: str, style: str) -> tuple[str, str]:
    """Names of the PNG and of the JSON file."""
    stem = f"heatmaps_{label}" + ("_released" if style == "released" else "")
    return f"{stem}.png", f"{stem}.json"


def write(folder: Path, facts: dict[str, Any], shown: list[Shown], pair: Pair) -> list[Path]:
    paths = [folder / name for name in files_of(facts["label"], facts["style"])]
    save_json(paths[1], facts)
    save_figure(draw(facts, shown, pair), paths[0])
    return paths


def draw(facts: dict[str, Any], shown: list[Shown], pair: Pair) -> Any:
    from matplotlib.patches import Rectangle

    tall = sum(case.film.shape[0] / case.film.shape[1] for case in shown)
    figure = new_figure(9.0, 2.5 * tall + 0.75, _caption(facts))
    axes = figure.subplots(len(shown), 3, squeeze=False)
    low, high = facts["scale"]
    for case, told, line in zip(shown, facts["cases"], axes, strict=True):
        height, width = case.film.shape
        left, top, right, bottom = crop_box(height, width, pair.presets.geometry)
        for place, name in enumerate(("image", *NAMES)):
            axis = line[place]
            box = (0, width, height, 0)
            axis.imshow(case.film, cmap="gray", vmin=0, vmax=255, extent=box)
            if place == 0:
                size = (right - left, bottom - top)
                axis.add_patch(Rectangle((left, top), *size, fill=False, ec="white", lw=1, ls=":"))
                title = f"{case.kind} (line {told['line']})"
            else:
                heat = axis.imshow(
                    case.cells[place - 1], cmap=heat_colours(), vmin=low, vmax=high,
                    alpha=OPACITY[facts["style"]], extent=(left, right, bottom, top),
                    interpolation="nearest",
                )  # fmt: skip
                title = f"{name}, Z = {case.z[place - 1]:+.2f}".replace("-", "−")
            axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
            axis.set_title(title, fontsize=11)
    words = "Z of a cell" if facts["style"] == "margin" else "stretched cosine less No Finding's"
    bar = figure.colorbar(heat, ax=axes, shrink=0.7, aspect=30, extend=_beyond(facts, shown))
    bar.set_label(words, fontsize=11)
    bar.ax.tick_params(labelsize=10)
    return figure


def _beyond(facts: dict[str, Any], shown: list[Shown]) -> str:
    """Which ends of the bar stand for values beyond the scale."""
    low, high = facts["scale"]
    values = np.concatenate([cells.ravel() for case in shown for cells in case.cells])
    ends = (bool((values < low).any()), bool((values > high).any()))
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[ends]


def _caption(facts: dict[str, Any]) -> str:
    side = len(facts["cases"][0]["cells"][NAMES[0]])
    low, high = facts["scale"]
    asked = {
        key: " ".join(f"“{prompt}”" for prompt in facts["prompts"][key]) or "nothing"
        for key in ("positive", "negative")
    }
    cases = "; ".join(
        f"{c['case']} line {c['line']}, "
        + ("named by the user" if c["chosen_by"] == "name" else "the first in the table's order")
        for c in facts["cases"]
    )
    if facts["style"] == "margin":
        words = (
            f"Z of {side} × {side} cells, unsmoothed, all maps on one scale of ±{high:g}; Z is the "
            f"cosine to the positive prompts, {asked['positive']}, less that to the negative ones, "
            f"{asked['negative']}."
        )
    else:
        words = (
            f"as the released code draws: the cosine of {side} × {side} cells to the positive "
            f"prompts, {asked['positive']}, stretched from its 1st to its 99th percentile over "
            f"{facts['stretched_over_images']} images, less the same of No Finding; scale −"
            f"{-low:g} to {high:g}."
        )
    data = facts["dataset"]
    split = f", split {data['split']}" if data["split"] else ""
    return (
        f"Figures 3 and 4, {facts['label']}: {words} Cases of the {data['images']} images of "
        f"{data['name']}{split}: {cases}. Dotted: the crop that the network saw. "
        f"{cautions_in_words(facts)}{models_in_words(facts)}"
    )
