"""python -m pytest tests/export/test_lint.py -- what is odd about a label set is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tier_export.lint import Finding, check_set, lint, told
from tier_infer.errors import UsageError
from tier_infer.label_sets import LabelSet, parse_label_set

Table = NDArray[np.float32]
KNOWN = ["[UNK]", "edema", "cardio", "##megaly", "is", "present", "no", ".", "e", "n", "t"]
LETTERS = [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


class Reader:
    """A tokenizer of the library itself."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int = 128) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def uncut(self, sentence: str) -> list[int]:
        return list(self.tokenizer.encode(sentence).ids)

    def can_read(self, sentence: str) -> bool:
        return self.tokenizer.token_to_id("[UNK]") not in self.uncut(sentence)


def wordpiece() -> Reader:
    vocabulary = {piece: n for n, piece in enumerate([*KNOWN, *LETTERS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Reader(tokenizer)


def byte_pairs() -> Reader:
    """CLIP's kind: what is not in the vocabulary falls into bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: n for n, piece in enumerate([*alphabet, "ed", "em", "edem", "edema"])}
    merges = [("e", "d"), ("e", "m"), ("ed", "em"), ("edem", "a")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return Reader(tokenizer)


def labels(*rows: dict[str, Any]) -> LabelSet:
    named = [{"id": f"label_{n}", "positive": [f"{n}."]} | row for n, row in enumerate(rows)]
    return parse_label_set({"set": "s", "label": named}, "test")


def apart(count: int) -> Table:
    """Directions that have nothing in common."""
    return np.eye(count, dtype=np.float32)


def told_of(asked: LabelSet, kind: str, *readers: Reader) -> list[Finding]:
    """The findings about the words of `asked`; its directions are beyond doubt."""
    found = lint(asked, apart(len(asked.labels)), readers)
    assert {finding.kind for finding in found} <= {kind}
    return found


def at_cosine(cosine: float) -> list[float]:
    return [cosine, (1 - cosine**2) ** 0.5, 0]


def test_two_labels_of_nearly_one_direction_the_closest_first() -> None:
    asked = labels({"id": "a"}, {"id": "b"}, {"id": "c"}, {"id": "d"})
    a, far = [2, 0, 0], [0.0, 0, 1]
    found = lint(asked, np.array([a, at_cosine(0.985), far, at_cosine(0.97)], np.float32), ())
    assert [f.labels for f in found if f.kind == "near"] == [("b", "d"), ("a", "b")]
    assert "cosine 0.997" in found[0].message  # b and d: 0.985 * 0.97 + 0.1726 * 0.2431
    assert "cosine 0.985" in found[1].message


def test_labels_far_apart_in_a_long_table_are_compared() -> None:
    asked = labels(*[{} for _ in range(600)])
    table = np.random.default_rng(0).standard_normal((600, 64)).astype(np.float32)
    assert not [f for f in lint(asked, table, ()) if f.kind == "near"]
    table[590] = table[3] * 0.5 + 1e-3
    (found,) = (f for f in lint(asked, table, ()) if f.kind == "near")
    assert found.labels == ("label_3", "label_590")
    table[590] = table[3]
    with pytest.raises(UsageError, match="label_3 and label_590 have the same sentences"):
        check_set(asked, table, ())


def test_a_positive_that_nearly_equals_its_negative_the_weakest_first() -> None:
    asked = labels({}, {}, {})
    found = lint(asked, apart(3) * np.float32([[0.19], [0.21], [0.05]]), ())
    assert [f.labels for f in found] == [("label_2",), ("label_0",)]
    assert {f.kind for f in found} == {"weak"}
    assert "|Z| is at most 0.050" in found[0].message


def test_a_negative_that_affirms_another_label() -> None:
    wet = {"id": "wet", "positive": ["Edema is present."], "negative": ["No edema."]}
    big = {"id": "big", "positive": ["Big."], "negative": ["edema is  present."]}
    more = {"id": "more", "positive": ["More."], "negative": ["Edema is present."]}
    (found,) = told_of(labels(wet, big, more), "opposite")
    assert found.labels == ("wet", "big", "more")
    assert "'Edema is present.' is for wet and against big, more" in found.message


def test_a_denial_that_another_label_asserts_is_what_no_finding_is_made_of() -> None:
    none = {"id": "none", "positive": ["The lungs are clear.", "No edema."]}
    wet = {"id": "wet", "positive": ["Wet."], "negative": ["The lungs are clear.", "No edema."]}
    assert not told_of(labels(none, wet), "opposite")


@pytest.mark.parametrize(
    ("reader", "word", "pieces"),
    [
        (wordpiece, "entrapment", 10),  # e ##n ##t …: one letter each
        (wordpiece, "cardiomegaly", 0),  # cardio ##megaly
        (wordpiece, "edema", 0),
        (byte_pairs, "größe", 7),  # ö and ß are two bytes each
        (byte_pairs, "edema", 0),
    ],
)
def test_a_word_that_falls_apart_is_unknown(reader: Any, word: str, pieces: int) -> None:
    asked = labels({"positive": [f"{word} is no t."]}, {"positive": ["e"], "negative": [word]})
    found = [f for f in told_of(asked, "word", reader()) if word in f.message]
    assert len(found) == (pieces > 0)
    if pieces:
        assert found[0].labels == ("label_0", "label_1")
        assert f"{word!r} (label_0 and 1 more): it falls apart into {pieces} pieces" in (
            found[0].message
        )


def test_a_sentence_that_stands_twice() -> None:
    asked = labels(
        {"positive": ["A b.", "a  B.", "C."]}, {"positive": ["A b."], "negative": ["No c."]}
    )
    (found,) = told_of(asked, "twice")
    assert found.labels == ("label_0",)
    assert "'a b.' stands 2 times" in found.message


def test_one_name_for_two_labels_in_whatever_language() -> None:
    asked = labels({"name": "Opacity"}, {"name": "Shadow", "names": {"de": "OPACITY"}})
    (found,) = told_of(asked, "name")
    assert found.labels == ("label_0", "label_1")
    assert "by id only" in found.message


def test_a_sound_set_is_silent() -> None:
    asked = labels(
        {"name": "Edema", "names": {"es": "Edema"}, "positive": ["Edema is present."]},
        {"positive": ["Cardiomegaly is present."], "negative": ["No cardiomegaly."]},
    )
    assert check_set(asked, apart(2), [wordpiece()]) == []


@pytest.mark.parametrize(
    ("positive", "table", "words"),
    [
        ("Отёк.", apart(2), "no letters"),
        ("edema " * 200, apart(2), "has 200 tokens, longer than 128"),
        ("edema", np.float32([[0, 0], [1, 0]]), "label_0: its positive and negative .* the same"),
        ("edema", np.float32([[1, 2], [1, 2]]), "label_0 and label_1 have the same"),
    ],
)
def test_what_asks_nothing_is_refused(positive: str, table: Table, words: str) -> None:
    asked = labels({"positive": [positive]}, {"positive": ["no."]})
    with pytest.raises(UsageError, match=words):
        check_set(asked, table, [wordpiece()])


def test_twenty_are_told_and_the_rest_counted() -> None:
    warnings = [str(n) for n in range(23)]
    assert told(warnings) == [*warnings[:20], "and 3 more of 23 warnings"]
    assert told(warnings[:20]) == warnings[:20]
