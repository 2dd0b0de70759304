"""python -m pytest tests/export/test_text_gate.py -- a text tower that differs from PyTorch is not
written, and one of two checkpoints asks as both do."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.spoken import KINDS, PACKAGED, Spoken, members, spoken_by
from tier_export import text_graph
from tier_export.text_graph import gate_sentences, prove_text, text_files
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.errors import ParityError
from tier_infer.label_sets import load_label_set
from tier_infer.sentences import Tower, Words


@pytest.fixture(scope="module", params=KINDS)
def spoken(request: pytest.FixtureRequest, site: Path) -> Spoken:
    return spoken_by(request.param, site)


def graph_of(spoken: Spoken) -> onnx.ModelProto:
    return onnx.load_model_from_string(spoken.files["text/encoder.onnx"])


def test_the_gate_asks_a_hundred_sentences_and_those_given(spoken: Spoken) -> None:
    given = ["No mass.", PACKAGED[0], "No mass.", "tea &amp; toast", "edema " * 200]
    asked = gate_sentences(spoken.network.tokenizer, given)
    assert len(asked) == len(set(asked)) > 100
    assert asked[:2] == ["No mass.", PACKAGED[0]]
    assert set(asked) - {"No mass."} <= set(PACKAGED)


def test_a_tower_that_reads_hardly_a_sentence_is_not_proven(spoken: Spoken) -> None:
    """Found in review: a gate that asked nothing was passed."""

    class Few(type(spoken.network.tokenizer)):  # type: ignore[misc]
        def can_read(self, sentence: str) -> bool:
            return sentence in PACKAGED[:19]

    tokenizer = copy.copy(spoken.network.tokenizer)
    tokenizer.__class__ = Few
    with pytest.raises(
        ParityError, match="reads 19 of the sentences to prove it by, 20 are needed"
    ):
        text_files(members(replace(spoken.network, tokenizer=tokenizer)), [])


def changed_row(spoken: Spoken, sentence: str) -> onnx.ModelProto:
    """The graph, with the embedding of one word of the sentence half as large again."""
    graph, words = graph_of(spoken), spoken.network.tokenizer
    (table,) = (t for t in graph.graph.initializer if t.dims[:1] == [words.vocab_size])
    values = numpy_helper.to_array(table).copy()
    values[words.uncut(sentence)[1]] *= 1.5
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    return graph


def test_a_changed_embedding_breaks_the_gate(
    spoken: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "Edema is present."
    monkeypatch.setattr(text_graph, "text_graph", lambda *_: changed_row(spoken, sentence))
    with pytest.raises(ParityError, match=r"'Edema is present\.' differs by .*, allowed 0\.0001"):
        text_files(members(spoken.network), [sentence])


def test_another_vocabulary_breaks_the_gate(
    spoken: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pieces change places: every id is in range and only the words are others."""
    words = json.loads(spoken.files["text/tokenizer.json"])
    one, other = "e</w>" if "e</w>" in words["model"]["vocab"] else "##e", "."
    table = words["model"]["vocab"]
    table[one], table[other] = table[other], table[one]
    swapped = json.dumps(words).encode()
    monkeypatch.setattr(text_graph, "tokenizer_file", lambda _: swapped)
    monkeypatch.setattr(text_graph, "text_graph", lambda *_: graph_of(spoken))
    with pytest.raises(ParityError, match=r"reads 'One\.' as \[.*\], PyTorch's as \[.*\]"):
        text_files(members(spoken.network), ["One."])


def test_a_fault_beyond_the_gate_is_named_with_its_sentence(spoken: Spoken) -> None:
    class Off(Tower):
        def embed(self, sentence: str) -> Any:
            return super().embed(sentence) + np.float32(off)

    off = 9e-5
    tower = Off(*spoken.parts)
    assert prove_text(spoken.network, tower, ["No edema."]) == pytest.approx(off, rel=0.02)
    off = 1.1e-4
    with pytest.raises(ParityError, match=r"'No edema\.' differs by 0\.00011, allowed 0\.0001"):
        prove_text(spoken.network, tower, ["No edema."])
    off = float("nan")
    with pytest.raises(ParityError, match="differs by nan"):
        prove_text(spoken.network, tower, ["No edema."])


def test_two_towers_ask_as_two_checkpoints_do(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query of an ensemble is the row that its checkpoints' label table would have."""
    spoken, make = spoken_by("bert", site), text_graph.text_graph
    first = spoken.network
    other = copy.deepcopy(first.model)
    with torch.no_grad():
        torch.manual_seed(1)
        for value in other.words.parameters():
            value.mul_(1 + 0.2 * torch.randn_like(value))
    both = members(first, replace(first, model=other))
    known = {id(first): graph_of(spoken)}  # its export takes seconds
    monkeypatch.setattr(text_graph, "text_graph", lambda n, o: known.get(id(n)) or make(n, o))
    asked, counts = text_graph.gate_sentences, iter([30, 25])
    monkeypatch.setattr(text_graph, "gate_sentences", lambda t, g: asked(t, g)[: next(counts)])
    files, text, facts = text_files(both, [])
    assert facts["sentences"] == 25
    assert list(files) == ["text/encoder.onnx", "text/tokenizer.json", "text/encoder_2.onnx",
                           "text/tokenizer_2.json"]  # fmt: skip
    assert files["text/encoder.onnx"] != files["text/encoder_2.onnx"]
    assert text["sha256"] == both.text_sha256
    assert [row["sha256"] for row in text["towers"]] == [n.text_sha256 for n in both.networks]
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    manifest = load_bundle(site / "bundle").manifest
    manifest = replace(manifest, text=text, embed_dim=2 * manifest.embed_dim)
    words = Words(Bundle(tmp_path, manifest))
    assert len(words.towers) == 2
    for name in ("chexpert", "chexzero"):  # chexpert's negatives are several, and shared
        labels = load_label_set(name)
        table = both.table(labels)
        for label, row in zip(labels.labels, table, strict=True):
            found = words.query(label.positive, label.negative)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, row, atol=1e-6, rtol=0)
