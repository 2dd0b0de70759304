"""What `figures localisation` leaves: localisation.csv, .json, .md and .png.

The CSV has a line for every finding of every image, so that all else can be computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tier_infer.bundle import NOTICE
from tier_infer.files import write_atomic
from tier_infer.tables import csv_text
from tier_train.figures.drawing import COLOURS, MARKERS, new_figure, save_figure, save_json
from tier_train.figures.localisation import MEASURES, Findings
from tier_train.figures.pair import NAMES, models_in_words

SHORT = {"hit": "pointing game: hit rate", "cnr": "CNR", "iou": "IoU (Otsu)"}


def write(folder: Path, report: dict[str, Any], findings: Findings) -> list[Path]:
    paths = [folder / f"localisation.{kind}" for kind in ("csv", "json", "md", "png")]
    write_atomic(paths[0], csv_text(_lines(findings)).encode())
    save_json(paths[1], report)
    write_atomic(paths[2], (as_markdown(report) + "\n").encode())
    save_figure(_plot(report), paths[3])
    return paths


def _lines(findings: Findings) -> list[list[object]]:
    head = ["label", "line", "area", "chance"]
    rows: list[list[object]] = [[*head, *(f"{name}_{m}" for name in NAMES for m in MEASURES)]]
    for label, found in findings.found.items():
        for one in found:
            values = [each[m] for each in one.values for m in MEASURES]
            cells = ["" if np.isnan(value) else f"{value:.9g}" for value in values]
            rows.append([label, one.line, f"{one.area:.9g}", f"{one.chance:.9g}", *cells])
    return rows


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
    lines += ["", f"{_legend(report)} {inside}", "", models_in_words(report), "", NOTICE]
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
        f"threshold. Left out: {'; '.join(left) or 'none'}."
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
    x = np.array([entry["mean"] for entry, _ in shown])
    ends = [entry["interval"] or [entry["mean"]] * 2 for entry, _ in shown]
    low, high = (np.array([pair[side] for pair in ends]) for side in (0, 1))
    axis.errorbar(
        x, [y for _, y in shown], xerr=[np.maximum(x - low, 0), np.maximum(high - x, 0)],
        fmt=MARKERS[name], ms=5, color=COLOURS[name], elinewidth=1, capsize=2, label=name,
    )  # fmt: skip


def _caption(report: dict[str, Any]) -> str:
    return (
        f"Localisation on {_data(report)}: means with 95 % intervals over patients "
        f"({report['draws']} draws); n in brackets. "
        f"{_legend(report)} {models_in_words(report)}"
    )
