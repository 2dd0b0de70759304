"""CLIP's vision transformer as an image trunk (Radford et al. 2021, section 2.4), and its blocks.

Key names are those of CLIP's `visual.*` without the projection, so CheXzero's weights load by name.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

HEAD = 64  # width of one attention head in every CLIP transformer


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU; the exact one gives other embeddings."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Self-attention. One matrix holds queries, keys and values, as CLIP's files do."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        qkv = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)  # [N, T, 3 · width]
        heads = (self.heads, x.shape[-1] // self.heads)
        q, k, v = (
            torch.unflatten(part, -1, heads).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each after its LayerNorm and added to what came in."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        c_fc, c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=c_fc, gelu=QuickGELU(), c_proj=c_proj))
        self.ln_2 = nn.LayerNorm(width)
        added = (2 * width * layers) ** -0.5  # CLIP's start: their sum stays of order one
        for linear, std in (
            (self.attn.out_proj, added),
            (c_fc, (2 * width) ** -0.5),
            (c_proj, added),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """x [N, T, width] → the same; causal: a token sees itself and those before it."""

    def __init__(self, width: int, layers: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.resblocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, self.causal)
        return x


class ViTTrunk(nn.Module):
    """ViT-B/32 unless told otherwise: 224 px → one class token and a grid of 7 × 7 tokens."""

    def __init__(
        self, image: int = 224, patch: int = 32, width: int = 768, layers: int = 12
    ) -> None:
        super().__init__()
        self.channels = width
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        places = (image // patch) ** 2 + 1
        self.positional_embedding = nn.Parameter(scale * torch.randn(places, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, width // HEAD)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: float32 [N, 3, H, W] → class token [N, width], patch tokens [N, width, h, w].

        Both after the last LayerNorm. CLIP's loss sees the class token alone: without training of
        their own, patch tokens need not point where the image shows something.
        """
        cells = self.conv1(x)  # [N, width, h, w]
        n, width, h, w = cells.shape
        first = self.class_embedding.expand(n, 1, width)
        tokens = torch.cat([first, cells.flatten(2).transpose(1, 2)], dim=1)  # [N, 1 + h·w, width]
        tokens = self.transformer(self.ln_pre(tokens + self.positional_embedding))
        tokens = self.ln_post(tokens)
        return tokens[:, 0], tokens[:, 1:].transpose(1, 2).reshape(n, width, h, w)
