"""BERT and its projection: impressions → one unit-norm embedding per token, token 0 is [CLS].

Every token goes through the same head as [CLS] (TIER, section 2.2), so words and images meet in
one space. Keys follow CXR-BERT: `text.*` the BERT, `text_head.*` its cls_projection_head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tier_train.image_encoder import unit_norm

if TYPE_CHECKING:
    from transformers import BertTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


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


def build_bert(vocab_size: int, width: int, layers: int, heads: int, dropout: float) -> nn.Module:
    from transformers import BertConfig, BertModel  # 10 s to import: only when a network is built

    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=512,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    bert: nn.Module = BertModel(config, add_pooling_layer=False)
    return bert


class TextEncoder(nn.Module):
    def __init__(self, bert: nn.Module, width: int, embed_dim: int) -> None:
        super().__init__()
        self.text = bert
        self.text_head = ProjectionHead(width, embed_dim)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 [N, T], mask 1 for a token and 0 for padding → token_e [N, T, D]."""
        hidden = self.text(input_ids=ids, attention_mask=mask).last_hidden_state
        return unit_norm(self.text_head(hidden))


def train_vocabulary(sentences: Sequence[str], size: int) -> list[str]:
    """WordPiece pieces learnt from the training text, in index order; deterministic."""
    from tokenizers import BertWordPieceTokenizer

    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        sentences,
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    vocab = trainer.get_vocab()
    return sorted(vocab, key=lambda piece: vocab[piece])


class Tokenizer:
    """BERT WordPiece over a stored vocabulary; it travels in the checkpoint as strings."""

    def __init__(self, vocab: list[str], max_tokens: int, lower_case: bool = True) -> None:
        from transformers import BertTokenizer

        self.vocab = vocab
        self.max_tokens = max_tokens
        self.lower_case = lower_case
        table = {piece: index for index, piece in enumerate(vocab)}
        self._bert: BertTokenizer = BertTokenizer(vocab=table, do_lower_case=lower_case)

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids and mask, int64 [N, T]: [CLS] words [SEP], truncated at max_tokens, then padding."""
        out: Any = self._bert(
            list(sentences),
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return out["input_ids"], out["attention_mask"]


def embed_prompts(encoder: TextEncoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> Tensor:
    """float32 [K, D]: the [CLS] embedding of each prompt, unit norm, padding-independent order."""
    with torch.no_grad():
        ids, mask = tokenizer(prompts)
        cls: Tensor = encoder(ids, mask)[:, 0]
    return cls
