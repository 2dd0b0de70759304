"""The search for λ_patch and λ_token: short runs with random pairs, ranked by zero-shot AUC.

The paper tries 20 pairs from (0, 1), an epoch each (section 3.1). The released code
(random_lambda_search.py) tries (0, 0) first and then 29 pairs from (0, 0.5). Here pair 0 is (0, 0),
for reference and not counted; the others are multiples of 0.0001 between 0 and 1, drawn by
`seed`. The folder remembers: a pair is trained once, and an interrupted one goes on where it
stopped, to the same table.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tier_infer.errors import TierError, UsageError
from tier_infer.files import sha256_of, write_atomic
from tier_infer.tables import csv_text, read_csv
from tier_train.data.dataset import Dataset, truth_table, validation_labels
from tier_train.recipe import Recipe
from tier_train.record import metrics_path
from tier_train.state import state_path
from tier_train.train import train
from tier_train.validation import Diverged

FORMAT = "tier-cxr-search/1"
REFERENCE = 0  # the pair (0, 0)
STEP = 1e-4  # between two values of a lambda: as exact on a command line as here
COLUMNS = ("rank", "pair", "lambda_patch", "lambda_token", "val_auc")
MEASURED = ("val_loss", "patch_entropy", "token_entropy", "seconds")


@dataclass(frozen=True)
class Trial:
    pair: int
    lambda_patch: float
    lambda_token: float
    val_auc: float  # mean over the labels; NaN where training diverged
    areas: dict[str, float]  # label id → AUC
    measured: dict[str, float]  # MEASURED, at the last step
    alarm: str  # collapse or divergence, "" for neither


def draw_pairs(count: int, seed: int) -> list[tuple[float, float]]:
    """(λ_patch, λ_token) uniform in (0, 1). More of them begin with the same ones."""
    steps = round(1 / STEP)
    drawn = np.random.default_rng([seed, 5]).integers(1, steps, (count, 2))
    return [(int(a) / steps, int(b) / steps) for a, b in drawn]


def search(
    dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    pairs: int = 20,
    epochs: int = 1,
    validation: Dataset | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    say: Callable[[str], None],
) -> list[Trial]:
    """Trains what the folder does not know yet; returns all trials, best first.

    Writes search.csv after every pair. Only the best pair's checkpoint stays. Raises UsageError for
    data without validation labels, for start weights that are not there and for the folder of
    another search.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("tier-train search runs in one process; start it without torchrun")
    labels = _labels(validation or dataset, recipe.prompts)
    recipe = replace(recipe, epochs=epochs, validate_every=0, keep_best=0)
    identity = _identity(dataset, validation, recipe, skip_bad)
    _refuse_strangers(folder)
    with _alone(folder):
        _claim(folder, identity, pairs)
        trials = read(folder, labels)
        for pair, lambdas in enumerate([(0.0, 0.0), *draw_pairs(pairs, recipe.seed)]):
            if pair not in trials:
                say(f"pair {pair} of {pairs}: lambda_patch {lambdas[0]}, lambda_token {lambdas[1]}")
                ours = replace(recipe, lambda_patch=lambdas[0], lambda_token=lambdas[1])
                output = checkpoint_path(folder, pair)
                try:
                    checkpoint = train(
                        *(dataset, ours, output),
                        validation=validation,
                        skip_bad=skip_bad,
                        resume=output.exists() or state_path(output).exists(),
                        device=device,
                        say=lambda line: say(_ours(line)),
                    )
                except Diverged as error:
                    state_path(output).unlink(missing_ok=True)
                    nothing = dict.fromkeys(MEASURED, math.nan)
                    trials[pair] = Trial(pair, *lambdas, math.nan, {}, nothing, str(error))
                except TierError as error:
                    raise type(error)(_ours(str(error))) from error
                else:
                    areas = checkpoint.training["val_auc"]
                    mean = float(np.mean(list(areas.values()))) if areas else math.nan
                    measured = _measured(metrics_path(output))
                    trials[pair] = Trial(pair, *lambdas, mean, areas, measured, checkpoint.alarm)
                write(folder, list(trials.values()), labels)
            drop_losers(folder, list(trials.values()))
    return ranked(trials.values())


def ranked(trials: Collection[Trial]) -> list[Trial]:
    """Best first; of equals the one drawn first; at the end what collapsed, then what diverged."""
    return sorted(trials, key=lambda t: (math.isnan(t.val_auc), t.alarm != "", -t.val_auc, t.pair))


def winner(trials: Collection[Trial]) -> Trial | None:
    """The best that counts; None where every pair diverged or none is done. One with an alarm only
    where all have one."""
    counted = [t for t in ranked(trials) if t.pair != REFERENCE and not math.isnan(t.val_auc)]
    return counted[0] if counted else None


def checkpoint_path(folder: Path, pair: int) -> Path:
    return folder / f"pair-{pair:02d}.pt"


def _labels(dataset: Dataset, prompts: str) -> list[str]:
    """Those that an AUC can be computed for."""
    labels, columns = validation_labels(dataset, prompts)
    truth = truth_table(dataset.split("val"), columns)
    found = [label.id for label in labels.labels if {0.0, 1.0} <= set(truth[label.id].tolist())]
    if not found:
        raise UsageError(
            f"{dataset.name}: no label is 1 in one and 0 in another validation image, so pairs of "
            "lambdas can't be ranked; name labelled images with --validate-on"
        )
    return found


def _identity(
    dataset: Dataset, validation: Dataset | None, recipe: Recipe, skip_bad: bool
) -> dict[str, Any]:
    """All that decides the table, without the paths of this machine."""
    table = asdict(recipe) | {
        "data": dataset.sha256,
        "validation data": validation.sha256 if validation else "",
        "skip_bad": skip_bad,
    }
    for key in ("name", "lambda_patch", "lambda_token"):
        del table[key]
    for key in ("image_file", "text_folder"):
        named = [Path(table[key])] if table[key] else []
        if named and not named[0].exists():
            raise UsageError(f"{key}: there is no file or folder {named[0]}; name it with --set")
        files = [p for path in named for p in (path.iterdir() if path.is_dir() else named)]
        table[key] = {p.name: sha256_of(p) for p in sorted(files) if p.is_file()}
    return table


def _ours(line: str) -> str:
    """What training says of --resume, which a search has not: its own command goes on."""
    return line.replace("--resume", "the same command")


def _shown(folder: Path) -> list[str]:
    """A kill may leave a temporary file, which is hidden."""
    return [p.name for p in folder.iterdir() if p.name[0] != "."] if folder.is_dir() else []


def _refuse_strangers(folder: Path) -> None:
    if folder.is_file() or (_shown(folder) and not (folder / "search.json").exists()):
        raise UsageError(f"-o {folder} exists and holds no search; name another folder")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One search at a time in a folder. The system unlocks for a process that is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".search.lock").open("w") as file:
        if os.name != "nt":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"-o {folder}: another search works there; wait for it") from None
        yield


def _claim(folder: Path, identity: dict[str, Any], pairs: int) -> None:
    """Writes search.json, or finds the same search in it. Alone it claims nothing: the search that
    wrote it was refused or killed before it had anything to go on from."""
    path = folder / "search.json"
    if set(_shown(folder)) - {path.name}:
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            known_pairs, found = int(known["pairs"]), dict(known["identity"])
        except (ValueError, TypeError, KeyError):
            raise UsageError(f"{path} is not what a search writes; name another folder") from None
        other = [key for key, value in identity.items() if found.get(key) != value]
        if other or known.get("format") != FORMAT:
            raise UsageError(
                f"-o {folder} holds a search with another {', '.join(other) or 'format'}; name "
                "another folder, or repeat the command that began it"
            )
        if pairs < known_pairs:
            raise UsageError(
                f"-o {folder} holds a search of {known_pairs} pairs; --pairs can only grow"
            )
        if pairs == known_pairs:
            return
    table = {"format": FORMAT, "pairs": pairs, "identity": identity}
    write_atomic(path, (json.dumps(table, indent=1) + "\n").encode())


def _measured(path: Path) -> dict[str, float]:
    """The last row of a metrics file."""
    cells = read_csv(path, MEASURED)[2][-1][1]
    return {name: float(cells[name]) for name in MEASURED}


def write(folder: Path, trials: list[Trial], labels: list[str]) -> None:
    best = ranked(trials)
    places = {t.pair: i for i, t in enumerate((t for t in best if t.pair != REFERENCE), start=1)}
    lines = [
        (
            places.get(t.pair, "reference"),
            *(t.pair, t.lambda_patch, t.lambda_token, t.val_auc),
            *(t.areas.get(label, math.nan) for label in labels),
            *t.measured.values(),
            t.alarm,
        )
        for t in best
    ]
    header = (*COLUMNS, *(f"auc_{label}" for label in labels), *MEASURED, "alarm")
    write_atomic(folder / "search.csv", csv_text([header, *lines]).encode())


def read(folder: Path, labels: list[str]) -> dict[int, Trial]:
    path = folder / "search.csv"
    if not path.exists():
        return {}
    areas = {label: f"auc_{label}" for label in labels}
    _, _, table = read_csv(path, (*COLUMNS, *areas.values(), *MEASURED, "alarm"))
    trials = [
        Trial(
            int(cells["pair"]),
            float(cells["lambda_patch"]),
            float(cells["lambda_token"]),
            float(cells["val_auc"]),
            {label: float(cells[column]) for label, column in areas.items()},
            {name: float(cells[name]) for name in MEASURED},
            cells["alarm"],
        )
        for _, cells in table
    ]
    return {trial.pair: trial for trial in trials}


def drop_losers(folder: Path, trials: list[Trial]) -> None:
    best = winner(trials)
    for trial in trials:
        if best is None or trial.pair != best.pair:
            checkpoint_path(folder, trial.pair).unlink(missing_ok=True)


def draw(path: Path, trials: list[Trial]) -> None:
    """The pairs in the plane, coloured by AUC, the best ringed. Raises ImportError without
    matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = [t for t in trials if not t.alarm]
    where = [t.lambda_patch for t in shown], [t.lambda_token for t in shown]
    dots = axes.scatter(*where, c=[t.val_auc for t in shown], s=60, clip_on=False)
    if (best := winner(trials)) and not best.alarm:
        at = best.lambda_patch, best.lambda_token
        axes.scatter(*at, s=220, facecolors="none", edgecolors="black", clip_on=False)
    for trial in trials:
        if trial.alarm:
            axes.scatter(trial.lambda_patch, trial.lambda_token, marker="x", color="black")
    figure.colorbar(dots, label="zero-shot validation AUC")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="lambda_patch", ylabel="lambda_token")
    crosses = ", crosses: collapsed or diverged" if len(shown) < len(trials) else ""
    axes.set_title(f"{len(trials) - 1} random pairs; ring: the best{crosses}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomic(path, buffer.getvalue())
