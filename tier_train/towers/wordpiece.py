"""BERT's WordPiece: a vocabulary learnt from the training text, or a published one."""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import BertTokenizer

ALPHABET = string.ascii_lowercase + string.digits + ".,;:-/()%'"
MIN_COUNT = 2  # words and pairs seen once teach nothing
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


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


class WordPiece:
    """BERT's tokenizer over a stored vocabulary; it travels in the checkpoint as strings."""

    def __init__(self, vocab: list[str], max_tokens: int, lower_case: bool = True) -> None:
        from transformers import BertTokenizer

        self.vocab = vocab
        self.max_tokens = max_tokens
        self.lower_case = lower_case
        table = {piece: index for index, piece in enumerate(vocab)}
        self._bert: BertTokenizer = BertTokenizer(vocab=table, do_lower_case=lower_case)

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer` that does the work, for a tokenizer.json."""
        return self._bert.backend_tokenizer

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

    def can_read(self, sentence: str) -> bool:
        """The names of special tokens, typed in a sentence, are no words."""
        special = {self.vocab.index(name) for name in SPECIAL}
        words = self.uncut(sentence)[1:-1]
        return bool(words) and not special & set(words)

    def state(self) -> dict[str, object]:
        return {
            "kind": "wordpiece",
            "vocab": self.vocab,
            "max_tokens": self.max_tokens,
            "lower_case": self.lower_case,
        }
