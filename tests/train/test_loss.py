"""python -m pytest tests/train/test_loss.py -- Fig. 2 against a float64 NumPy re-derivation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_train.loss import clip_loss, patch_entropy, sim_matrix, tier_loss, token_entropy

torch.set_num_threads(1)
Array = NDArray[np.float64]
SCALE = math.log(1 / 0.07)
LN_P = math.log(49)
MIN_PATCH_ENTROPY = 3.417  # 10 of 49 cosines at +1, the rest at -1


def _unit(rng: np.random.Generator, *shape: int) -> Array:
    v = rng.normal(size=shape)
    return np.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))


def _batch(seed: int, n: int = 5, tokens: int = 9, d: int = 16) -> tuple[Array, ...]:
    """image_e [N, D], patch_e [N, 7, 7, D], token_e [N, T, D] and a mask, padding last."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, tokens + 1, n)
    mask = np.arange(tokens) < lengths[:, None]
    return _unit(rng, n, d), _unit(rng, n, 7, 7, d), _unit(rng, n, tokens, d), mask


def _tensors(arrays: tuple[Array, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.from_numpy(a).to(dtype) for a in arrays[:3]] + [torch.from_numpy(arrays[3])]


def _softmax_entropy(values: Array) -> float:
    weights = [math.exp(v) for v in values]
    shares = [w / sum(weights) for w in weights]
    return -sum(p * math.log(p) for p in shares)


def _by_hand(arrays: tuple[Array, ...], temperature: float = 1.0) -> tuple[float, float, float]:
    """clip, entropy over patches, entropy over tokens: loops over pairs, tokens and patches."""
    image_e, patch_e, token_e, mask = arrays
    logits = math.exp(SCALE) * np.array([[i @ t[0] for t in token_e] for i in image_e])
    per_pair = []
    for k in range(len(logits)):
        for line in (logits[k], logits[:, k]):  # image → texts, text → images
            per_pair.append(math.log(np.exp(line - line.max()).sum()) + line.max() - line[k])
    over_patches, over_tokens = [], []
    for n in range(len(token_e)):
        words = token_e[n][mask[n]]  # padding does not exist here
        patches = patch_e[n].reshape(49, -1)
        over_patches += [_softmax_entropy(patches @ w / temperature) for w in words]
        over_tokens += [_softmax_entropy(words @ p / temperature) for p in patches]
    return tuple(float(np.mean(v)) for v in (per_pair, over_patches, over_tokens))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_every_term_equals_the_re_derivation(seed: int, temperature: float) -> None:
    arrays = _batch(seed)
    image_e, patch_e, token_e, mask = _tensors(arrays)
    clip, over_patches, over_tokens = _by_hand(arrays, temperature)
    sim = sim_matrix(token_e, patch_e)
    expected = np.einsum("ntd,npd->ntp", arrays[2], arrays[1].reshape(len(arrays[1]), 49, -1))
    np.testing.assert_allclose(sim.numpy(), expected, rtol=0, atol=1e-10)
    scale = torch.tensor(SCALE, dtype=torch.float64)
    assert clip_loss(image_e, token_e[:, 0], scale).item() == pytest.approx(clip, abs=1e-10)
    assert patch_entropy(sim, mask, temperature).item() == pytest.approx(over_patches, abs=1e-10)
    assert token_entropy(sim, mask, temperature).item() == pytest.approx(over_tokens, abs=1e-10)


@pytest.mark.parametrize("lambdas", [(0.2, 0.1), (0.7, 0.0), (0.0, 0.7), (0.0, 0.0)])
def test_each_lambda_multiplies_its_own_entropy(lambdas: tuple[float, float]) -> None:
    arrays = _batch(7)
    clip, over_patches, over_tokens = _by_hand(arrays)
    assert over_patches - over_tokens > 1, "else exchanged lambdas would go unnoticed"
    loss = tier_loss(*_tensors(arrays), torch.tensor(SCALE), *lambdas)
    expected = clip + lambdas[0] * over_patches + lambdas[1] * over_tokens
    assert loss.total.item() == pytest.approx(expected, abs=1e-5)
    assert loss.clip.item() == pytest.approx(clip, abs=1e-5)
    assert loss.patch_entropy.item() == pytest.approx(over_patches, abs=1e-5)
    assert loss.token_entropy.item() == pytest.approx(over_tokens, abs=1e-5)
    assert loss.total.dtype == torch.float32


def test_the_temperature_reaches_both_entropies() -> None:
    arrays = _batch(3)
    _, over_patches, over_tokens = _by_hand(arrays, 0.2)
    loss = tier_loss(*_tensors(arrays), torch.tensor(SCALE), 0.2, 0.1, 0.2)
    assert loss.patch_entropy.item() == pytest.approx(over_patches, abs=1e-5)
    assert loss.token_entropy.item() == pytest.approx(over_tokens, abs=1e-5)


@pytest.mark.parametrize("entropy", [patch_entropy, token_entropy])
def test_gradients_are_those_of_the_formula(entropy: object) -> None:
    rng = np.random.default_rng(0)
    sim = torch.from_numpy(rng.uniform(-1, 1, (2, 4, 6))).requires_grad_()
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    assert torch.autograd.gradcheck(lambda s: entropy(s, mask), (sim,))


@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_padding_changes_nothing(temperature: float) -> None:
    image_e, patch_e, token_e, mask = _tensors(_batch(1))
    rng = np.random.default_rng(5)
    junk = torch.from_numpy(_unit(rng, len(mask), 30, token_e.shape[2]))
    longer = torch.cat([token_e, junk], dim=1)
    wider = torch.cat([mask, torch.zeros(len(mask), 30, dtype=torch.bool)], dim=1)
    scale = torch.tensor(SCALE)
    short = tier_loss(image_e, patch_e, token_e, mask, scale, 0.2, 0.1, temperature)
    padded = tier_loss(image_e, patch_e, longer, wider, scale, 0.2, 0.1, temperature)
    for name, value in short._asdict().items():
        assert getattr(padded, name).item() == pytest.approx(value.item(), abs=1e-5), name


def test_padding_never_wins_however_low_the_temperature() -> None:
    # A fill of -1e4 is above -0.5 / 1e-5.
    sim = torch.tensor([[-0.5, -0.6, -0.5, -0.5]], dtype=torch.float64)[:, :, None].repeat(1, 1, 49)
    mask = torch.tensor([[True, True, False, False]])
    assert token_entropy(sim, mask, 1e-5).item() == pytest.approx(0.0, abs=1e-10)


def test_patch_entropy_of_cosines_lies_between_3_417_and_ln_49() -> None:
    everything = torch.ones(1, 1, dtype=torch.bool)
    lowest = []
    for high in range(50):
        sim = torch.full((1, 1, 49), -1.0, dtype=torch.float64)
        sim[..., :high] = 1.0
        lowest.append(patch_entropy(sim, everything).item())
    assert int(np.argmin(lowest)) == 10
    assert min(lowest) == pytest.approx(MIN_PATCH_ENTROPY, abs=5e-4)
    assert max(lowest) == pytest.approx(LN_P, abs=1e-12)
    for seed in range(20):
        _, patch_e, token_e, mask = _tensors(_batch(seed, d=3))
        value = patch_entropy(sim_matrix(token_e, patch_e), mask).item()
        assert MIN_PATCH_ENTROPY - 5e-4 <= value <= LN_P + 1e-12


def test_one_token_alone_has_no_entropy() -> None:
    sim = torch.rand(3, 6, 49, dtype=torch.float64)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, 0] = True
    assert token_entropy(sim, mask).item() == 0.0


def test_heavy_padding_leaves_value_and_gradient_finite() -> None:
    image_e, patch_e, token_e, _ = _tensors(_batch(2, n=4, tokens=128), torch.float32)
    mask = torch.arange(128) < torch.tensor([[1], [2], [3], [128]])
    leaves = [v.requires_grad_() for v in (image_e, patch_e, token_e)]
    scale = torch.tensor(SCALE, requires_grad=True)
    loss = tier_loss(image_e, patch_e, token_e, mask, scale, 0.2, 0.1)
    loss.total.backward()
    assert all(torch.isfinite(value) for value in loss)
    for leaf in (*leaves, scale):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
    assert token_e.grad is not None
    assert not token_e.grad[~mask].any(), "padding must not be trained"


def test_half_precision_inputs_are_computed_in_float32() -> None:
    *embeddings, mask = _tensors(_batch(4), torch.bfloat16)
    half = tier_loss(*embeddings, mask, torch.tensor(SCALE, dtype=torch.bfloat16), 0.2, 0.1)
    scale = torch.tensor(SCALE, dtype=torch.bfloat16).float()
    full = tier_loss(*(e.float() for e in embeddings), mask, scale, 0.2, 0.1)
    for low, high in zip(half, full, strict=True):
        assert low.dtype == torch.float32
        assert low.item() == high.item()


def test_autocast_does_not_reach_the_loss() -> None:
    arrays = _tensors(_batch(6), torch.float32)
    plain = tier_loss(*arrays, torch.tensor(SCALE), 0.2, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = tier_loss(*arrays, torch.tensor(SCALE), 0.2, 0.1)
    for low, high in zip(inside, plain, strict=True):
        assert low.dtype == torch.float32
        assert low.item() == high.item()
