"""Captions for rows that have labels but no report text. Templates, documented here in full.

    every label that is 1        one of POSITIVE
    `no finding` is 1            one of NORMAL
    a label that is 0            with probability 0.3, one of NEGATIVE
    nothing is 1                 the row has only its negatives (at least one)

Wording and order are drawn anew in every epoch, so that the network can't learn a row by its words.
Empty cells say nothing: neither presence nor absence is written.
"""

from __future__ import annotations

import numpy as np

from tier_infer.label_sets import column_id

POSITIVE = (
    "{} is present.",
    "There is {}.",
    "{} is seen.",
    "Findings consistent with {}.",
    "Evidence of {}.",
    "Radiographic signs of {}.",
)
NORMAL = (
    "No acute cardiopulmonary process.",
    "The lungs are clear.",
    "Normal chest radiograph.",
    "No radiographic abnormality.",
    "The chest is normal, no abnormality is seen.",
)
NEGATIVE = ("No {}.", "There is no {}.", "No evidence of {}.", "{} is not seen.")
SAY_ABSENT = 0.3


def caption(labels: dict[str, int], rng: np.random.Generator) -> str:
    """labels: name → 1 or 0, names as the manifest's columns; '' when all is empty."""
    findings = {n: v for n, v in labels.items() if column_id(n) != "no_finding"}
    absent = [n for n, value in findings.items() if value == 0]
    sentences = [_fill(POSITIVE, n, rng) for n, value in findings.items() if value == 1]
    if any(value == 1 for n, value in labels.items() if n not in findings):
        sentences.append(_fill(NORMAL, "", rng))
    said = [_fill(NEGATIVE, n, rng) for n in absent if rng.random() < SAY_ABSENT]
    if not sentences and not said and absent:
        said = [_fill(NEGATIVE, absent[int(rng.integers(len(absent)))], rng)]
    sentences += said
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))


def _fill(templates: tuple[str, ...], name: str, rng: np.random.Generator) -> str:
    text = templates[int(rng.integers(len(templates)))].format(name)
    return text[:1].upper() + text[1:]
