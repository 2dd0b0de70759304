"""python -m pytest tests/infer/test_tokenizer_json.py -- a tokenizer.json can't run wild."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from tests.spoken import KINDS, PACKAGED, spoken_by
from tier_infer.errors import IntegrityError
from tier_infer.sentences import Tower
from tier_infer.tokenizer_json import checked_tokenizer

Table = dict[str, Any]


@pytest.fixture(scope="module")
def tables(site: Path) -> dict[str, Table]:
    """As `tier-export` writes them."""
    return {kind: json.loads(spoken_by(kind, site).files["text/tokenizer.json"]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_handed_over_reads_as_the_file_does(site: Path, kind: str) -> None:
    data = spoken_by(kind, site).files["text/tokenizer.json"]
    own = tokenizers.Tokenizer.from_buffer(data)
    other = tokenizers.Tokenizer.from_str(checked_tokenizer(data))
    for sentence in PACKAGED[::9]:
        assert own.encode(sentence).ids == other.encode(sentence).ids
    assert other.to_str() == own.to_str()


def replacing(letter: str, content: str) -> Table:
    return {"type": "Replace", "pattern": {"String": letter}, "content": content}


def normalizers(*more: Table) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        table["normalizer"] = {"type": "Sequence", "normalizers": [table["normalizer"], *more]}
        if table["normalizer"]["normalizers"][0]["type"] == "Sequence":
            table["normalizer"]["normalizers"][:1] = table["normalizer"]["normalizers"][0][
                "normalizers"
            ]

    return change


def put(value: object, *keys: str) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        for key in keys[:-1]:
            table = table[key]
        table[keys[-1]] = value

    return change


REGEX = {"type": "Split", "pattern": {"Regex": "(a|a?)+$"}, "behavior": "Isolated", "invert": False}
CUT = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDED = {"strategy": {"Fixed": 10**6}, "direction": "Right", "pad_to_multiple_of": None,
          "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
SENTENCE = {"Sequence": {"id": "A", "type_id": 0}}
OFTEN = {"type": "TemplateProcessing", "single": [SENTENCE] * 10**4, "pair": [],
         "special_tokens": {}}  # fmt: skip
MARK = {"id": 0, "content": "x", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True}  # fmt: skip

# In each the library itself sees nothing wrong: it answers otherwise, for hours, or never.
WILD: dict[str, tuple[str, Callable[[Table], None]]] = {
    "grows": ("normalizer", normalizers(*[replacing("e", "e" * 100)] * 6)),
    "grows slowly": ("normalizer", normalizers(*[replacing("é", "ééé")] * 14)),
    "deletes words": ("normalizer", normalizers(replacing("no ", ""))),
    "pattern": ("normalizer", normalizers(replacing("x", "") | {"pattern": {"Regex": "(a?)+$"}})),
    "spaces": (
        "normalizer",
        normalizers({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "  "}),
    ),
    "prepends": ("normalizer", normalizers({"type": "Prepend", "prepend": "no "})),
    "many": ("normalizer", normalizers(*[{"type": "NFC"}] * 32)),
    "splits": ("pre_tokenizer", put(REGEX, "pre_tokenizer")),
    "splits often": (
        "pre_tokenizer",
        put(
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
                ]
                * 9,
            },
            "pre_tokenizer",
        ),
    ),
    "repeats": ("post_processor", put(OFTEN, "post_processor")),
    "decodes": (
        "decoder",
        put({"type": "Replace", "pattern": {"Regex": "(a?)+"}, "content": ""}, "decoder"),
    ),
    "cuts": ("truncation", put(CUT, "truncation")),
    "pads": ("padding", put(PADDED, "padding")),
    "marks": ("added_tokens", put([MARK] * 17, "added_tokens")),
    "affix": ("model", put("#" * 10**5, "model", "continuing_subword_prefix")),
    "surprise": ("surprise", put(1, "surprise")),
}
ONLY: dict[str, tuple[str, str, Callable[[Table], None]]] = {  # of one kind of model
    "long words": ("bert", "model", put(10**9, "model", "max_input_chars_per_word")),
    "by lot": ("clip", "model", put(0.5, "model", "dropout")),
    "another model": ("bert", "model", put("Unigram", "model", "type")),
}


@pytest.mark.parametrize("kind", ["bert", "clip"])
@pytest.mark.parametrize("name", WILD)
def test_what_tier_export_does_not_write_is_not_run(
    tables: dict[str, Table], name: str, kind: str
) -> None:
    part, change = WILD[name]
    refused(tables[kind], part, change)


@pytest.mark.parametrize("name", ONLY)
def test_models_are_held_to_their_kind(tables: dict[str, Table], name: str) -> None:
    kind, part, change = ONLY[name]
    refused(tables[kind], part, change)


def refused(sound: Table, part: str, change: Callable[[Table], None]) -> None:
    table = copy.deepcopy(sound)
    checked_tokenizer(json.dumps(table).encode())
    change(table)
    assert table != sound
    with pytest.raises(IntegrityError, match=f"has a {part} of a kind that tier-export does not"):
        checked_tokenizer(json.dumps(table).encode())


def test_a_cut_is_refused_before_a_sentence_is_read(site: Path) -> None:
    """Found in review: a query was answered by its first words."""
    encoder, data, most = spoken_by("bert", site).parts
    table = json.loads(data) | {"truncation": CUT}
    assert len(tokenizers.Tokenizer.from_str(json.dumps(table)).encode(PACKAGED[0]).ids) == 4
    with pytest.raises(IntegrityError, match="truncation"):
        Tower(encoder, json.dumps(table).encode(), most)


def test_a_key_that_stands_twice_is_one(tables: dict[str, Table]) -> None:
    """Whichever of them the library would take: it gets what was checked."""
    text = json.dumps(tables["bert"])
    twice = text.replace(
        '"truncation": null', f'"truncation": {json.dumps(CUT)}, "truncation": null'
    )
    assert twice != text
    assert checked_tokenizer(twice.encode()) == text
