"""The loss of TIER, Fig. 2: symmetric CLIP plus two entropies of the token × patch similarities.

    sim_matrix   = token_e @ patch_e.T                          [N, T, P]
    patch_penalty = λ_patch · mean over (n, t) of H(softmax over P)
    token_penalty = λ_token · mean over (n, p) of H(softmax over T)
    loss         = clip_loss + patch_penalty + token_penalty

Natural logarithm, softmax of raw cosines divided by `entropy_temperature` (1 in the paper). With
T = 1 the entropy over P = 49 can only lie in [3.417, ln 49 = 3.892]: the penalty is gentle.
Everything here is float32 outside autocast: in bfloat16 the entropy's error is as large as its
distance from the maximum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


class Loss(NamedTuple):
    total: Tensor
    clip: Tensor
    patch_entropy: Tensor  # nats, mean over tokens; before λ
    token_entropy: Tensor  # nats, mean over patches; before λ


def clip_loss(image_e: Tensor, text_e: Tensor, logit_scale: Tensor) -> Tensor:
    """image_e, text_e: [N, D] unit norm; logit_scale: log of the factor. Both directions, mean."""
    logits = logit_scale.exp() * image_e @ text_e.T  # [N, N]
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def sim_matrix(token_e: Tensor, patch_e: Tensor) -> Tensor:
    """token_e: [N, T, D], patch_e: [N, 7, 7, D], unit norm → [N, T, P] cosine, pair by pair."""
    return token_e @ patch_e.flatten(1, 2).transpose(1, 2)


def patch_entropy(sim: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over tokens of H over the P patches. sim: [N, T, P]; mask: bool [N, T], True counts."""
    log_p = torch.log_softmax(sim / temperature, dim=2)
    entropy = -(log_p.exp() * log_p).sum(2)  # [N, T]
    return entropy[mask].mean()


def token_entropy(sim: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over patches of H over the tokens that count; every row of mask needs one True."""
    # Finite, not −inf: exp gives exactly 0 either way, but 0 · −inf would be NaN.
    lowest = torch.finfo(sim.dtype).min / 2
    held = (sim / temperature).masked_fill(~mask[:, :, None], lowest)
    log_p = torch.log_softmax(held, dim=1)
    return -(log_p.exp() * log_p).sum(1).mean()  # sum over T: [N, P]


def tier_loss(
    image_e: Tensor,
    patch_e: Tensor,
    token_e: Tensor,
    mask: Tensor,
    logit_scale: Tensor,
    lambda_patch: float,
    lambda_token: float,
    temperature: float = 1.0,
) -> Loss:
    """image_e [N, D], patch_e [N, 7, 7, D], token_e [N, T, D], all unit norm; mask bool [N, T]."""
    with torch.autocast(image_e.device.type, enabled=False):
        image_e, patch_e, token_e = image_e.float(), patch_e.float(), token_e.float()
        clip = clip_loss(image_e, token_e[:, 0], logit_scale.float())
        sim = sim_matrix(token_e, patch_e)  # [N, T, P] cosine
        over_patches = patch_entropy(sim, mask, temperature)
        over_tokens = token_entropy(sim, mask, temperature)
        patch_penalty = lambda_patch * over_patches
        token_penalty = lambda_token * over_tokens
    return Loss(clip + patch_penalty + token_penalty, clip, over_patches, over_tokens)
