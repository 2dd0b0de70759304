"""What learns: the network on its device, its tokenizer and its optimizer, and one step of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tier_train.checkpoint import not_finite, tokenizer_from
from tier_train.data.dataset import Row
from tier_train.model import DualEncoder
from tier_train.parallel import backward, share, wrapped
from tier_train.recipe import Recipe, recipe_from
from tier_train.sampler import Batch
from tier_train.schedule import build_optimizer, learning_rate
from tier_train.start import Start, start
from tier_train.towers.frozen_text import FrozenText
from tier_train.towers.text_encoder import Tokenizer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VOCABULARY_EPOCHS = 8  # of captions, where they are drawn anew every epoch


@dataclass(frozen=True)
class Learner:
    fabric: Fabric
    model: DualEncoder
    tokenizer: Tokenizer
    recipe: Recipe
    files: dict[str, str]  # published weights that it started from → SHA-256
    optimizer: Any
    towers: Any

    def step(self, batch: Batch) -> Tensor:
        """Moves the weights once. Returns float32 [4], the losses of the whole batch."""
        part = share(self.fabric, self.recipe)
        ids, mask = self.tokenizer(batch.captions)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(batch.step, self.recipe)
        self.optimizer.zero_grad(set_to_none=True)
        loss = backward(
            self.fabric, self.towers, batch.pixels, ids[part], mask[part], self.recipe, batch.step
        )
        self.optimizer.step()
        return loss

    def scale(self) -> float:
        """fp16's factor on the loss; NaN where nothing is scaled."""
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return float(scaler.get_scale()) if scaler else math.nan

    def not_finite(self) -> str:
        """The first weight or moment that is no number; "" if all are."""
        moments = {
            f"optimizer.{i}.{key}": value
            for i, each in self.optimizer.state_dict()["state"].items()
            for key, value in each.items()
            if key != "step"  # lies on the CPU
        }
        return not_finite({**self.model.state_dict(), **moments})

    def state(self) -> dict[str, Any]:
        """For `begin`: all that a step depends on. A learning rate is computed, not kept."""
        return {
            "recipe": asdict(self.recipe),
            "tokenizer": self.tokenizer.state(),
            "files": self.files,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.fabric.strategy.precision.state_dict(),
        }


def begin(
    fabric: Fabric,
    recipe: Recipe,
    rows: Sequence[Row],
    state: dict[str, Any] | None,
    folder: Path,
    say: Callable[[str], None],
) -> Learner:
    """From the recipe's start weights, or from `state`; `folder` is for the frozen text."""
    begun = _restored(state) if state else start(recipe, lambda: _sentences(rows, recipe))
    model, recipe = begun.model, begun.recipe
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(fabric.device)
    frozen = None
    if recipe.cache_frozen_text:
        texts = [row.text for row in rows if row.text]
        frozen = _frozen(fabric, begun, texts, folder, say)
    optimizer = build_optimizer(model, recipe)
    if state:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        fabric.strategy.precision.load_state_dict(state["scaler"])
    towers, optimizer = wrapped(fabric, model, optimizer, recipe, frozen)
    return Learner(fabric, model, begun.tokenizer, recipe, begun.files, optimizer, towers)


def _restored(state: dict[str, Any]) -> Start:
    """The published weights are not asked for again."""
    recipe, tokenizer = recipe_from(state["recipe"]), tokenizer_from(state["tokenizer"])
    model = DualEncoder(recipe, tokenizer.vocab_size)
    model.load_state_dict(state["model"])
    return Start(model, tokenizer, recipe, state["files"])


def _sentences(rows: Sequence[Row], recipe: Recipe) -> list[str]:
    return [row.caption(recipe.seed, epoch) for epoch in range(VOCABULARY_EPOCHS) for row in rows]


def _frozen(
    fabric: Fabric, begun: Start, texts: list[str], folder: Path, say: Callable[[str], None]
) -> FrozenText:
    """The first process computes the table, the others find it."""
    first = fabric.global_rank == 0
    bert, layers = begun.model.words.get_submodule("text"), begun.recipe.text_frozen

    def table() -> FrozenText:
        return FrozenText(bert, layers, begun.tokenizer, texts, folder, say)

    made = table() if first else None
    fabric.barrier()
    return made or table()
