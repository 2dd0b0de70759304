"""BERT and its projection: impressions → one unit-norm embedding per token, token 0 is [CLS].

Every token goes through the same head as [CLS] (TIER, section 2.2), so words and images meet in
one space. Keys follow CXR-BERT: `text.*` the BERT, `text_head.*` its cls_projection_head.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tier_train.image_encoder import unit_norm

if TYPE_CHECKING:
    from transformers import BertTokenizer

ALPHABET = string.ascii_lowercase + string.digits + ".,;:-/()%'"
MIN_COUNT = 2  # words and pairs seen once teach nothing
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
    """WordPiece pieces learnt from the training text, in index order: the special tokens, the
    characters, then merged pieces. At most `size`, but never fewer than the characters.

    Byte-pair merging over word counts (Sennrich et al. 2016), ties broken by the alphabet. The
    tokenizers library trains the same, but with another vocabulary in every run.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    counts = Counter(
        word
        for sentence, times in Counter(sentences).items()
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(sentence)) * times
    )
    words = [
        (count, [c if i == 0 else f"##{c}" for i, c in enumerate(word)])
        for word, count in sorted(counts.items())
        if count >= MIN_COUNT
    ]
    seen = {piece for _, word in words for piece in word}
    basic = {form for c in ALPHABET for form in (c, f"##{c}")}  # so that every Latin prompt is read
    pieces = [*SPECIAL, *sorted(seen | basic)]
    while len(pieces) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for count, word in words:
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < MIN_COUNT:
            break
        merged = best[0] + best[1].removeprefix("##")
        words = [(count, _merge(word, best, merged)) for count, word in words]
        if merged not in pieces:
            pieces.append(merged)
    return pieces


def _merge(word: list[str], pair: tuple[str, str], merged: str) -> list[str]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] = merged
        else:
            out.append(piece)
    return out


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

    def uncut(self, sentence: str) -> list[int]:
        """All ids of one sentence, however long."""
        ids: list[int] = self._bert(sentence)["input_ids"]
        return ids


def embed_prompts(encoder: TextEncoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> Tensor:
    """float32 [K, D]: the [CLS] embedding of each prompt, unit norm, padding-independent order."""
    with torch.no_grad():
        ids, mask = tokenizer(prompts)
        cls: Tensor = encoder(ids, mask)[:, 0]
    return cls
