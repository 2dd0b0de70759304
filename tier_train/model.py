"""The dual encoder: two towers and a temperature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tier_infer.geometry import GEOMETRIES
from tier_train.recipe import Recipe
from tier_train.towers.image_encoder import ImageEncoder, normalise
from tier_train.towers.text_encoder import TextEncoder, TextTower, build_bert


class DualEncoder(nn.Module):
    """`image` and `words` are the towers; `checkpoint` stores their keys without these prefixes."""

    mean: Tensor
    std: Tensor
    resample: Tensor | None

    def __init__(self, recipe: Recipe, vocab_size: int) -> None:
        super().__init__()
        self.image = ImageEncoder(recipe)
        self.words = build_words(recipe, vocab_size)
        self.logit_scale = nn.Parameter(torch.tensor(recipe.logit_scale_init))
        geometry = GEOMETRIES[recipe.geometry]
        self.register_buffer("mean", torch.tensor(geometry.mean), persistent=False)
        self.register_buffer("std", torch.tensor(geometry.std), persistent=False)
        matrix = bicubic(geometry.crop, geometry.network) if geometry.network else None
        self.register_buffer("resample", matrix, persistent=False)

    def network_input(self, pixels: Tensor) -> Tensor:
        """uint8 or float [N, H, W], 0..255 → float32 [N, C, h, w], as the trunk sees it."""
        x = normalise(pixels, self.mean, self.std)
        if self.resample is not None:
            x = self.resample @ x @ self.resample.T
        return x

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels: uint8 or float [N, H, W], 0..255 → image_e [N, D], patch_e [N, g, g, D]."""
        x = self.network_input(pixels)
        image_e, patch_e = self.image(x.contiguous(memory_format=torch.channels_last))
        return image_e, patch_e

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 [N, T] → token_e [N, T, D]; text_e is token 0."""
        token_e: Tensor = self.words(ids, mask)
        return token_e


def build_words(recipe: Recipe, vocab_size: int) -> TextTower:
    """The text tower; only BERT gives an embedding per token and can be trained."""
    if recipe.text_arch == "clip":
        from tier_train.towers.clip_text import ClipTextEncoder

        return ClipTextEncoder(
            vocab_size,
            recipe.text_width,
            recipe.text_layers,
            recipe.text_heads,
            recipe.max_tokens,
            recipe.embed_dim,
        )
    if recipe.text_arch == "medclip":
        from tier_train.towers.medclip_text import MedClipTextEncoder

        return MedClipTextEncoder(
            build_bert(recipe, vocab_size), recipe.text_width, recipe.embed_dim
        )
    return TextEncoder(recipe, vocab_size)


def bicubic(size: int, target: int) -> Tensor:
    """float32 [target, size]: one axis of torch's bicubic resize without antialiasing, as a matrix.

    CheXzero resizes its tensors so. Two constant products export to plain MatMuls, exactly.
    """
    columns = torch.eye(size)[None, None]  # [1, 1, size, size], each column one impulse
    weights = nn.functional.interpolate(
        columns, size=(target, size), mode="bicubic", align_corners=False, antialias=False
    )
    return weights[0, 0]
