"""Zero-shot scores in PyTorch: eq. 3 and eq. 4 of TIER, the reference of the export."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_infer.label_sets import LabelSet
from tier_infer.metrics import roc_auc
from tier_infer.pooling import Pool, TopK
from tier_train.model import DualEncoder
from tier_train.towers.image_encoder import unit_norm
from tier_train.towers.text_encoder import Tokenizer, embed_prompts


def query_table(model: DualEncoder, tokenizer: Tokenizer, labels: LabelSet) -> Tensor:
    """float32 [L, D] on the CPU: q⁺ − q⁻ of every label; q⁻ = 0 for one without negatives."""
    rows = []
    for label in labels.labels:
        q = _query(model, tokenizer, label.positive)
        rows.append(q - _query(model, tokenizer, label.negative) if label.negative else q)
    return torch.stack(rows)


def _query(model: DualEncoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> Tensor:
    """eq. 3: unit-norm prompt embeddings, averaged, renormalised. One by one: no padding."""
    each = [embed_prompts(model.words, tokenizer, [prompt])[0] for prompt in prompts]
    return unit_norm(torch.stack(each).mean(0)).cpu()


def pooled(patch_z: Tensor, pool: Pool) -> Tensor:
    """Scores of patches [N, P, L] → [N, L]: their soft maximum, τ · log mean exp(z / τ), which is
    the mean for τ → ∞ and the maximum for τ → 0; or the mean of the k highest, k ≤ P."""
    if isinstance(pool, TopK):
        k = pool.k if patch_z.shape[1] > 1 else 1  # of one patch its own score
        return patch_z.topk(k, dim=1).values.mean(1)
    top = patch_z.amax(1, keepdim=True)
    rest = ((patch_z - top) / pool.temperature).exp().mean(1)
    return top.squeeze(1) + pool.temperature * rest.log()


@torch.no_grad()
def encode_images(
    model: DualEncoder, pixels: NDArray[np.uint8], batch: int = 64
) -> tuple[Tensor, Tensor]:
    """uint8 [N, H, W] → image_e [N, D], patch_e [N, g, g, D] on the CPU, in eval mode."""
    was_training = model.training
    model.eval()
    device = model.logit_scale.device
    parts = [
        model.encode_image(torch.from_numpy(np.ascontiguousarray(pixels[i : i + batch])).to(device))
        for i in range(0, len(pixels), batch)
    ]
    model.train(was_training)
    return torch.cat([p[0] for p in parts]).cpu(), torch.cat([p[1] for p in parts]).cpu()


def zero_shot_auc(
    model: DualEncoder,
    tokenizer: Tokenizer,
    pixels: NDArray[np.uint8],
    truth: dict[str, NDArray[np.float32]],
    labels: LabelSet,
) -> dict[str, float]:
    """AUC per label id; truth has 1, 0 or NaN (masked) per image. One-class labels are left out."""
    if not len(pixels) or not labels.labels:
        return {}
    image_e, _ = encode_images(model, pixels)
    was_training = model.training
    model.eval()
    table = query_table(model, tokenizer, labels)
    model.train(was_training)
    return label_areas(image_e, table, truth, labels)


def label_areas(
    image_e: Tensor, table: Tensor, truth: dict[str, NDArray[np.float32]], labels: LabelSet
) -> dict[str, float]:
    """image_e [N, D], table [L, D] → AUC per label id; one-class labels are left out."""
    scores = (image_e @ table.T).numpy()  # [N, L], eq. 4
    areas = {}
    for column, label in enumerate(labels.labels):
        y = truth[label.id]
        known = ~np.isnan(y)
        area = roc_auc(y[known], scores[known, column])
        if not np.isnan(area):
            areas[label.id] = area
    return areas
