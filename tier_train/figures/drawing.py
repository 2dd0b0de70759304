"""What the figures share: colours, caption, file. Matplotlib is imported here and nowhere else."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tier_infer.bundle import NOTICE
from tier_infer.errors import UsageError
from tier_infer.evaluation.plots import BLUE, ORANGE
from tier_infer.evaluation.report import json_text
from tier_infer.files import write_atomic
from tier_infer.guard import printable
from tier_infer.report.colours import cool_warm
from tier_infer.report.overlay import SOFTWARE
from tier_train.evaluation.kept import check_folder

SCHEMA = "tier-figures/1"
COLOURS = {"regularized": BLUE, "unregularized": ORANGE}
MARKERS = {"regularized": "o", "unregularized": "s"}
DPI = 150
CAPTION_SIZE, CAPTION_LINE = 8, 0.155  # points; inches per line
LETTERS_PER_INCH = 16.5  # of a caption, on the safe side


def require_matplotlib() -> None:
    """Asked before hours of scoring rather than after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("figures need an extra: pip install 'tier-cxr[plots]'") from None


def check_output(folder: Path, facts: str, beside: Sequence[str]) -> None:
    """UsageError where `folder` holds files that no figure wrote; asked before scoring."""
    check_folder(folder, SCHEMA, facts, beside)


def new_figure(width: float, height: float, caption: str) -> Any:
    """A figure of these inches above its caption and the notice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = textwrap.wrap(printable(caption), int(width * LETTERS_PER_INCH))
    below = CAPTION_LINE * (len(lines) + 1) + 0.15
    share = below / (height + below)
    layout = ConstrainedLayoutEngine(rect=(0, share, 1, 1 - share), h_pad=0.08, w_pad=0.08)
    figure = Figure(figsize=(width, height + below), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    text = "\n".join([*lines, NOTICE]).replace("$", r"\$")  # no formula of matplotlib's
    figure.text(
        0.1 / width, share - 0.05 / (height + below), text, va="top", ha="left",
        fontsize=CAPTION_SIZE, linespacing=1.25,
    )  # fmt: skip
    return figure


def heat_colours() -> Any:
    """The runtime's map from blue over grey to red."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(cool_warm() / 255, name="tier")


def save_figure(figure: Any, path: Path) -> None:
    """A PNG with the mark that keeps our own pictures from being scored as films."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": SOFTWARE, "Comment": NOTICE})
    write_atomic(path, buffer.getvalue())


def save_json(path: Path, values: dict[str, Any]) -> None:
    write_atomic(path, json_text(values).encode())
