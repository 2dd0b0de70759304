"""When a training should stop, or be told of: no numbers any more, or no pair told from another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tier_train.learner import Learner
from tier_train.recipe import Recipe, grid_side
from tier_train.validation import Diverged


def refuse_divergence(recent: list[Tensor], step: int, now: bool) -> None:
    """Raises Diverged when the loss is no number.

    That of this step only `now`, else that of the step before: a GPU is not kept waiting.
    """
    for at, losses in ((step - 1, recent[-2:-1]), (step, recent[-1:] if now else [])):
        if losses and not torch.isfinite(losses[0]).all():
            raise Diverged(f"training diverged at step {at}; lower lr or logit_scale_init")


def refuse_bad_weights(learner: Learner, step: int) -> None:
    """Raises Diverged before a state is written that no run can go on from: the last step may spoil
    weights whose loss nobody sees any more."""
    if bad := learner.not_finite():
        raise Diverged(
            f"training diverged at step {step}: {bad} is not finite; lower lr or logit_scale_init"
        )


def refuse_overflow(before: float, now: float, steps: int, last: bool) -> None:
    """Raises Diverged when fp16's gradient scaler skips for good. before, now: its scales.

    It halves when a gradient overflows, from 65536: a few skipped steps are how it begins. Below 1
    it only loses small gradients. A run that ends so hasn't moved since its last validation.
    """
    if now < 1 or (last and now == before * 0.5**steps):
        raise Diverged(
            f"training diverged: gradients overflow fp16 down to a scale of {now:g}; lower lr, or "
            "--set precision=bf16"
        )


def collapse_alarm(clip: float, patch_entropy: float, recipe: Recipe, step: int) -> str:
    """Why the network has probably stopped telling pairs or patches apart; "" if it hasn't.

    Equal similarities are a stationary maximum of the entropy, so a collapsed network stays there.
    A softmax at temperature T falls short of the maximum by half the variance of its logits, so by
    1 / T² as much: that is the margin's size.
    """
    if recipe.schedule != "constant" and step <= round(recipe.warmup * recipe.steps):
        return ""
    chance, patches = math.log(recipe.batch_size), grid_side(recipe) ** 2
    if clip > chance - 0.005:
        return f"CLIP loss {clip:.3f} is that of guessing, ln {recipe.batch_size} = {chance:.3f}"
    highest = math.log(patches)
    if patch_entropy > highest - 1e-3 / max(1.0, recipe.entropy_temperature) ** 2:
        return (
            f"patch entropy {patch_entropy:.4f} is that of equal patches, ln {patches} = "
            f"{highest:.4f}"
        )
    return ""
