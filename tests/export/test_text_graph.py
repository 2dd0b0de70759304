"""python -m pytest tests/export/test_text_graph.py -- sentences embed without torch as with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.spoken import KINDS, PACKAGED, Spoken, difference, members, spoken_by
from tier_export.text_graph import gate_sentences, text_files
from tier_infer.bundle import sha256
from tier_infer.errors import UsageError

ODD = [
    "EDEMA IS PRESENT.",
    "  edema\tis \n present  ",
    "Épanchement pleural à gauche",
    "e\u0301panchement",
    "It\u2019s \u201cmild\u201d \u2018oedema\u2019 \u201a\u201b\u201e\u201f\u02bc",
    "e\ufb00usion, \ufb01lm, \ufb02uid, o\ufb03ce, ba\ufb04e",
    "2.5 cm (10 %) on 12/03",
    "x" * 60,
    "pneumo" * 17,  # longer than WordPiece takes a word to be
    "don't they're we've I'm he'll she'd patient's",
    "İstanbul STRASSE Straße ΣΊΣΥΦΟΣ",
    "no\u00a0edema",
    "zero\u200bwidth\u00adhyphen",
    "a\x00b\x07c",
    "肺水肿",
    "edema 肺",
    "отёк лёгких",
    "🙂 edema 🩻",
    "\u202eamede",
    "...",
    "[sep] <|Endoftext|>",
    "[PAD <|endoftext",
    "R&D; A&B",
]
REFUSED = [
    "",
    " \t ",
    "edema [SEP] no edema",
    "[CLS]",
    "[MASK] edema",
    "[UNK]",
    "edema <|endoftext|>",
    "<|startoftext|>edema",
    "pleural &amp; pericardial",
    "&lt;|endoftext|&gt;",
    "&eacute;panchement",
    "caf\udce9",  # a byte of the command line that is no UTF-8
]


@pytest.fixture(scope="module", params=KINDS)
def spoken(request: pytest.FixtureRequest, site: Path) -> Spoken:
    return spoken_by(request.param, site)


def test_a_hundred_sentences_embed_as_in_pytorch(spoken: Spoken) -> None:
    asked = set(gate_sentences(spoken.network.tokenizer, []))
    others = [s for s in PACKAGED if s not in asked][::3]
    tower, tokenizer = spoken.tower, spoken.network.tokenizer
    others = [s for s in others if len(tokenizer.uncut(s)) <= tokenizer.max_tokens]
    assert len(others) >= 100
    assert [tower.uncut(s) for s in others] == [tokenizer.uncut(s) for s in others]
    assert difference(spoken, others) <= 1e-5  # the gate is at 1e-4
    embedded = np.stack([tower.embed(s) for s in others])
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6)
    steps = np.abs(np.diff(embedded, axis=0)).max(1)
    assert steps.min() > 3e-5, "these weights tell sentences hardly apart"


@pytest.mark.parametrize("sentence", ODD, ids=ascii)
def test_odd_sentences_are_read_alike_or_refused_by_both(spoken: Spoken, sentence: str) -> None:
    tower, tokenizer = spoken.tower, spoken.network.tokenizer
    assert tower.uncut(sentence) == tokenizer.uncut(sentence)
    whole = len(tokenizer.uncut(sentence)) <= tokenizer.max_tokens
    assert tower.can_read(sentence) == tokenizer.can_read(sentence)
    if tower.can_read(sentence) and whole:
        assert difference(spoken, [sentence]) <= 1e-4
    else:
        with pytest.raises(UsageError, match="the sentence"):
            tower.embed(sentence)


@pytest.mark.parametrize("sentence", REFUSED, ids=ascii)
def test_what_is_no_sentence_of_words_is_refused(spoken: Spoken, sentence: str) -> None:
    """Marks of the other kind of tokenizer are plain letters to this one."""
    marks = re.findall(r"\[[A-Z]+\]|<\|[a-z]+\|>", sentence)
    known = json.loads(spoken.files["text/tokenizer.json"])["model"]["vocab"]
    if marks and not set(marks) & set(known):
        assert spoken.tower.uncut(sentence) == spoken.network.tokenizer.uncut(sentence)
        return
    assert not spoken.tower.can_read(sentence)
    with pytest.raises(UsageError, match="the sentence"):
        spoken.tower.embed(sentence)


def test_the_longest_sentence_is_read_and_a_longer_one_refused(spoken: Spoken) -> None:
    most = spoken.network.tokenizer.max_tokens
    longest = " ".join("a" * (most - 2))
    assert len(spoken.tower.uncut(longest)) == most
    assert difference(spoken, [longest]) <= 1e-4
    with pytest.raises(UsageError, match=rf"has {most + 1} tokens, the text tower reads {most};"):
        spoken.tower.embed(longest + " a")


def test_padding_and_neighbours_are_the_callers_to_choose(spoken: Spoken) -> None:
    """Whoever serves the graph alone may batch: N and T are free, and the mask is obeyed as in
    PyTorch."""
    sentences = PACKAGED[:5]
    ids, mask = spoken.network.tokenizer(sentences)
    assert mask.min() == 0
    session = onnxruntime.InferenceSession(spoken.files["text/encoder.onnx"])
    (found,) = session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})
    with torch.no_grad():
        exact = spoken.network.model.words.sentence_e(ids, mask).numpy()
    assert np.abs(found - exact).max() <= 1e-5


def test_the_files_say_what_they_are_and_nothing_of_here(spoken: Spoken) -> None:
    assert list(spoken.files) == ["text/encoder.onnx", "text/tokenizer.json"]
    graph = onnx.load_model_from_string(spoken.files["text/encoder.onnx"])
    onnx.checker.check_model(graph, full_check=True)
    rows = [*graph.graph.input, *graph.graph.output]
    shapes = {
        r.name: [d.dim_param or d.dim_value for d in r.type.tensor_type.shape.dim] for r in rows
    }
    dim = spoken.network.recipe.embed_dim
    assert shapes == {"ids": ["N", "T"], "mask": ["N", "T"], "text_embedding": ["N", dim]}
    types = {r.name: r.type.tensor_type.elem_type for r in rows}
    assert types == {"ids": 7, "mask": 7, "text_embedding": 1}  # int64, float32
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 18)]
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in graph.graph.initializer)
    for data in spoken.files.values():
        for word in (b".py", b"site-packages", b"tier_train", b"tier_export", b"transformers"):
            assert word not in data
        assert str(Path(__file__).parent).encode() not in data
    assert spoken.text["sha256"] == spoken.network.text_sha256
    (tower,) = spoken.text["towers"]
    assert tower == {
        "encoder": "text/encoder.onnx",
        "tokenizer": "text/tokenizer.json",
        "max_tokens": spoken.network.tokenizer.max_tokens,
        "sha256": spoken.network.text_sha256,
    }
    assert spoken.text["files"] == {
        name: {"sha256": sha256(data), "bytes": len(data)} for name, data in spoken.files.items()
    }


def test_the_same_tower_gives_the_same_bytes_whatever_was_tokenised_before(spoken: Spoken) -> None:
    spoken.network.tokenizer(["a", "edema " * 200])  # transformers notes its cutting in the backend
    files, text, facts = text_files(members(spoken.network), ["No mass.", PACKAGED[0]])
    assert files == spoken.files
    assert text == spoken.text
    assert facts["sentences"] >= 100
    assert 0 < facts["max_dembedding"] <= facts["allowed"] == 1e-4
    words = json.loads(files["text/tokenizer.json"])
    assert words["truncation"] is None
    assert words["padding"] is None
