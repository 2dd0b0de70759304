"""python -m pytest tests/train/test_loss.py -- padding, ranges, precision of the loss.

That its values are those of Fig. 2 stands in test_loss_reference.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.train.test_loss_reference import batch, tensors, unit
from tier_train.loss import patch_entropy, sim_matrix, tier_loss, token_entropy
from tier_train.recipe import Recipe

torch.set_num_threads(1)
SCALE = torch.tensor(math.log(1 / 0.07))
LN_P = math.log(49)
LN_2 = math.log(2)
MIN_PATCH_ENTROPY = 3.417  # 10 of 49 cosines at +1, the rest at -1
RECIPE = Recipe()
EPS = replace(RECIPE, entropy_eps=1e-7)


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, entropy_temperature=0.07), EPS])
def test_padding_changes_nothing(recipe: Recipe) -> None:
    image_e, text_e, patch_e, token_e, mask = tensors(batch(1))
    junk = torch.from_numpy(unit(np.random.default_rng(5), len(mask), 30, token_e.shape[2]))
    longer = torch.cat([token_e, junk], dim=1)
    wider = torch.cat([mask, torch.zeros(len(mask), 30, dtype=torch.bool)], dim=1)
    short = tier_loss(image_e, text_e, patch_e, token_e, mask, SCALE, recipe)
    padded = tier_loss(image_e, text_e, patch_e, longer, wider, SCALE, recipe)
    for name, value in short._asdict().items():
        assert getattr(padded, name).item() == pytest.approx(value.item(), abs=1e-12), name


@pytest.mark.parametrize("recipe", [RECIPE, EPS])
def test_a_row_of_padding_alone_does_not_count(recipe: Recipe) -> None:
    image_e, text_e, patch_e, token_e, mask = tensors(batch(2))
    held = torch.arange(5) != 2
    some = tier_loss(image_e, text_e, patch_e[held], token_e[held], mask[held], SCALE, recipe)
    mask[2] = False
    leaves = [v.requires_grad_() for v in (patch_e, token_e)]
    loss = tier_loss(image_e, text_e, *leaves, mask, SCALE, recipe)
    for name, value in some._asdict().items():
        assert getattr(loss, name).item() == pytest.approx(value.item(), abs=1e-12), name
    for gradient in torch.autograd.grad(loss.total, leaves):
        assert torch.isfinite(gradient).all()
        assert not gradient[2].any()
        assert gradient[held].any()


def test_nothing_but_padding_has_no_entropy() -> None:
    *leaves, mask = tensors(batch(2))
    leaves = [v.requires_grad_() for v in leaves]
    loss = tier_loss(*leaves, torch.zeros_like(mask), SCALE, EPS)
    assert loss.patch_entropy.item() == loss.token_entropy.item() == 0
    assert loss.total.item() == loss.clip.item()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss.total, leaves))


def test_padding_never_wins_however_low_the_temperature() -> None:
    # A fill of -1e4 is above -0.5 / 1e-5.
    sim = torch.tensor([[-0.5, -0.5, -0.9, -0.9]], dtype=torch.float64)[:, :, None].repeat(1, 1, 49)
    mask = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(
        token_entropy(sim, mask, 1e-5), torch.full((1, 49), LN_2, dtype=torch.float64)
    )


def test_patch_entropy_of_cosines_lies_between_3_417_and_ln_49() -> None:
    lowest = []
    for high in range(50):
        sim = torch.full((1, 1, 49), -1.0, dtype=torch.float64)
        sim[..., :high] = 1.0
        lowest.append(patch_entropy(sim).item())
    assert int(np.argmin(lowest)) == 10
    assert min(lowest) == pytest.approx(MIN_PATCH_ENTROPY, abs=5e-4)
    assert max(lowest) == pytest.approx(LN_P, abs=1e-12)
    for seed in range(20):
        *_, patch_e, token_e, _ = tensors(batch(seed, d=3))
        values = patch_entropy(sim_matrix(token_e, patch_e))
        assert values.min() >= MIN_PATCH_ENTROPY - 5e-4
        assert values.max() <= LN_P + 1e-12


def test_one_token_alone_has_no_entropy() -> None:
    sim = torch.rand(3, 6, 49, dtype=torch.float64)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, 0] = True
    assert not token_entropy(sim, mask).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_heavy_padding_leaves_value_and_gradient_finite(dtype: torch.dtype) -> None:
    *embeddings, _ = tensors(batch(2, n=4, tokens=128), dtype)
    mask = torch.arange(128) < torch.tensor([[1], [2], [0], [128]])
    leaves = [v.requires_grad_() for v in (*embeddings, SCALE.clone())]
    loss = tier_loss(*leaves[:4], mask, leaves[4], RECIPE)
    loss.total.backward()
    assert all(torch.isfinite(value) for value in loss)
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
    token_e = leaves[3]
    assert token_e.grad is not None
    assert not token_e.grad[~mask].any(), "padding must not be trained"


def test_collapsed_similarities_are_finite() -> None:
    same = torch.ones(4, 7, 7, 3) / math.sqrt(3)
    leaves = [v.clone().requires_grad_() for v in (same[:, 0, 0], same[:, 0, 1], same, same[:, 0])]
    loss = tier_loss(*leaves, torch.ones(4, 7, dtype=torch.bool), SCALE, RECIPE)
    assert loss.clip.item() == pytest.approx(math.log(4), abs=1e-5)
    assert loss.patch_entropy.item() == pytest.approx(LN_P, abs=1e-5)
    assert loss.token_entropy.item() == pytest.approx(math.log(7), abs=1e-5)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss.total, leaves))


def test_half_precision_inputs_are_computed_in_float32() -> None:
    *embeddings, mask = tensors(batch(4), torch.bfloat16)
    half = tier_loss(*embeddings, mask, SCALE.bfloat16(), RECIPE)
    wide = (e.float() for e in embeddings)
    full = tier_loss(*wide, mask, SCALE.bfloat16().float(), RECIPE)
    for low, high in zip(half, full, strict=True):
        assert low.dtype == torch.float32
        assert low.item() == high.item()


def test_autocast_does_not_reach_the_loss() -> None:
    arrays = tensors(batch(6), torch.float32)
    plain = tier_loss(*arrays, SCALE, RECIPE)
    with torch.autocast("cpu", torch.bfloat16):
        inside = tier_loss(*arrays, SCALE, RECIPE)
    for low, high in zip(inside, plain, strict=True):
        assert low.dtype == torch.float32
        assert low.item() == high.item()
