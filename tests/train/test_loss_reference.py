"""python -m pytest tests/train/test_loss_reference.py -- Fig. 2, written again with plain loops.

The loops below were written from the figure and, for `released`, from a description of the authors'
code; they share nothing with tier_train.loss.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_train.loss import (
    Loss,
    clip_loss,
    entropy_counts,
    entropy_sums,
    sim_matrix,
    tier_loss,
)
from tier_train.recipe import Recipe
from tier_train.recipe_file import load_recipe

torch.set_num_threads(1)
Array = NDArray[np.float64]
SCALE = math.log(1 / 0.07)
PAPER = Recipe()


def unit(rng: np.random.Generator, *shape: int) -> Array:
    v = rng.normal(size=shape)
    return np.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))


def batch(seed: int, n: int = 5, tokens: int = 9, d: int = 16, side: int = 7) -> list[Array]:
    """image_e, text_e [N, D], patch_e [N, g, g, D], token_e [N, T, D], mask with padding last."""
    rng = np.random.default_rng(seed)
    token_e = unit(rng, n, tokens, d)
    mask = np.arange(tokens) < rng.integers(2, tokens + 1, n)[:, None]
    return [unit(rng, n, d), token_e[:, 0], unit(rng, n, side, side, d), token_e, mask]


def tensors(arrays: list[Array], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The same, as tensors; the mask stays bool."""
    return [torch.from_numpy(a.copy()).to(dtype) for a in arrays[:4]] + [
        torch.from_numpy(arrays[4])
    ]


def shares(values: list[float]) -> list[float]:
    weights = [math.exp(v) for v in values]
    return [w / sum(weights) for w in weights]


def contrastive(image_e: Array, text_e: Array) -> float:
    n = len(image_e)
    logits = [[math.exp(SCALE) * float(i @ t) for t in text_e] for i in image_e]
    losses = []
    for k in range(n):
        losses.append(-math.log(shares(logits[k])[k]))  # which text belongs to image k
        losses.append(-math.log(shares([logits[i][k] for i in range(n)])[k]))
    return float(np.mean(losses))


def figure_2(arrays: list[Array], temperature: float = 1.0) -> tuple[float, float, float]:
    """clip, mean entropy over patches, mean entropy over tokens. Padding does not exist here."""
    image_e, text_e, patch_e, token_e, mask = arrays
    over_patches, over_tokens = [], []
    for n in range(len(image_e)):
        words = [token_e[n, t] for t in range(mask.shape[1]) if mask[n, t]]
        patches = [p for row in patch_e[n] for p in row]
        for w in words:
            p = shares([float(w @ q) / temperature for q in patches])
            over_patches.append(-sum(x * math.log(x) for x in p))
        for q in patches if words else []:
            p = shares([float(w @ q) / temperature for w in words])
            over_tokens.append(-sum(x * math.log(x) for x in p))
    return contrastive(image_e, text_e), float(np.mean(over_patches)), float(np.mean(over_tokens))


def released(arrays: list[Array]) -> tuple[float, float, float]:
    """The same as the authors' code has it: every place of the padded text counts, and 1e-7 is
    added to every share before it is multiplied with its own logarithm."""
    image_e, text_e, patch_e, token_e, _ = arrays
    over_patches, over_tokens = [], []
    for n in range(len(image_e)):
        patches = patch_e[n].reshape(-1, patch_e.shape[3])
        for w in token_e[n]:
            raised = [x + 1e-7 for x in shares([float(w @ q) for q in patches])]
            over_patches.append(sum(-x * math.log(x) for x in raised))
        for q in patches:
            raised = [x + 1e-7 for x in shares([float(w @ q) for w in token_e[n]])]
            over_tokens.append(sum(-x * math.log(x) for x in raised))
    return contrastive(image_e, text_e), float(np.mean(over_patches)), float(np.mean(over_tokens))


def ours(arrays: list[Array], recipe: Recipe) -> Loss:
    return tier_loss(*tensors(arrays), torch.tensor(SCALE, dtype=torch.float64), recipe)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_every_term_equals_the_figure(seed: int, temperature: float) -> None:
    arrays = batch(seed)
    loss = ours(arrays, replace(PAPER, entropy_temperature=temperature))
    clip, over_patches, over_tokens = figure_2(arrays, temperature)
    assert loss.total.dtype == torch.float64
    assert loss.clip.item() == pytest.approx(clip, abs=1e-10)
    assert loss.patch_entropy.item() == pytest.approx(over_patches, abs=1e-10)
    assert loss.token_entropy.item() == pytest.approx(over_tokens, abs=1e-10)
    expected = clip + 0.2 * over_patches + 0.1 * over_tokens
    assert loss.total.item() == pytest.approx(expected, abs=1e-10)


def test_the_similarities_are_those_of_a_pair() -> None:
    *_, patch_e, token_e, _ = arrays = batch(11, side=2)
    sim = sim_matrix(*reversed(tensors(arrays)[2:4]))
    for n, t, p in np.ndindex(5, 9, 4):
        expected = float(token_e[n, t] @ patch_e[n, p // 2, p % 2])  # rows of the grid first
        assert sim[n, t, p].item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("lambdas", [(0.2, 0.1), (0.7, 0.0), (0.0, 0.7), (0.0, 0.0)])
def test_each_lambda_multiplies_its_own_entropy(lambdas: tuple[float, float]) -> None:
    arrays = batch(7)
    clip, over_patches, over_tokens = figure_2(arrays)
    assert over_patches - over_tokens > 1, "else exchanged lambdas would go unnoticed"
    recipe = replace(PAPER, lambda_patch=lambdas[0], lambda_token=lambdas[1])
    expected = clip + lambdas[0] * over_patches + lambdas[1] * over_tokens
    assert ours(arrays, recipe).total.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_released_code_is_that_of_the_authors(seed: int) -> None:
    files = ["image_file=weights.pt", "text_folder=words"]
    recipe = load_recipe("released_code", files)
    assert not recipe.mask_padding
    arrays = batch(20 + seed)
    unmasked = [*arrays[:4], np.ones_like(arrays[4])]
    loss = ours(unmasked, recipe)
    clip, over_patches, over_tokens = released(arrays)
    assert loss.patch_entropy.item() == pytest.approx(over_patches, abs=1e-10)
    assert loss.token_entropy.item() == pytest.approx(over_tokens, abs=1e-10)
    expected = clip + 0.1 * over_patches + 0.2 * over_tokens
    assert loss.total.item() == pytest.approx(expected, abs=1e-10)
    without = ours(unmasked, replace(recipe, entropy_eps=0.0))
    assert loss.patch_entropy - without.patch_entropy > 1e-6, "else eps would go unnoticed"
    masked = ours(arrays, recipe)
    assert loss.token_entropy - masked.token_entropy > 0.1, "else padding would go unnoticed"


@pytest.mark.parametrize("eps", [0.0, 1e-7, 1e-3])
def test_gradients_are_those_of_the_formula(eps: float) -> None:
    *leaves, mask = tensors(batch(3, n=3, tokens=4, d=3, side=2))
    mask[1] = False  # one row of padding alone
    scale = torch.tensor(0.5, dtype=torch.float64)
    recipe = replace(PAPER, lambda_patch=0.7, lambda_token=0.4, entropy_eps=eps)

    def total(*inputs: Tensor) -> Tensor:
        return tier_loss(*inputs[:4], mask, inputs[4], recipe).total

    assert torch.autograd.gradcheck(total, [v.requires_grad_() for v in (*leaves, scale)])


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (1, 5), (2, 1, 3)])
@pytest.mark.parametrize("name", ["paper", "eps"])
def test_processes_together_have_the_loss_and_gradient_of_one(
    sizes: tuple[int, ...], name: str
) -> None:
    """Each part sees all image_e and text_e, its own patches and tokens and the mean counts."""
    *leaves, mask = tensors(batch(5, n=6, tokens=7, d=4, side=3))
    mask[2] = False
    leaves = [v.requires_grad_() for v in leaves]
    image_e, text_e, patch_e, token_e = leaves
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    recipe = replace(PAPER, entropy_eps=1e-3 if name == "eps" else 0.0)
    whole = tier_loss(*leaves, mask, scale, recipe)
    expected = torch.autograd.grad(whole.total, [*leaves, scale])
    stops = np.cumsum(sizes).tolist()
    parts = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
    counts = torch.stack([entropy_counts(mask[p], 9) for p in parts]).mean(0)
    losses = [
        tier_loss(image_e, text_e, patch_e[p], token_e[p], mask[p], scale, recipe, counts)
        for p in parts
    ]
    together = [torch.stack(values).mean() for values in zip(*losses, strict=True)]
    for value, one in zip(together, whole, strict=True):
        assert value.item() == pytest.approx(one.item(), abs=1e-12)
    gradients = torch.autograd.grad(together[0], [*leaves, scale])
    for gradient, one in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, one, rtol=0, atol=1e-13)


def test_sums_and_counts_are_those_of_the_loops() -> None:
    arrays = batch(9)
    arrays[4][3] = False
    *_, patch_e, token_e, mask = tensors(arrays)
    counts = entropy_counts(mask, 49)
    assert counts.tolist() == [arrays[4].sum(), 4 * 49]
    means = (entropy_sums(sim_matrix(token_e, patch_e), mask) / counts).tolist()
    assert means == pytest.approx(figure_2(arrays)[1:], abs=1e-10)


def test_clip_loss_of_two_pairs_by_hand() -> None:
    image_e = torch.eye(2, dtype=torch.float64)
    text_e = torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    # logits [[0.6, 0], [0.8, 1]]: ln(1 + e^-0.6), ln(1 + e^-0.2) by rows; columns ln(1 + e^0.2),
    # ln(1 + e^-1)
    rows = math.log1p(math.exp(-0.6)) + math.log1p(math.exp(-0.2))
    columns = math.log1p(math.exp(0.2)) + math.log1p(math.exp(-1.0))
    value = clip_loss(image_e, text_e, torch.tensor(0.0, dtype=torch.float64))
    assert value.item() == pytest.approx((rows + columns) / 4, abs=1e-14)
