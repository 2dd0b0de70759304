"""The dual encoder: two towers and a temperature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tier_infer.geometry import GEOMETRIES
from tier_train.image_encoder import ImageEncoder, normalise
from tier_train.recipe import Recipe
from tier_train.text_encoder import TextEncoder, build_bert


class DualEncoder(nn.Module):
    """`image` and `words` are the towers; `checkpoint` stores their keys without these prefixes."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, vocab_size: int) -> None:
        super().__init__()
        self.image = ImageEncoder(recipe.arch, recipe.embed_dim, recipe.global_pool)
        bert = build_bert(
            vocab_size,
            recipe.text_width,
            recipe.text_layers,
            recipe.text_heads,
            recipe.text_dropout,
        )
        self.words = TextEncoder(bert, recipe.text_width, recipe.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(recipe.logit_scale_init))
        geometry = GEOMETRIES[recipe.geometry]
        self.register_buffer("mean", torch.tensor(geometry.mean), persistent=False)
        self.register_buffer("std", torch.tensor(geometry.std), persistent=False)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels: uint8 or float [N, H, W], 0..255 → image_e [N, D], patch_e [N, 7, 7, D]."""
        x = normalise(pixels, self.mean, self.std)
        image_e, patch_e = self.image(x.contiguous(memory_format=torch.channels_last))
        return image_e, patch_e

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 [N, T] → token_e [N, T, D]; text_e is token 0."""
        token_e: Tensor = self.words(ids, mask)
        return token_e
