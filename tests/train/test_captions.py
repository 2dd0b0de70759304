"""python -m pytest tests/train/test_captions.py -- captions say only what the labels say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tier_train.data.captions import NORMAL, caption
from tier_train.data.manifest import Row

NAMES = ("edema", "Pleural Effusion", "cardiomegaly", "nodule", "hernia")
DENIED = re.compile(r"^(No|There is no|No evidence of) | is not seen\.$")


def _sentences(text: str) -> list[str]:
    return re.findall(r"\S[^.]*\.", text)


def _named(sentence: str) -> list[str]:
    return [name for name in NAMES if name.lower() in sentence.lower()]


def _draw(rng: np.random.Generator) -> dict[str, int]:
    """Every label 1, 0 or unknown; `no finding` only where nothing is positive."""
    draws = rng.integers(-1, 2, len(NAMES))
    labels = {name: int(v) for name, v in zip(NAMES, draws, strict=True) if v >= 0}
    if 1 not in labels.values() and rng.random() < 0.5:
        labels["no finding"] = 1
    return labels


def test_a_caption_says_what_the_labels_say_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        labels = _draw(rng)
        text = caption(labels, rng)
        assert "{" not in text
        affirmed, denied = set(), set()
        for sentence in _sentences(text):
            if sentence in NORMAL:
                assert labels.get("no finding") == 1, (labels, text)
                continue
            (name,) = _named(sentence)
            (denied if DENIED.search(sentence) else affirmed).add(name)
        assert affirmed == {n for n in NAMES if labels.get(n) == 1}, (labels, text)
        assert denied <= {n for n in NAMES if labels.get(n) == 0}, (labels, text)
        assert bool(text) == bool(labels), (labels, text)
        if labels.get("no finding") == 1:
            assert any(sentence in NORMAL for sentence in _sentences(text))


def test_nothing_known_gives_no_words() -> None:
    assert caption({}, np.random.default_rng(0)) == ""


@pytest.mark.parametrize("column", ["no finding", "No Finding", "no_finding", "NO FINDING"])
def test_no_finding_is_known_however_it_is_spelled(column: str) -> None:
    for draw in range(30):
        text = caption({column: 1, "edema": 0}, np.random.default_rng(draw))
        assert not re.search("no.finding", text, re.IGNORECASE), text
        assert any(sentence in NORMAL for sentence in _sentences(text))


def test_the_caption_of_a_row_depends_on_seed_row_and_epoch_alone() -> None:
    labels = {"edema": 1, "nodule": 1, "hernia": 0, "cardiomegaly": 0}
    row = Row("a.png", "train", "", labels, 7)
    first = [row.caption(0, epoch) for epoch in range(20)]
    np.random.default_rng(1).random()
    assert first == [Row("b.png", "val", "", labels, 7).caption(0, e) for e in range(20)]
    assert len(set(first)) > 10
    assert first != [row.caption(1, epoch) for epoch in range(20)]
    assert first != [Row("a.png", "train", "", labels, 8).caption(0, e) for e in range(20)]


def test_a_report_is_never_replaced() -> None:
    row = Row("a.png", "train", "Edema.", {"edema": 0}, 2)
    assert {row.caption(0, epoch) for epoch in range(5)} == {"Edema."}
