"""python -m pytest tests/export/test_lint.py -- what is odd about a label set is told."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tier_export.lint import Finding, check_set, lint, told
from tier_export.refusals import direction_errors, unreadable
from tier_infer.errors import UsageError
from tier_infer.label_sets import FOLDER, LabelSet, load_label_set, parse_label_set

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
    return parse_label_set({"set": "s", "negative": ["no."], "label": named}, "test")


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
    ("reader", "word", "unknown"),
    [
        (wordpiece, "entrapment", True),  # e ##n ##t …: one letter each
        (wordpiece, "cardiomegaly", False),  # cardio ##megaly
        (wordpiece, "edema", False),
        (byte_pairs, "größe", True),  # ö and ß are two bytes each
        (byte_pairs, "edema", False),
    ],
)
def test_a_word_that_falls_apart_is_unknown(reader: Any, word: str, unknown: bool) -> None:
    asked = labels({"positive": [f"{word} is no t."]}, {"positive": ["e"], "negative": [word]})
    found = told_of(asked, "words", reader())
    assert [(f.labels, f.words) for f in found] == [(("label_0", "label_1"), (word,))] * unknown


def test_unknown_words_are_one_line_and_the_first_where_they_are_most() -> None:
    known = "Edema is present. Cardiomegaly is present."
    asked = labels({"positive": [known, "Entrapment."]}, {"positive": ["Neu is tun?"]}, {}, {})
    found = lint(asked, np.ones((4, 2), np.float32), [wordpiece()])
    assert (found[0].kind, found[-1].kind, len(found)) == ("words", "near", 4)
    assert found[0].labels == ("label_0", "label_1")
    assert found[0].message == "3 of 6 words are unknown to this vocabulary (entrapment, neu, tun)"
    asked = labels({"positive": ["Edema, entrapment, noch neu, tief."]})
    (found_, *_) = told_of(asked, "words", wordpiece())
    assert found_.words == ("entrapment", "noch", "neu", "tief")
    assert found_.message == (
        "4 of 5 words are unknown to this vocabulary (entrapment, noch, neu, …): the set was not "
        "written for this model"
    )
    asked = labels({"positive": ["Edema is present.", "Entrapment."]})
    (one,) = told_of(asked, "words", wordpiece())
    assert one.message == "1 of 3 words is unknown to this vocabulary (entrapment)"


def test_labels_without_a_negative_sentence_are_one_line() -> None:
    (found,) = told_of(labels({}, {"id": "edema2", "negative": []}), "alone")
    assert found.labels == ("edema2",)
    assert found.message == (
        "label edema2 has no negative sentence: its score is a plain cosine in [-1, 1], not "
        "comparable with margins"
    )
    (found,) = told_of(labels(*[{"negative": []}] * 7), "alone")
    assert len(found.labels) == 7
    assert "labels label_0, label_1, label_2, label_3, label_4 and 2 more have no" in found.message


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.toml")))
def test_the_protocol_of_a_packaged_set_is_beyond_doubt(name: str) -> None:
    asked = load_label_set(name)
    assert lint(asked, apart(len(asked.labels)), ()) == []


def test_what_calls_itself_a_packaged_set_is_none() -> None:
    own = replace(labels({"negative": []}), id="medclip")
    assert told_of(own, "alone")


@pytest.mark.parametrize("denial", ["No edema.", "Heart without edema.", "Edema is NOT present."])
def test_a_label_with_its_sides_swapped(denial: str) -> None:
    dry = {"id": "wet", "positive": [denial, "The lungs are clear."], "negative": ["Edema."]}
    (found,) = told_of(labels(dry), "swapped")
    assert found.labels == ("wet",)
    assert found.message == (
        f"label wet: its positive {denial!r} denies, its negative 'Edema.' does not: are they "
        "swapped?"
    )


@pytest.mark.parametrize(
    "row",
    [
        {"id": "no_finding", "positive": ["No edema."], "negative": ["Edema."]},
        {"id": "dry", "names": {"de": "Ohne Befund"}, "positive": ["No edema."],
         "negative": ["Edema."]},
        {"positive": ["No edema."], "negative": ["The lungs are clear."]},
        {"positive": ["No markings beyond its edge.", "Pneumothorax."], "negative": ["Edema."]},
        {"positive": ["The nodule is notable."], "negative": ["Edema."]},
    ],
)  # fmt: skip
def test_sides_that_are_not_swapped(row: dict[str, Any]) -> None:
    assert not told_of(labels(row), "swapped")


def test_one_sentence_for_two_labels() -> None:
    both = ["Edema.", "Fluid."]
    asked = labels({"positive": both}, {"positive": ["edema. ", "fluid."]}, {"positive": ["Wet."]})
    (found,) = told_of(asked, "shared")
    assert found.labels == ("label_0", "label_1")
    assert found.message == (
        "'Edema.' is positive for 2 labels: label_0, label_1, and 1 more likewise"
    )


def test_a_sentence_that_stands_twice() -> None:
    asked = labels(
        {"positive": ["A b.", "a  B.", "C."]}, {"positive": ["A c."], "negative": ["No c."]}
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
        ("edema " * 200, apart(2), "has 200 tokens, allowed 128; make two"),
        ("edema", np.float32([[0, 0], [1, 0]]), "label_0: its positive and negative .* the same"),
        ("edema", np.float32([[1, 2], [1, 2]]), "label_0 and label_1 have the same"),
    ],
)
def test_what_asks_nothing_is_refused(positive: str, table: Table, words: str) -> None:
    asked = labels({"positive": [positive]}, {"positive": ["no."]})
    with pytest.raises(UsageError, match=words):
        check_set(asked, table, [wordpiece()])


def test_all_that_asks_nothing_is_collected() -> None:
    """A sentence that labels share is one error, and so is each of labels that are all equal."""
    long = "edema " * 200
    asked = labels({"positive": [long, "Отёк."]}, {"positive": [long]}, {"positive": ["Отёк!"]})
    wrong = [*unreadable(asked, [wordpiece()]).values()]
    assert [text.partition(":")[0] for text in wrong] == ["label label_0"] * 2 + ["label label_2"]
    table = np.float32([[0, 0], [1, 2], [1, 2], [0, 0], [1, 2]])
    errors = direction_errors(table, labels(*[{}] * 5))
    assert [text.partition(":")[0] for text in errors] == [
        "label label_0",
        "label label_3",
        "labels label_1 and label_2 have the same sentences",
        "labels label_1 and label_4 have the same sentences",
    ]
    with pytest.raises(UsageError, match=r"label_0.*1 of 4 errors; `tier-export labels --check`"):
        check_set(labels(*[{}] * 5), table, ())


def test_thousands_of_equal_labels_are_a_matter_of_seconds() -> None:
    """Eight million pairs, each told, would be too long to read and to wait for."""
    start = time.process_time()
    errors = direction_errors(np.ones((4_000, 8), np.float32), labels(*[{}] * 4_000))
    assert len(errors) == 3_999
    assert time.process_time() - start < 30


def test_twenty_are_told_and_the_rest_counted() -> None:
    warnings = [str(n) for n in range(23)]
    assert told(warnings) == [*warnings[:20], "and 3 more of 23 warnings"]
    assert told(warnings[:20]) == warnings[:20]
