"""What can't be scored at all: sentences that a text tower can't read, directions that say nothing.

All errors of a set are collected, so that who writes it mends them in one go. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError
from tier_infer.label_sets import LabelSet

EQUAL = 1e-6  # components of two directions that differ by less are rounding
SHOWN = 60  # characters of a prompt that a message repeats
BLOCK = 256  # rows of a table held against all others at once; bounds memory


class Reads(Protocol):
    """What a tokenizer must tell, PyTorch's or an exported one."""

    max_tokens: int

    def uncut(self, sentence: str) -> list[int]: ...

    def can_read(self, sentence: str) -> bool: ...


def refuse(errors: Sequence[str]) -> None:
    """UsageError for the first of them, if any, that says how many there are."""
    if errors:
        more = f" (1 of {len(errors)} errors; `tier-export labels --check` lists all)"
        raise UsageError(errors[0] + more * (len(errors) > 1))


def unreadable(labels: LabelSet, readers: Sequence[Reads]) -> dict[str, str]:
    """Sentence → what is wrong with it, once however many labels ask it. A prompt that the text
    tower can't read would still get an embedding, of nothing."""
    asked: dict[str, str] = {}
    for label in labels.labels:
        for sentence in (*label.positive, *label.negative):
            asked.setdefault(sentence, label.id)
    wrong: dict[str, str] = {}
    for reader in readers:
        for sentence, label_id in asked.items():
            reason = "" if sentence in wrong else _unreadable(sentence, reader)
            if reason:
                wrong[sentence] = f"label {label_id}: {reason}"
    return wrong


def _unreadable(sentence: str, reader: Reads) -> str:
    shown = repr(sentence if len(sentence) <= SHOWN else sentence[: SHOWN - 1] + "…")
    if not reader.can_read(sentence):
        return (
            f"the vocabulary has no letters for part of {shown}, or a part of it is a sign that "
            "means something else to it; write plain words in the language of the training text"
        )
    count = len(reader.uncut(sentence))
    if count > reader.max_tokens:
        return f"{shown} has {count} tokens, allowed {reader.max_tokens}; make two sentences of it"
    return ""


def direction_errors(table: NDArray[np.float32], labels: LabelSet) -> list[str]:
    """q⁺ − q⁻ of zero scores every image 0; two equal rows are one label under two names.

    Of labels that are all equal each is named once, with the first.
    """
    names = [label.id for label in labels.labels]
    told = np.abs(table).max(1) < EQUAL
    errors = [
        f"label {names[place]}: its positive and negative sentences mean the same"
        for place in np.flatnonzero(told)
    ]
    exact = table.astype(np.float64)  # so that the difference of squares is a distance
    squares = (exact * exact).sum(1)
    for start in range(0, len(exact), BLOCK):
        rows, rest = slice(start, start + BLOCK), slice(start, None)
        apart = squares[rows, None] + squares[rest] - 2 * exact[rows] @ exact[rest].T
        near = apart <= table.shape[1] * EQUAL**2
        for i in range(start, start + len(near)):
            later = start + np.flatnonzero(near[i - start])
            later = later[(later > i) & ~told[later] & ~told[i]]
            same = later[np.abs(exact[later] - exact[i]).max(1) < EQUAL]
            told[same] = True
            errors += [f"labels {names[i]} and {names[j]} have the same sentences" for j in same]
    return errors
