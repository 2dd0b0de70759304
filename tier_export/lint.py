"""What is odd about a label set, though it can be scored: told before anybody trusts the scores.

What asks nothing is refused (see `refusals`); the findings here are warnings. Needs no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tier_export.refusals import BLOCK, Reads, direction_errors, refuse, unreadable
from tier_infer.label_sets import FOLDER, Label, LabelSet, load_label_set, normal_id
from tier_infer.pooling import kind_of
from tier_infer.sentences import SHORT, unknown_words, words_of

# Cosine from which two directions count as one. In six networks trained on phantoms (AUC 0.87 to
# 0.89) the scores of two packaged labels ranked 100 images alike, Spearman's rho 0.995 and more as
# the INT8 gate has it, for 64 % of the pairs above 0.98, 29 % from 0.95 on, 4 % from 0.9 on.
SAME = 0.98
TOLD = 20  # findings that are shown of a set
NAMED = 5  # labels that a finding names at most
DENIAL = "no|not|without|kein|keine|nicht|ohne|sin|ningún|ninguna|sans|pas|aucun|aucune"
DENIES = re.compile(rf"\b({DENIAL})\b")
ABSENT = re.compile(
    rf"\b({DENIAL}|none|never|absent|absence|negative|free|clear|normal|unremarkable|resolved)\b"
)


@dataclass(frozen=True)
class Finding:
    kind: str  # swapped, opposite, shared, alone, words, near, weak, twice, name
    labels: tuple[str, ...]  # ids, all of them
    message: str  # one line
    words: tuple[str, ...] = ()  # that the vocabulary does not know, all of them


def check_set(labels: LabelSet, table: NDArray[np.float32], readers: Sequence[Reads]) -> list[str]:
    """table: float32 [L, D], q⁺ − q⁻ of every label; `readers` the tokenizers of its text towers.
    Raises UsageError for what asks nothing; returns the warnings, the weightiest first."""
    refuse([*unreadable(labels, readers).values(), *direction_errors(table, labels)])
    return [finding.message for finding in lint(labels, table, readers)]


def told(lines: Sequence[str], what: str = "warnings") -> list[str]:
    """For the screen: the first 20, and how many there are."""
    more = len(lines) - TOLD
    return [*lines[:TOLD], *([f"and {more} more of {len(lines)} {what}"] * (more > 0))]


def lint(labels: LabelSet, table: NDArray[np.float32], readers: Sequence[Reads]) -> list[Finding]:
    """The weightiest first, and what is one line per set before what may be one per label."""
    words, foreign = _unknown_words(labels.labels, readers)
    protocol = _packaged(labels)  # somebody's, to be kept as it is
    return [
        *(words if foreign else ()),
        *_swapped(labels.labels),
        *_opposites(labels.labels),
        *_shared(labels.labels),
        *(() if protocol else _alone(labels.labels)),
        *(() if foreign else words),
        *_near(labels, table),
        *_weak(labels, table),
        *(() if protocol else _twice(labels.labels)),
        *_shared_names(labels.labels),
    ]


def _swapped(labels: Sequence[Label]) -> Iterator[Finding]:
    """A label that asks for an absence, such as no_finding, is called so."""
    for label in labels:
        called = (label.id.replace("_", " "), *label.names.values())
        if any(ABSENT.search(_plain(name)) for name in called):
            continue
        positive, negative = ([_plain(s) for s in x] for x in (label.positive, label.negative))
        denied = next(
            (s for s, x in zip(label.positive, positive, strict=True) if DENIES.search(x)), None
        )
        affirmed = bool(negative) and not any(map(ABSENT.search, negative))
        if denied and affirmed and all(map(ABSENT.search, positive)):
            yield Finding(
                "swapped",
                (label.id,),
                f"label {label.id}: its positive {denied!r} denies, its negative "
                f"{label.negative[0]!r} does not: are they swapped?",
            )


def _shared(labels: Sequence[Label]) -> Iterator[Finding]:
    """The same sentence for two labels; one line per group of labels."""
    asked: dict[str, dict[str, str]] = {}  # normal form → id → sentence as written
    for label in labels:
        for sentence in label.positive:
            asked.setdefault(_plain(sentence), {})[label.id] = sentence
    groups: dict[tuple[str, ...], list[str]] = {}
    for by_label in asked.values():
        if len(by_label) > 1:
            groups.setdefault(tuple(by_label), []).append(next(iter(by_label.values())))
    for ids, sentences in groups.items():
        more = f", and {len(sentences) - 1} more likewise" if len(sentences) > 1 else ""
        message = f"{sentences[0]!r} is positive for {len(ids)} labels: {_listed(ids)}{more}"
        yield Finding("shared", ids, message)


def _alone(labels: Sequence[Label]) -> Iterator[Finding]:
    """Without q⁻ a score has another scale."""
    ids = tuple(label.id for label in labels if not label.negative)
    if not ids:
        return
    one = len(ids) == 1
    yield Finding(
        "alone",
        ids,
        f"label{'' if one else 's'} {_listed(ids)} {'has' if one else 'have'} no negative "
        f"sentence: {'its score is a plain cosine' if one else 'their scores are plain cosines'} "
        "in [-1, 1], not comparable with margins",
    )


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
        yield Finding(
            "opposite",
            (other, *ids),
            f"{sentence!r} is for {other} and against {_listed(ids)}, though it denies nothing",
        )


def _unknown_words(labels: Sequence[Label], readers: Sequence[Reads]) -> tuple[list[Finding], bool]:
    """Words in pieces of less than two letters, which training has not shown to the text tower, in
    one finding; and whether they are most words."""
    where: dict[str, list[str]] = {}
    for label in labels:
        sentences = " ".join(dict.fromkeys((*label.positive, *label.negative)))
        for word in words_of(sentences):
            where.setdefault(word, []).append(label.id)
    words = tuple(unknown_words(where, readers))
    if not words:
        return [], False
    foreign = 2 * len(words) > len(where)
    shown = ", ".join(words[:3]) + (", …" if len(words) > 3 else "")
    message = (
        f"{len(words)} of {len(where)} words {'is' if len(words) == 1 else 'are'} unknown to this "
        f"vocabulary ({shown})" + (": the set was not written for this model" * foreign)
    )
    ids = tuple(dict.fromkeys(label for word in words for label in where[word]))
    return [Finding("words", ids, message, words)], foreign


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
            name = next(iter(ids.values()))
            message = f"{name!r} is a name of {_listed([*ids])}: they can be asked for by id only"
            yield Finding("name", tuple(ids), message)


def _plain(sentence: str) -> str:
    return " ".join(sentence.casefold().split())


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more


def _packaged(labels: LabelSet) -> bool:
    """Whatever becomes of its scores."""
    name = labels.id.removesuffix(f"_{kind_of(labels.pool)}") if labels.pool else labels.id
    return (FOLDER / f"{name}.toml").is_file() and load_label_set(name).labels == labels.labels
