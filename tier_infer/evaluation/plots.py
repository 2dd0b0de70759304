"""Pictures of an evaluation: ROC curves, reliability, MCC and F1 beside radiologists (Figure 7).

All that they show stands in report.json, but for the points of the ROC curves.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tier_infer.errors import UsageError
from tier_infer.evaluation.measure import BOUND
from tier_infer.evaluation.run import Evaluated
from tier_infer.evaluation.units import Units
from tier_infer.files import write_atomic
from tier_infer.metrics import roc_curve

# Okabe and Ito, "Color Universal Design" (2008): apart for every common colour deficiency.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
READERS = "s^vP*X"  # shapes, since many greys can't be told apart
COLUMNS = 4  # panels side by side
PANELS = 12  # on one page; more would be unreadable
SIDE = 2.9  # inches of a panel
LEGEND = 0.45  # inches
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "legend.frameon": False,
}  # fmt: skip
Report = dict[str, Any]


def check_installed() -> None:
    """UsageError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("--plots needs its extra: pip install 'tier-cxr[plots]'") from None


def draw(found: Evaluated, folder: Path) -> list[Path]:
    """Into `folder`, as far as the report has them; returns the files. Equal reports give equal
    bytes on one machine."""
    check_installed()
    import matplotlib

    pictures: list[tuple[str, Any]] = []
    with matplotlib.rc_context(STYLE):
        pictures += _pages("roc", _roc_labels(found), lambda part: _roc(found, part))
        if "calibration" in found.report:
            rows = [row for row in found.report["calibration"]["labels"] if row["fitted"]]
            pictures += _pages("reliability", rows, lambda part: _reliability(found.report, part))
        if "decisions" in found.report:
            shown = found.report.get("radiologists", found.report["decisions"])["labels"]
            rows = [row for row in shown if not row["excluded"]]
            pictures += _pages("decisions", rows, lambda part: _decisions(found.report, part))
        written = []
        for name, figure in pictures:
            data = io.BytesIO()
            figure.savefig(data, format="png", dpi=150, metadata={"Software": None})
            write_atomic(folder / name, data.getvalue())
            written.append(folder / name)
    return written


def _pages(name: str, rows: list[Any], page: Any) -> list[tuple[str, Any]]:
    """PANELS to a picture: roc.png, or roc-1.png and so on."""
    parts = [rows[i : i + PANELS] for i in range(0, len(rows), PANELS)]
    numbers = [""] if len(parts) < 2 else [f"-{i + 1}" for i in range(len(parts))]
    return [(f"{name}{k}.png", page(part)) for k, part in zip(numbers, parts, strict=False)]


def _canvas(
    panels: int,
    report: Report,
    title: str,
    size: tuple[float, float] | None = None,
    counted: str = "",
) -> tuple[Any, list[Any]]:
    """A figure and its axes, with what is shown above and the notice below. `size`: inches, with
    room for a legend above the notice. `counted`: units where they are not the protocol's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(panels, COLUMNS)
    rows = math.ceil(panels / columns)
    width, height = size or (max(columns * SIDE, 5.6), rows * (SIDE + 0.25) + 0.9)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    layout: Any = figure.get_layout_engine()
    below = 0.3 if size is None else 0.3 + LEGEND
    layout.set(rect=(0.01, below / height, 0.98, 1 - (below + 0.55) / height))
    dataset, protocol = report["dataset"], report["protocol"]
    figure.text(0.01, 1 - 0.12 / height, title, va="top", fontsize=10, weight="bold")
    what = f"{_plain(dataset['name'])}, {protocol['name']}, {counted or protocol['units']} units"
    figure.text(0.01, 1 - 0.32 / height, what, va="top", color=GREY)
    figure.text(0.01, 0.08 / height, report["notice"], va="bottom", color=GREY, fontsize=7)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    return figure, axes


def _plain(text: object) -> str:
    """Names from files: no mathematics, no lone surrogates."""
    return str(text).encode("ascii", "replace").decode().replace("$", r"\$")


def _roc_labels(found: Evaluated) -> list[int]:
    return [i for i, row in enumerate(found.areas.rows) if row.auc is not None]


def _roc(found: Evaluated, labels: Sequence[int]) -> Any:
    compared = found.compared
    title = "ROC curves"
    if compared is not None:
        title += f" of this model and the other, {_plain(compared.section['file'])}"
    figure, axes = _canvas(len(labels), found.report, title)
    for ax, i in zip(axes, labels, strict=True):
        row = found.areas.rows[i]
        ax.plot([0, 1], [0, 1], color=GREY, lw=0.6, ls=":")
        if compared is not None and row.label in compared.labels:
            k = compared.labels.index(row.label)
            there = compared.section["labels"][k]
            for units, key, style, name in (
                (compared.there, "auc_there", {"color": ORANGE, "ls": "--"}, "other"),
                (compared.here, "auc", {"color": BLUE}, "this"),
            ):
                if there[key] is not None:
                    _curve(ax, units, k, f"{name} {there[key]:.3f}", style)
            n, positives = there["n"], there["positives"]
        else:
            spread = f" ({row.interval[0]:.3f} to {row.interval[1]:.3f})" if row.interval else ""
            spread += " bound" * (row.interval_of == BOUND)
            _curve(ax, found.units, i, f"AUC {row.auc:.3f}{spread}", {"color": BLUE})
            n, positives = row.n, row.positives
        ax.set_title(f"{_plain(row.label)}\n{positives} of {n} positive")
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal",
               xlabel="1 − specificity", ylabel="sensitivity")  # fmt: skip
        ax.legend(loc="lower right")
    return figure


def _curve(ax: Any, units: Units, column: int, name: str, style: dict[str, str]) -> None:
    known = ~np.isnan(units.truth[:, column])
    x, y, _ = roc_curve(units.truth[known, column], units.z[known, column])
    ax.plot(x, y, lw=1.3, label=name, **style)


def _reliability(report: Report, rows: Sequence[Report]) -> Any:
    method = _plain(report["calibration"]["method"])
    figure, axes = _canvas(len(rows), report, f"Reliability of probabilities, {method}")
    for ax, row in zip(axes, rows, strict=True):
        ax.plot([0, 1], [0, 1], color=GREY, lw=0.6, ls=":")
        bins = row["fitted"]["reliability"]
        x, y = [b["mean_p"] for b in bins], [b["rate"] for b in bins]
        told = [b for b in bins if b["rate_low"] is not None]
        size = [6 + 60 * math.sqrt(b["n"] / row["n"]) for b in bins]
        ax.vlines([b["mean_p"] for b in told], [b["rate_low"] for b in told],
                  [b["rate_high"] for b in told], color=BLUE, lw=0.8)  # fmt: skip
        ax.scatter(x, y, s=size, color=BLUE, zorder=3, clip_on=False)
        ax.set_title(
            f"{_plain(row['label'])}, n {row['n']}\n"
            f"Brier {row['fitted']['brier']:.3f}, ECE {row['fitted']['ece']:.3f}"
        )
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal",
               xlabel="probability", ylabel="found positive")  # fmt: skip
    return figure


def _decisions(report: Report, rows: Sequence[Report]) -> Any:
    """Labels downwards and their mean below; one panel for MCC, one for F1."""
    sides = _sides(report)
    section = report.get("radiologists", report["decisions"]["mean"])
    counted = section["of"]  # labels in the mean that is shown
    split = _plain(report["validation"]["split"] or "all")
    height = 1.9 + (0.16 + 0.13 * len(sides)) * (len(rows) + 1)
    title = f"Decisions at thresholds of split {split}"
    read = f"{section['units']} of {report['protocol']['units']}" if "units" in section else ""
    figure, axes = _canvas(2, report, title, (8.4, height), read)
    for ax, which, title in zip(axes, ("mcc", "f1"), ("MCC", "F1"), strict=True):
        for place, (name, style, labels, mean) in enumerate(sides):
            figures = [labels[row["label"]][which] for row in rows] + [mean[which]]
            offset = 0.7 * ((place + 0.5) / len(sides) - 0.5)
            drawn = [(i + offset, f) for i, f in enumerate(figures) if f["value"] is not None]
            # From end to end: a resampled interval need not hold the figure itself.
            bars = [(y, *f["interval"]) for y, f in drawn if f["interval"]]
            ax.hlines(*([bar[k] for bar in bars] for k in range(3)), color=style["color"], lw=0.9)
            ax.plot([f["value"] for _, f in drawn], [y for y, _ in drawn], ls="none", ms=4.5,
                    label=name, **style)  # fmt: skip
        names = [f"{_plain(row['label'])}\n{row['positives']} of {row['n']}" for row in rows]
        ax.set_yticks(range(len(rows) + 1), [*names, f"mean of {counted}"])
        ax.axhline(len(rows) - 0.5, color=GREY, lw=0.5)
        ax.set(ylim=(len(rows) + 0.5, -0.5), xlabel=f"{title}, 95 % interval")
        ax.grid(axis="x", lw=0.3)
    axes[1].set_yticklabels([])
    marks, names = axes[0].get_legend_handles_labels()
    anchor = (0.5, 0.22 / height)
    figure.legend(marks, names, loc="lower center", bbox_to_anchor=anchor, ncols=8)
    return figure


def _sides(report: Report) -> list[tuple[str, Report, Report, Report]]:
    """Name, style, figures by label, mean. On units that all radiologists read, where there are
    radiologists."""
    model = {"marker": "o", "color": BLUE}
    if "radiologists" not in report:
        section = report["decisions"]
        return [("model", model, {r["label"]: r for r in section["labels"]}, section["mean"])]
    section = report["radiologists"]
    named = [("model", model, section["model"])]
    named.append(
        ("mean radiologist", {"marker": "D", "color": ORANGE}, section["mean_radiologist"])
    )
    for i, reader in enumerate(section["readers"]):
        style = {"marker": READERS[i % len(READERS)], "color": GREY, "mfc": "white"}
        named.append((_plain(reader["name"]), style, reader))
    return [(name, style, each["labels"], each["mean"]) for name, style, each in named]
