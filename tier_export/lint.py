"""What is odd about a label set, though it can be scored: told before anybody trusts the scores.

Refused are sentences that ask nothing (`queries.check_prompts`, `check_directions`); the findings
here are warnings. Needs no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tier_export.queries import BLOCK, Reads, check_directions, check_prompts
from tier_infer.label_sets import Label, LabelSet, normal_id

# Cosine from which two directions count as one. In six networks trained on phantoms (AUC 0.87 to
# 0.89) the scores of two packaged labels ranked 100 images alike, Spearman's rho 0.995 and more as
# the INT8 gate has it, for 64 % of the pairs above 0.98, 29 % from 0.95 on, 4 % from 0.9 on.
SAME = 0.98
# The same cosine of q⁺ and q⁻ leaves this length of q⁺ − q⁻, which |Z| can't exceed. There the
# findings of the paper have 0.45 to 1.08; words that no training caption holds, 0.05 to 0.2.
SHORT = (2 - 2 * SAME) ** 0.5
TOLD = 20  # findings that are shown
WORD = re.compile(r"[^\W\d_]{3,}")
ABSENT = re.compile(
    r"\b(no|not|none|never|without|absent|absence|negative|free|clear|normal|unremarkable|resolved"
    r"|kein|keine|nicht|ohne|sin|ningún|ninguna|sans|pas|aucun|aucune)\b"
)


@dataclass(frozen=True)
class Finding:
    kind: str  # near, weak, word, opposite, twice, name
    labels: tuple[str, ...]  # ids
    message: str  # one line


def check_set(labels: LabelSet, table: NDArray[np.float32], readers: Sequence[Reads]) -> list[str]:
    """table: float32 [L, D], q⁺ − q⁻ of every label; `readers` the tokenizers of its text towers.
    Raises UsageError for what asks nothing; returns the warnings, the weightiest first."""
    for reader in readers:
        check_prompts(reader, labels)
    check_directions(table, labels)
    return [finding.message for finding in lint(labels, table, readers)]


def told(warnings: Sequence[str]) -> list[str]:
    """For the screen: the first 20, and how many there are."""
    more = len(warnings) - TOLD
    return [*warnings[:TOLD], *([f"and {more} more of {len(warnings)} warnings"] * (more > 0))]


def lint(labels: LabelSet, table: NDArray[np.float32], readers: Sequence[Reads]) -> list[Finding]:
    return [
        *_near(labels, table),
        *_weak(labels, table),
        *_opposites(labels.labels),
        *_unknown_words(labels.labels, readers),
        *_twice(labels.labels),
        *_shared_names(labels.labels),
    ]


def _near(labels: LabelSet, table: NDArray[np.float32]) -> list[Finding]:
    """Each label that has one with it, and its nearest; the closest pairs first."""
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    pairs: dict[tuple[int, int], float] = {}
    for start in range(0, len(unit), BLOCK):
        cosine = unit[start : start + BLOCK] @ unit.T  # [B, L]
        rows = np.arange(len(cosine))
        cosine[rows, rows + start] = -1
        nearest = cosine.argmax(1)
        for row in np.flatnonzero(cosine[rows, nearest] >= SAME):
            one, two = sorted((int(row) + start, int(nearest[row])))
            pairs[one, two] = float(cosine[row, nearest[row]])
    found = []
    for (one, two), cosine_ in sorted(pairs.items(), key=lambda pair: -pair[1]):
        a, b = labels.labels[one].id, labels.labels[two].id
        message = f"labels {a} and {b} ask nearly the same: cosine {cosine_:.3f}"
        found.append(Finding("near", (a, b), message))
    return found


def _weak(labels: LabelSet, table: NDArray[np.float32]) -> Iterator[Finding]:
    lengths = np.linalg.norm(table, axis=1)
    for place in np.argsort(lengths, kind="stable"):
        if lengths[place] > SHORT:
            return
        label = labels.labels[place].id
        yield Finding(
            "weak",
            (label,),
            f"label {label}: its positive and negative sentences mean nearly the same, "
            f"|Z| is at most {lengths[place]:.3f}",
        )


def _opposites(labels: Sequence[Label]) -> Iterator[Finding]:
    """A negative sentence that denies nothing, and affirms another label."""
    affirmed = {_plain(s): (label.id, s) for label in labels for s in label.positive}
    against: dict[str, list[str]] = {}
    for label in labels:
        for key in {_plain(sentence) for sentence in label.negative}:
            other, _ = affirmed.get(key, (label.id, ""))
            if other != label.id and not ABSENT.search(key):
                against.setdefault(key, []).append(label.id)
    for key, ids in against.items():
        other, sentence = affirmed[key]
        shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        yield Finding(
            "opposite",
            (other, *ids),
            f"{sentence!r} is for {other} and against {shown}, though it denies nothing",
        )


def _unknown_words(labels: Sequence[Label], readers: Sequence[Reads]) -> Iterator[Finding]:
    """A word in pieces of less than two letters: training has not shown it to the text tower."""
    where: dict[str, list[str]] = {}
    for label in labels:
        sentences = " ".join(dict.fromkeys((*label.positive, *label.negative)))
        for word in dict.fromkeys(WORD.findall(sentences.lower())):
            where.setdefault(word, []).append(label.id)
    around = [len(reader.uncut("")) for reader in readers]
    for word, ids in where.items():
        counts = (len(r.uncut(word)) - n for r, n in zip(readers, around, strict=True))
        pieces = max(counts, default=0)
        if pieces >= 3 and len(word) < 2 * pieces:
            more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
            message = (
                f"the vocabulary does not know {word!r} ({ids[0]}{more}): it falls apart into "
                f"{pieces} pieces"
            )
            yield Finding("word", tuple(ids), message)


def _twice(labels: Sequence[Label]) -> Iterator[Finding]:
    for label in labels:
        for side in (label.positive, label.negative):
            often = [(s, n) for s, n in Counter(map(_plain, side)).items() if n > 1]
            if often:
                sentence, count = often[0]
                more = f", and {len(often) - 1} more likewise" if len(often) > 1 else ""
                message = f"label {label.id}: {sentence!r} stands {count} times and weighs so{more}"
                yield Finding("twice", (label.id,), message)


def _shared_names(labels: Sequence[Label]) -> Iterator[Finding]:
    called: dict[str, dict[str, str]] = {}  # normal form → id → name as written
    for label in labels:
        for name in (label.name, *label.names.values()):
            called.setdefault(normal_id(name), {})[label.id] = name
    for ids in called.values():
        if len(ids) > 1:
            name, shown = next(iter(ids.values())), ", ".join(ids)
            message = f"{name!r} is a name of {shown}: they can be asked for by id only"
            yield Finding("name", tuple(ids), message)


def _plain(sentence: str) -> str:
    return " ".join(sentence.casefold().split())
