"""BERT and its projection: impressions → one unit-norm embedding per token, token 0 is [CLS].

Every token goes through the same head as [CLS] (TIER, section 2.2), so words and images meet in
one space. Keys follow CXR-BERT: `text.*` the BERT, `text_head.*` its cls_projection_head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tier_train.recipe import Recipe
from tier_train.towers.image_encoder import unit_norm


class Tokenizer(Protocol):
    """Sentences → ids; it travels in the checkpoint as plain values."""

    max_tokens: int

    @property
    def vocab_size(self) -> int: ...

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer` that does the work."""
        ...

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids and mask, int64 [N, T]; mask 1 for a token, 0 for padding."""
        ...

    def uncut(self, sentence: str) -> list[int]:
        """All ids of one sentence, however long."""
        ...

    def can_read(self, sentence: str) -> bool:
        """Whether every part of it has a piece in the vocabulary."""
        ...

    def state(self) -> dict[str, object]:
        """Plain values, `kind` among them, from which `tokenizer_from` makes it again."""
        ...


class ProjectionHead(nn.Module):
    """Linear, GELU, LayerNorm, Linear: CXR-BERT's head with its key names."""

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(width, embed_dim)
        self.LayerNorm = nn.LayerNorm(embed_dim, eps=1e-12)
        self.dense_to_output = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.dense_to_hidden(x))
        projected: Tensor = self.dense_to_output(self.LayerNorm(hidden))
        return projected


def build_bert(recipe: Recipe, vocab_size: int) -> nn.Module:
    """A BERT with random weights: the first call imports transformers, which takes seconds."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_heads,
        intermediate_size=recipe.text_inner or 4 * recipe.text_width,
        max_position_embeddings=512,
        hidden_dropout_prob=recipe.text_dropout,
        attention_probs_dropout_prob=recipe.text_dropout,
    )
    bert: nn.Module = BertModel(config, add_pooling_layer=False)
    return bert


class TextTower(nn.Module):
    """A text tower of any kind: token_e [N, T, D] by calling it, and text_e."""

    def sentence_e(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 [N, T] → text_e [N, D], unit norm."""
        raise NotImplementedError


class TextEncoder(TextTower):
    def __init__(self, recipe: Recipe, vocab_size: int) -> None:
        super().__init__()
        self.text = build_bert(recipe, vocab_size)
        self.text_head = ProjectionHead(recipe.text_width, recipe.embed_dim)
        self._freeze(recipe.text_frozen)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 [N, T], mask 1 for a token and 0 for padding → token_e [N, T, D]."""
        return self.project(self.text(input_ids=ids, attention_mask=mask).last_hidden_state)

    def project(self, hidden: Tensor) -> Tensor:
        """BERT's last hidden state [N, T, W] → token_e [N, T, D], unit norm."""
        return unit_norm(self.text_head(hidden))

    def sentence_e(self, ids: Tensor, mask: Tensor) -> Tensor:
        """text_e [N, D]: the [CLS] token."""
        token_e: Tensor = self(ids, mask)
        return token_e[:, 0]

    def _freeze(self, layers: int) -> None:
        """Embeddings and the first `layers` layers keep their weights; their dropout stays on."""
        if layers:
            encoder = self.text.get_submodule("encoder.layer")
            frozen = [self.text.get_submodule("embeddings"), *list(encoder.children())[:layers]]
            for module in frozen:
                module.requires_grad_(False)


def embed_prompts(encoder: TextTower, tokenizer: Tokenizer, prompts: Sequence[str]) -> Tensor:
    """float32 [K, D]: the embedding of each prompt, unit norm."""
    device = next(encoder.parameters()).device
    with torch.no_grad():
        ids, mask = tokenizer(prompts)
        return encoder.sentence_e(ids.to(device), mask.to(device))
