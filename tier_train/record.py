"""What a run leaves on disk, and in which order, so that it may be killed between any two writes.

    while it runs      <stem>.state.pt   <stem>.metrics.part.csv   <stem>.best.part/
    when it's complete <stem>.pt         <stem>.metrics.csv        <stem>.best/
                       <stem>.curves.png   <stem>.recipe.toml: the recipe, for --recipe

The state is the last to go: until then --resume repeats what a kill left undone. Checkpoint and
metrics of an earlier run of the same name stay together until those of this one are whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.files import sync_folder, write_atomic
from tier_train.best import Best
from tier_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tier_train.learner import Learner
from tier_train.metrics_log import Board, Metrics, draw_curves
from tier_train.recipe import Recipe, grid_side
from tier_train.recipe_file import to_toml
from tier_train.state import beside, fingerprint, save_state, saving, state_path
from tier_train.validation import Result, Validation

Say = Callable[[str], None]


class Record:
    """Metrics, best checkpoints and state of one run; of several processes the first writes."""

    def __init__(
        self,
        output: Path,
        asked: Recipe,
        learner: Learner,
        check: Validation,
        identity: dict[str, Any],
        facts: dict[str, Any],
        state: dict[str, Any] | None,
        tensorboard: Path | None,
        say: Say,
    ) -> None:
        """asked: the recipe as it was given, with its paths. facts: what the checkpoint says of its
        data, with `intensity` and `views`. state: that of an interrupted run, which goes on."""
        self.output, self.asked, self.say = output, asked, say
        self.learner, self.check = learner, check
        self.writes = learner.fabric.global_rank == 0
        self.identity, self.facts = identity, facts
        kept = state or {}
        self.step: int = kept.get("step", 0)
        self.saved = self.step
        place = learner.fabric.device  # a state is loaded into memory
        self.recent: list[Tensor] = [v.to(place) for v in kept.get("recent", ())]  # [4] per step
        self.result = Result(kept.get("areas", {}), kept.get("val_loss", math.nan))
        self.alarm: str = kept.get("alarm", "")
        self.metrics = Metrics(
            metrics_path(output, part=True), check.scored, learner.recipe,
            kept.get("metrics", []), kept.get("seconds", 0.0),
        )  # fmt: skip
        self.best = Best(output, learner.recipe, kept.get("ranking", []))
        if state and self.writes:
            self.best.check(state_path(output))
            self.best.prune()
        self.board = Board(tensorboard, self.step) if tensorboard and self.writes else None

    def validated(
        self, epoch: int, rate: float, means: list[float], result: Result, alarm: str
    ) -> None:
        """A row of metrics, the checkpoint if it is among the best, the state."""
        self.result, self.alarm, self.recent = result, alarm, []
        if not self.writes:
            return
        model, tokenizer = self.learner.model, self.learner.tokenizer
        scale = float(model.logit_scale.detach().exp())
        row = self.metrics.add(self.step, epoch, rate, means, scale, result, alarm)
        with saving(self.output, self.saved):
            if self.board:
                self.board.add(row, self.check.heatmaps(model, tokenizer))
            if self.learner.recipe.keep_best:
                entry = {key: row[key] for key in ("step", "epoch", "val_auc", "val_loss")}
                self.best.offer(entry, lambda path: save_checkpoint(path, self.checkpoint()))
        self.save()
        with saving(self.output, self.saved):
            self.metrics.write()

    def save(self) -> None:
        """The state after this step; then what it does without may go."""
        if not self.writes:
            return
        table = self.learner.state() | {
            "identity": self.identity,
            "step": self.step,
            "recent": [loss.cpu() for loss in self.recent],
            "processes": self.learner.fabric.world_size,
            "metrics": self.metrics.rows,
            "seconds": self.metrics.seconds,
            "areas": self.result.areas,
            "val_loss": self.result.loss,
            "alarm": self.alarm,
            "ranking": self.best.ranking,
        }
        with saving(self.output, self.saved):
            save_state(state_path(self.output), table)
            self.saved = self.step
            self.best.prune()

    def complete(self) -> Checkpoint:
        """Checkpoint, metrics, best, curves; then the state goes. Returns what -o holds."""
        self.learner.model.eval().cpu()
        if not self.writes:
            return self.checkpoint()
        with saving(self.output, self.saved):
            self.metrics.write()
            if self.best.ranking:
                write_atomic(self.output, self.best.winner().read_bytes())
            else:
                save_checkpoint(self.output, self.checkpoint())
            self.metrics.path.replace(metrics_path(self.output))
            self.best.publish(self.say)
            write_atomic(beside(self.output, "recipe.toml"), to_toml(self.asked).encode())
            self._draw()
            if self.board:
                self.board.close()
            state_path(self.output).unlink(missing_ok=True)
            sync_folder(self.output.parent)
        if not self.best.ranking:
            return self.checkpoint()
        best = load_checkpoint(self.output)
        if self.alarm and best.training["step"] != self.step:
            self.say(f"collapse alarm at the last step, -o holds an earlier one: {self.alarm}")
        return best

    def checkpoint(self) -> Checkpoint:
        learner, facts = self.learner, dict(self.facts)
        intensity, views = facts.pop("intensity"), facts.pop("views")
        training = facts | {
            "run": fingerprint(self.identity),
            "starts": learner.files,
            "processes": learner.fabric.world_size,
            "step": self.step,
            "val_auc": self.result.areas,
            "val_loss": self.result.loss,
        }
        return Checkpoint(
            learner.model, learner.tokenizer, learner.recipe, intensity, views, training, self.alarm
        )

    def _draw(self) -> None:
        recipe = self.learner.recipe
        try:
            draw_curves(
                beside(self.output, "curves.png"), self.metrics, grid_side(recipe) ** 2, recipe
            )
        except ImportError:
            self.say("no curves drawn: they need an extra, pip install 'tier-cxr[plots]'")


def metrics_path(checkpoint: Path, part: bool = False) -> Path:
    """Under another name until the checkpoint is written: the pair belongs together."""
    return beside(checkpoint, "metrics.part.csv" if part else "metrics.csv")


def check_output(path: Path) -> None:
    """Before the first step, not after the last: can a file of this name be written?"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {path}: its folder can't be made ({error.strerror})") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"-o {path} is a folder or lies in one that can't be written")


def already_complete(output: Path, identity: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint of a run with this identity, if it lies there."""
    if not output.is_file():
        return None
    found = load_checkpoint(output)
    return found if found.training.get("run") == fingerprint(identity) else None
