"""CLIP's text tower and its byte-pair tokenizer: CheXzero's words.

Keys: `text.*` as in CLIP's files (token_embedding, positional_embedding, transformer, ln_final),
`text_head.weight` its text_projection, transposed into a linear layer.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tier_train.towers.image_encoder import unit_norm
from tier_train.towers.text_encoder import TextTower
from tier_train.towers.vit import Transformer

BYTES = 256  # each is a piece, alone and at the end of a word
START, END = "<|startoftext|>", "<|endoftext|>"
# What CLIP's own cleaning makes of typography: U+02BC, U+2018-201B, U+201C-201F, U+FB00-FB04.
PLAIN = str.maketrans(
    dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    | {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl"}
)


def clip_letters() -> list[str]:
    """The first 512 pieces: every byte as a printable letter, then each at the end of a word."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    return [*letters, *(letter + "</w>" for letter in letters)]


class ClipText(nn.Module):
    """ids int64 [N, T] → [N, T, width], after the last LayerNorm; a token sees those before it."""

    def __init__(self, vocab_size: int, width: int, layers: int, heads: int, places: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(places, width))
        self.transformer = Transformer(width, layers, heads, causal=True)
        self.ln_final = nn.LayerNorm(width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        out: Tensor = self.ln_final(self.transformer(x))
        return out


class ClipTextEncoder(TextTower):
    def __init__(
        self, vocab_size: int, width: int, layers: int, heads: int, max_tokens: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.text = ClipText(vocab_size, width, layers, heads, max_tokens)
        self.text_head = nn.Linear(width, embed_dim, bias=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 [N, T], mask 1 for a token and 0 for padding → token_e [N, T, D].

        Padding comes last, so no token that counts sees it and the mask is not needed.
        """
        return unit_norm(self.text_head(self.text(ids)))

    def sentence_e(self, ids: Tensor, mask: Tensor) -> Tensor:
        """text_e [N, D], unit norm: the embedding of the end token, the last one that counts."""
        last = mask.sum(-1) - 1
        hidden = self.text(ids)[torch.arange(len(ids), device=ids.device), last]  # [N, width]
        return unit_norm(self.text_head(hidden))


class ClipTokenizer:
    """CLIP's lower-casing byte-pair encoding over stored merges, one string "a b" for each."""

    def __init__(self, merges: list[str], max_tokens: int = 77) -> None:
        from transformers import CLIPTokenizer

        self.merges = merges
        self.max_tokens = max_tokens
        pieces = [*clip_letters(), *(merge.replace(" ", "") for merge in merges), START, END]
        table = {piece: index for index, piece in enumerate(pieces)}
        pairs: Any = [tuple(merge.split(" ")) for merge in merges]
        self._clip = CLIPTokenizer(vocab=table, merges=pairs)

    @property
    def vocab_size(self) -> int:
        return 2 * BYTES + len(self.merges) + 2

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer` that does the work, for a tokenizer.json."""
        return self._clip.backend_tokenizer

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids and mask, int64 [N, T]: start, words, end, truncated at max_tokens, then padding."""
        rows = [self.uncut(sentence) for sentence in sentences]
        rows = [[*row[: self.max_tokens - 1], row[-1]] if len(row) > self.max_tokens else row
                for row in rows]  # fmt: skip
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # CLIP pads with 0
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return ids, mask

    def uncut(self, sentence: str) -> list[int]:
        """All ids of one sentence, however long."""
        clean = html.unescape(html.unescape(sentence)).translate(PLAIN)
        ids: list[int] = self._clip(clean)["input_ids"]
        return ids

    def can_read(self, sentence: str) -> bool:
        """Bytes are never unknown; the names of the two special tokens are no words."""
        words = self.uncut(sentence)[1:-1]
        return bool(words) and not {self.vocab_size - 2, self.vocab_size - 1} & set(words)

    def state(self) -> dict[str, object]:
        return {"kind": "clip", "merges": self.merges, "max_tokens": self.max_tokens}
