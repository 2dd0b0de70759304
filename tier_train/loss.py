"""The loss of TIER, Fig. 2: symmetric CLIP plus two entropies of the token × patch similarities.

    sim_matrix    = token_e @ patch_e.T                          [N, T, P]
    patch_penalty = λ_patch · mean over (n, t) of H(softmax over P)
    token_penalty = λ_token · mean over (n, p) of H(softmax over T)
    loss          = clip_loss + patch_penalty + token_penalty

Natural logarithm, softmax of raw cosines divided by `entropy_temperature` (1 in the paper). With
T = 1 the entropy over P = 49 can only lie in [3.417, ln 49 = 3.892]: the penalty is gentle.
Everything here is at least float32 outside autocast: in bfloat16 the entropy's error is as large as
its distance from the maximum.

Several processes: a mean of entropies needs no pair of another process, but its denominator does,
and the CLIP loss needs all embeddings. `tier_loss` says what to hand over; the mean of the
gradients over the processes is then the gradient of the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tier_train.recipe import Recipe


class Loss(NamedTuple):
    total: Tensor
    clip: Tensor
    patch_entropy: Tensor  # nats, mean over tokens; before λ
    token_entropy: Tensor  # nats, mean over patches; before λ


def clip_loss(image_e: Tensor, text_e: Tensor, logit_scale: Tensor) -> Tensor:
    """image_e, text_e: [M, D] unit norm; logit_scale: log of the factor. Both directions, mean."""
    logits = logit_scale.exp() * image_e @ text_e.T  # [M, M]
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def sim_matrix(token_e: Tensor, patch_e: Tensor) -> Tensor:
    """token_e: [N, T, D], patch_e: [N, g, g, D], unit norm → [N, T, P] cosine, pair by pair."""
    return token_e @ patch_e.flatten(1, 2).transpose(1, 2)


def patch_entropy(sim: Tensor, temperature: float = 1.0, eps: float = 0.0) -> Tensor:
    """H over the P patches. sim: [N, T, P] → [N, T] nats, padding included."""
    return _surprise(sim / temperature, 2, eps).sum(2)


def token_entropy(sim: Tensor, mask: Tensor, temperature: float = 1.0, eps: float = 0.0) -> Tensor:
    """H over the tokens that count. sim: [N, T, P]; mask: bool [N, T], True counts → [N, P] nats.

    A row of mask without any True gives 0.
    """
    # Finite, not −inf: exp gives exactly 0 either way, but 0 · −inf would be NaN.
    lowest = torch.finfo(sim.dtype).min / 2
    padding = ~mask[:, :, None]
    held = (sim / temperature).masked_fill(padding, lowest)
    return _surprise(held, 1, eps).masked_fill(padding, 0).sum(1)


def _surprise(logits: Tensor, dim: int, eps: float) -> Tensor:
    """−p ln p of the softmax over `dim`, in logits' shape. The released code has p + eps for p."""
    log_p = torch.log_softmax(logits, dim)
    if eps == 0:
        return -log_p.exp() * log_p
    raised = log_p.exp() + eps
    return -raised * raised.log()


def entropy_sums(sim: Tensor, mask: Tensor, temperature: float = 1.0, eps: float = 0.0) -> Tensor:
    """[2]: patch_entropy over all tokens that count, token_entropy over all patches, each summed.

    sim: [N, T, P] cosine; mask: bool [N, T], True counts. `entropy_counts` says of how many.
    """
    over_patches = patch_entropy(sim, temperature, eps).masked_fill(~mask, 0)  # [N, T]
    over_tokens = token_entropy(sim, mask, temperature, eps)  # [N, P]
    return torch.stack([over_patches.sum(), over_tokens.sum()])


def entropy_counts(mask: Tensor, patches: int) -> Tensor:
    """float64 [2]: tokens that count, and patches of the images that have such a token."""
    return torch.stack([mask.sum(), mask.any(1).sum() * patches]).double()


def tier_loss(
    image_e: Tensor,
    text_e: Tensor,
    patch_e: Tensor,
    token_e: Tensor,
    mask: Tensor,
    logit_scale: Tensor,
    recipe: Recipe,
    counts: Tensor | None = None,
) -> Loss:
    """image_e, text_e [M, D], patch_e [N, g, g, D], token_e [N, T, D], unit norm; mask bool [N, T].

    One process: M = N and no `counts`. Of several, each hands over its own N patch_e and token_e,
    the M image_e and text_e of all, gathered by an operation whose backward pass sums, and
    `entropy_counts` averaged over the processes. The mean of the losses over the processes is then
    the loss of the whole batch, and the mean of the gradients its gradient.
    """
    wide = torch.promote_types(image_e.dtype, torch.float32)
    with torch.autocast(image_e.device.type, enabled=False):
        clip = clip_loss(image_e.to(wide), text_e.to(wide), logit_scale.to(wide))
        sim = sim_matrix(token_e.to(wide), patch_e.to(wide))  # [N, T, P] cosine
        sums = entropy_sums(sim, mask, recipe.entropy_temperature, recipe.entropy_eps)
        counts = entropy_counts(mask, sim.shape[2]) if counts is None else counts
        over_patches, over_tokens = (sums / counts.to(sums).clamp_min(1e-9)).unbind()  # 0 of 0 is 0
        patch_penalty = recipe.lambda_patch * over_patches
        token_penalty = recipe.lambda_token * over_tokens
    return Loss(clip + patch_penalty + token_penalty, clip, over_patches, over_tokens)
