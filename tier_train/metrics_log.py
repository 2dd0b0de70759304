"""Watching a run: the metrics file, lines for a pipe, a bar for a terminal, TensorBoard by option.

step, epoch, lr
loss, clip_loss, patch_entropy, token_entropy   means since the row before; nats, before λ
logit_scale                                     the factor, not its logarithm
val_auc, alarm
val_loss, patch_penalty, token_penalty          the penalties: λ · entropy
auc_<label>                                     of every label with both classes
pairs_per_s, seconds                            the two that differ between equal runs
"""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.files import write_atomic
from tier_train.recipe import Recipe
from tier_train.validation import Result

FIRST = (
    "step", "epoch", "lr", "loss", "clip_loss", "patch_entropy", "token_entropy", "logit_scale",
    "val_auc", "alarm", "val_loss", "patch_penalty", "token_penalty",
)  # fmt: skip
TIMINGS = ("pairs_per_s", "seconds")
Heatmaps = dict[str, tuple[NDArray[np.uint8], NDArray[np.float32]]]


class Metrics:
    """The rows so far and the clock; the file is rewritten whole at every validation."""

    def __init__(
        self,
        path: Path,
        labels: Sequence[str],
        recipe: Recipe,
        rows: list[list[Any]],
        seconds: float = 0.0,
    ) -> None:
        """Of a resumed run: its rows and the seconds it had taken."""
        self.path = path
        self.columns = (*FIRST, *(f"auc_{label}" for label in labels), *TIMINGS)
        self.rows = rows
        self._labels, self._recipe = labels, recipe
        self._start = time.monotonic() - seconds
        self._spent, self._pairs = 0.0, 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def count(self, seconds: float) -> None:
        """One step more, without validation and saving."""
        self._spent += seconds
        self._pairs += self._recipe.batch_size

    def add(
        self,
        step: int,
        epoch: int,
        rate: float,
        means: Sequence[float],
        scale: float,
        result: Result,
        alarm: str,
    ) -> dict[str, Any]:
        """means: total, CLIP loss and the two entropies since the row before."""
        recipe = self._recipe
        penalties = (recipe.lambda_patch * means[2], recipe.lambda_token * means[3])
        areas = [result.areas.get(label, math.nan) for label in self._labels]
        speed, self._spent, self._pairs = self._pairs / max(self._spent, 1e-9), 0.0, 0
        numbers = (*means, scale, result.auc, alarm, result.loss, *penalties, *areas)
        timings = (round(speed, 1), round(self.seconds, 1))
        self.rows.append([step, epoch, rate, *numbers, *timings])
        return self.last

    @property
    def last(self) -> dict[str, Any]:
        return dict(zip(self.columns, self.rows[-1], strict=True))

    def write(self) -> None:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
        write_atomic(self.path, buffer.getvalue().encode())

    def line(self) -> str:
        row, steps = self.last, self._recipe.steps
        left = row["seconds"] / row["step"] * (steps - row["step"])
        return (
            f"step {row['step']}/{steps}  loss {row['loss']:.3f}  clip {row['clip_loss']:.3f}  "
            f"H_patch {row['patch_entropy']:.3f}  H_token {row['token_entropy']:.3f}  "
            f"val AUC {row['val_auc']:.3f}  {row['seconds']:.0f} s, {left:.0f} s left"
        )


class Progress:
    """One line that is drawn over and over on a terminal, nothing in a pipe."""

    def __init__(self, recipe: Recipe, done: int, say: Callable[[str], None], shown: bool) -> None:
        from tqdm import tqdm

        self._batch, self._say = recipe.batch_size, say
        self._bar = tqdm(
            total=recipe.steps,
            initial=done,
            file=sys.stderr,
            disable=not (shown and sys.stderr.isatty()),
            leave=False,
            bar_format="step {n_fmt}/{total_fmt} {bar} {elapsed}, {remaining} left{postfix}",
        )

    def step(self, loss: Tensor) -> None:
        """loss: float32 [4], of a step that is over; only a terminal waits for its value."""
        if not self._bar.disable:
            words, rate = f"loss {float(loss[0]):.3f}", self._bar.format_dict["rate"]
            if rate:
                words += f", {rate * self._batch:.0f} pairs/s"
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update()

    def say(self, line: str) -> None:
        self._bar.clear()
        self._say(line)

    def close(self) -> None:
        self._bar.close()


class Board:
    """TensorBoard: the columns of the metrics file as scalars, heatmaps as images."""

    def __init__(self, folder: Path, done: int) -> None:
        """`done`: what an interrupted run logged after that step is taken back."""
        self._writer: Any = summary_writer()(str(folder), purge_step=done + 1)

    def add(self, row: dict[str, Any], heatmaps: Heatmaps) -> None:
        for column, value in row.items():
            if column not in ("step", "alarm") and not math.isnan(value):
                self._writer.add_scalar(column, value, row["step"])
        if row["alarm"]:
            self._writer.add_text("alarm", row["alarm"], row["step"])
        for label, (crops, cells) in heatmaps.items():
            picture = coloured(crops, cells)
            self._writer.add_image(f"heatmap/{label}", picture, row["step"], dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def summary_writer() -> Any:
    """The class; UsageError names the extra that brings it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        message = "--tensorboard needs its extra: pip install 'tier-cxr[tensorboard]'"
        raise UsageError(message) from None
    return SummaryWriter


def coloured(crops: NDArray[np.uint8], cells: NDArray[np.float32]) -> NDArray[np.uint8]:
    """crops uint8 [n, S, S], cells float [n, g, g] → uint8 [S, n·S, 3], side by side.

    Red is for the label, blue against it; full colour at the largest cell of these pictures.
    """
    side = crops.shape[1]
    place = np.arange(side) * cells.shape[1] // side
    spread = cells[:, place][:, :, place] / max(float(np.abs(cells).max()), 1e-9)  # [n, S, S]
    weight = 0.6 * np.abs(spread)[..., None]
    colour = np.where(spread[..., None] > 0, np.array([255.0, 0, 0]), np.array([0, 0, 255.0]))
    mixed = (1 - weight) * crops[..., None] + weight * colour
    return np.concatenate(list(mixed.round().astype(np.uint8)), axis=1)


def draw_curves(path: Path, metrics: Metrics, patches: int, recipe: Recipe) -> None:
    """Loss, entropies and AUC over the steps, as PNG. Raises ImportError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = {name: [row[i] for row in metrics.rows] for i, name in enumerate(metrics.columns)}
    figure = Figure(figsize=(12, 3.6), dpi=120)
    FigureCanvasAgg(figure)
    loss, entropy, auc = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.13, top=0.92)
    for name in ("loss", "clip_loss", "val_loss", "patch_penalty", "token_penalty"):
        loss.plot(table["step"], table[name], ".-", label=name)
    loss.axhline(math.log(recipe.batch_size), ls=":", c="grey", label="ln B: guessing")
    for name in ("patch_entropy", "token_entropy"):
        entropy.plot(table["step"], table[name], ".-", label=name)
    entropy.axhline(math.log(patches), ls=":", c="grey", label="ln P: equal patches")
    for name in metrics.columns:
        if name.startswith("auc_"):
            label = name.removeprefix("auc_")
            auc.plot(table["step"], table[name], ".-", lw=0.8, label=label)
    auc.plot(table["step"], table["val_auc"], "o-", c="black", lw=2, label="mean")
    auc.axhline(0.5, ls=":", c="grey")
    for axes, title in ((loss, "loss"), (entropy, "entropy, nats"), (auc, "validation AUC")):
        axes.set(title=title, xlabel="step")
        axes.legend(fontsize=6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
