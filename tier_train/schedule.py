"""How weights move: the optimizer of a recipe and its learning rate at every step."""

from __future__ import annotations

import math

import torch
from torch import nn

from tier_train.recipe import Recipe


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine to zero at the last step; or constant. step counts from 1."""
    if recipe.schedule == "constant":
        return recipe.lr
    warm = max(1, round(recipe.warmup * recipe.steps))
    if step <= warm:
        return recipe.lr * step / warm
    done = (step - warm) / max(1, recipe.steps - warm)
    return recipe.lr * (1 + math.cos(math.pi * done)) / 2


def build_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Over what learns. adamw: decay on matrices and kernels only, not on norms, biases and the
    temperature. adam: in the gradient and on everything, as in TIER's released code.
    """
    learning = [p for p in module.parameters() if p.requires_grad]
    fused = learning[0].is_cuda  # one kernel for all weights; elsewhere torch chooses
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            learning, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused or None
        )
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused or None)
