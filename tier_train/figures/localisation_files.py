"""What `figures localisation` leaves: localisation.csv, .json, .md and .png.

The CSV has a line for every finding of every image, so that all else can be computed again; its
`group` is a number that lines of one patient share.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from tier_infer.bundle import NOTICE
from tier_infer.errors import UsageError
from tier_infer.evaluation.measure import FEW
from tier_infer.files import write_atomic
from tier_infer.tables import csv_text
from tier_train.figures.drawing import (
    COLOURS,
    MARKERS,
    SCHEMA,
    new_figure,
    save_figure,
    save_json,
)
from tier_train.figures.localisation import MEASURES, Found, measured
from tier_train.figures.pair import NAMES, cautions_in_words, models_in_words

FACTS, TABLE = "localisation.json", "localisation.csv"
BESIDE = (TABLE, "localisation.md", "localisation.png")
HEAD = ("label", "line", "group", "area", "chance", *(f"{n}_{m}" for n in NAMES for m in MEASURES))
By = dict[str, list[Found]]  # label → what was found
SHORT = {"hit": "pointing game: hit rate", "cnr": "CNR", "iou": "IoU (Otsu)"}


def write(folder: Path, report: dict[str, Any], found: By) -> list[Path]:
    paths = [folder / name for name in (FACTS, *BESIDE)]
    save_json(paths[0], report)
    write_atomic(paths[1], csv_text([HEAD, *_lines(found)]).encode())
    write_atomic(paths[2], (as_markdown(report) + "\n").encode())
    save_figure(_plot(report), paths[3])
    return paths


def _lines(found: By) -> list[list[object]]:
    rows: list[list[object]] = []
    for label, all_of_it in found.items():
        for one in all_of_it:
            values = (one.area, one.chance, *(each[m] for each in one.values for m in MEASURES))
            cells = ["" if np.isnan(value) else repr(float(value)) for value in values]
            rows.append([label, one.line, one.group, *cells])
    return rows


def again(folder: Path) -> tuple[dict[str, Any], By]:
    """The report of what lies in `folder`, computed from its CSV, and the findings. UsageError for
    files that are none of ours."""
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        text = (folder / TABLE).read_text("utf-8")
        if (facts["schema"], facts["figure"]) != (SCHEMA, "localisation"):
            raise ValueError(SCHEMA)
        head, *body = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(head) != HEAD:
            raise ValueError(TABLE)
        left_out = {row["label"]: row["left_out"] for row in facts["labels"]}
        found: By = {label: [] for label in left_out}
        for row in body:
            found[row[0]].append(_read(row))
        report = measured(facts, found, left_out, facts["draws"], facts["seed"])
        as_markdown(report)
    except OSError as error:
        raise UsageError(f"{error.filename} can't be opened: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, csv.Error):
        raise UsageError(
            f"{folder} does not hold what `tier-train figures localisation -o DIR` writes"
        ) from None
    return report, found


def _read(row: list[str]) -> Found:
    """ValueError for cells that are no numbers, or too many or few."""
    area, chance, *cells = (float(cell) if cell else np.nan for cell in row[3:])
    size = len(MEASURES)
    first, second = (dict(zip(MEASURES, cells[at : at + size], strict=True)) for at in (0, size))
    if len(row) != len(HEAD) or not np.isfinite([area, chance]).all():
        raise ValueError(TABLE)
    return Found(int(row[1]), row[2], area, chance, (first, second))


def as_markdown(report: dict[str, Any]) -> str:
    """A table of the three measures and what was left out."""
    lines = [
        f"Localisation on {_data(report)}: mean with 95 % interval over patients "
        f"({report['draws']} draws); CNR with its standard deviation.",
        "",
        "| label | n | chance | hit rate, regularized | unregularized | difference | "
        "CNR, regularized | unregularized | IoU, regularized | unregularized | "
        "brighter inside, regularized | unregularized |",
        "|---|" + "---:|" * 11,
    ]
    for row in report["labels"]:
        if not row["n"]:
            lines.append(f"| {row['label']} | 0 |" + " – |" * 10)
            continue
        hit = row["hit"]
        cells = [row["label"], str(row["n"]), f"{row['chance']:.3f}"]
        cells += [_with_ends(hit[name]) for name in NAMES] + [_with_ends(hit["difference"], "+")]
        cells += [_with_sd(row["cnr"], name) for name in NAMES]
        cells += [_plain(row["iou"], name) for name in NAMES]
        cells += [_plain(row["brighter_inside"], name) for name in NAMES]
        lines.append(f"| {' | '.join(cells)} |")
    inside = "“Brighter inside”: the part of the images whose mask is brighter than the rest."
    models = f"{cautions_in_words(report)}{models_in_words(report)}"
    lines += ["", f"{_legend(report)} {inside}", "", models, "", NOTICE]
    return "\n".join(lines)


def _legend(report: dict[str, Any]) -> str:
    left = [
        f"{row['label']}: {count} {reason}"
        for row in report["labels"]
        for reason, count in row["left_out"].items()
    ]
    return (
        "n: positive images with a mask within the crop. Chance: the part of the cells that hold "
        "mask, which a blind guess hits. CNR has no sign. IoU: of the cells above Otsu's "
        f"threshold. No interval below {FEW} images or patients, or where all draws are equal. "
        f"Left out: {'; '.join(left) or 'none'}."
    )


def _data(report: dict[str, Any]) -> str:
    data = report["dataset"]
    return str(data["name"]) + (f", split {data['split']}" if data["split"] else "")


def _with_ends(entry: dict[str, Any], sign: str = "") -> str:
    ends = entry["interval"]
    text = f"{entry['mean']:{sign}.3f}"
    return text if ends is None else f"{text} ({ends[0]:{sign}.3f} to {ends[1]:{sign}.3f})"


def _with_sd(entry: dict[str, Any] | None, name: str) -> str:
    return "–" if entry is None else f"{entry[name]['mean']:.2f} ± {entry[name]['sd']:.2f}"


def _plain(entry: dict[str, Any] | None, name: str) -> str:
    return "–" if entry is None else f"{entry[name]['mean']:.3f}"


def _plot(report: dict[str, Any]) -> Any:
    rows = [row for row in report["labels"] if row["n"]]
    figure = new_figure(10.0, 1.5 + 0.5 * len(rows), _caption(report))
    places = np.arange(len(rows))
    panels = figure.subplots(1, len(SHORT), sharey=True)
    for axis, (key, title) in zip(panels, SHORT.items(), strict=True):
        for shift, name in zip((-0.14, 0.14), NAMES, strict=True):
            _points(axis, rows, key, name, places + shift)
        if key == "hit":
            blind = [row["chance"] for row in rows]
            axis.plot(blind, places, "k|", ms=16, mew=1.5, ls="none", label="chance")
            axis.set_xlim(0, 1.02)
        else:
            axis.set_xlim(left=0)
        axis.set_title(title, fontsize=11)
        axis.tick_params(labelsize=10)
        axis.grid(axis="x", color="#e0e0e0", lw=0.6)
    names = [f"{row['label'].replace('_', ' ')} ({row['n']})" for row in rows]
    panels[0].set_yticks(places, names, fontsize=10)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  fontsize=10, frameon=False)  # fmt: skip
    return figure


def _points(axis: Any, rows: list[dict[str, Any]], key: str, name: str, places: Any) -> None:
    shown = [(row[key][name], y) for row, y in zip(rows, places, strict=True) if row[key]]
    # Bars from end to end: a mean need not lie in the middle of its interval, nor within.
    told = [(*entry["interval"], y) for entry, y in shown if entry["interval"]]
    low, high, at = np.array(told).reshape(-1, 3).T
    colour = COLOURS[name]
    axis.errorbar(
        (low + high) / 2, at, xerr=(high - low) / 2, fmt="none", ecolor=colour, elinewidth=1,
        capsize=2,
    )  # fmt: skip
    axis.plot(
        [entry["mean"] for entry, _ in shown], [y for _, y in shown], MARKERS[name], ms=5,
        color=colour, label=name,
    )  # fmt: skip


def _caption(report: dict[str, Any]) -> str:
    return (
        f"Localisation on {_data(report)}: means with 95 % intervals over patients "
        f"({report['draws']} draws); n in brackets. "
        f"{_legend(report)} {cautions_in_words(report)}{models_in_words(report)}"
    )
