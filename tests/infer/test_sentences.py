"""python -m pytest tests/infer/test_sentences.py -- text towers, sound and damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.spoken import speaking
from tier_infer.bundle import Bundle, load_bundle, sha256
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.scoring import Selection, select_labels
from tier_infer.sentences import Asked, Words, with_sentences

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def bundle(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(speaking(site, tmp_path_factory.mktemp("speaking") / "bundle"))


@pytest.fixture(scope="module")
def words(bundle: Bundle) -> Words:
    return Words(bundle)


def with_files(bundle: Bundle, folder: Path, **files: bytes) -> Bundle:
    """The bundle with other text files and right hashes, as somebody with a manifest writes it."""
    names = {"encoder": "text/encoder.onnx", "tokenizer": "text/tokenizer.json"}
    shutil.copytree(bundle.folder, folder)
    entries = dict(bundle.manifest.text_files)
    for key, data in files.items():
        (folder / names[key]).write_bytes(data)
        entries[names[key]] = {"sha256": sha256(data), "bytes": len(data)}
    text = bundle.manifest.text | {"files": entries}
    (folder / "manifest.json").write_text(replace(bundle.manifest, text=text).to_json())
    return load_bundle(folder)


def ask(bundle: Bundle) -> None:
    Words(bundle).query(["Edema is present."], [])


def edited(bundle: Bundle, change: Change) -> bytes:
    table = json.loads(bundle.text_file("text/tokenizer.json"))
    change(table)
    return json.dumps(table).encode()


def shifted(table: dict[str, Any]) -> None:
    table["model"]["vocab"] = {word: i + 10**6 for word, i in table["model"]["vocab"].items()}


# A panic of the Rust library, an error of its own, and ids that the encoder has no rows for.
BROKEN: dict[str, Change] = {
    "panic": lambda table: table["post_processor"]["special_tokens"].clear(),
    "kind": lambda table: table["model"].update(type="Magic"),
    "shifted": shifted,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_that_breaks_is_damage_of_the_bundle(
    bundle: Bundle, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(IntegrityError):
        ask(with_files(bundle, tmp_path / "b", tokenizer=edited(bundle, BROKEN[name])))
    assert capfd.readouterr() == ("", "")  # a panic talks to stderr by itself


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_file_that_is_no_tokenizer(bundle: Bundle, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(IntegrityError, match="tokenizer is not one; export the bundle again"):
        ask(with_files(bundle, tmp_path / "b", tokenizer=data))


def test_a_huge_tokenizer_is_not_parsed(bundle: Bundle, tmp_path: Path) -> None:
    padded = bundle.text_file("text/tokenizer.json").ljust(2**24 + 1)
    with pytest.raises(IntegrityError, match="16777217 bytes, at most 16777216 are read"):
        ask(with_files(bundle, tmp_path / "b", tokenizer=padded))


def encoder(
    meta: dict[str, str], width: int | str, scale: float, output: str = "text_embedding"
) -> bytes:
    """ids → the same row for every sentence, each of its components `scale`."""
    size = width if isinstance(width, int) else 4
    row = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Slice", ["ids", "zero", "one", "one"], ["first"]),  # [N, 1]
        helper.make_node("Cast", ["first"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "nothing"], ["flat"]),
        helper.make_node("Add", ["flat", "row"], [output]),
    ]
    constants = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "nothing": np.float32(0),
        "row": np.full((1, size), scale, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "same",
        [row(name, TensorProto.INT64, ["N", "T"]) for name in ("ids", "mask")],
        [row(output, TensorProto.FLOAT, ["N", width])],
        [
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in constants.items()
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    helper.set_model_props(model, meta)
    return bytes(model.SerializeToString())


def marked(bundle: Bundle) -> dict[str, str]:
    """What the bundle's own tower says of itself."""
    graph = onnx.load_model_from_string(bundle.text_file("text/encoder.onnx"))
    return {prop.key: prop.value for prop in graph.metadata_props}


def same(bundle: Bundle, **meta: str) -> bytes:
    return encoder(marked(bundle) | meta, 128, 128**-0.5)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ((128, 1.0), "no unit vectors"),
        ((128, 0.0), "no unit vectors"),
        ((128, float("nan")), "no unit vectors"),
        ((64, 0.125), r"\[64\] dimensions, which must add up to the encoder's 128"),
        (("W", 0.5), "dimensions, which must add up"),
        ((128, 128**-0.5, "words"), "inputs and outputs ids, mask, words, not ids, mask and"),
    ],
)
def test_an_encoder_of_another_kind(
    bundle: Bundle, tmp_path: Path, made: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        ask(with_files(bundle, tmp_path / "b", encoder=encoder(marked(bundle), *made)))


def test_a_tower_that_knows_one_answer_gives_no_question(bundle: Bundle, tmp_path: Path) -> None:
    deaf = Words(with_files(bundle, tmp_path / "b", encoder=same(bundle)))
    assert np.linalg.norm(deaf.query(["Edema."], [])) == pytest.approx(1, abs=1e-6)
    with pytest.raises(UsageError, match=r"'Edema\.' and 'No mass\.' mean the same"):
        deaf.query(["Edema."], ["No mass."])


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"text_sha256": "5" * 64}, "not those of this bundle's label sets"),
        ({"text_sha256": ""}, "not those of this bundle's label sets"),
        ({"max_tokens": "512"}, "reads 512 tokens, the manifest says 128"),
        ({"max_tokens": ""}, "the manifest says 128"),
    ],
)
def test_a_tower_of_another_bundle(
    bundle: Bundle, tmp_path: Path, meta: dict[str, str], message: str
) -> None:
    """Found in review: its directions would have scored like those of the label sets."""
    ask(with_files(bundle, tmp_path / "sound", encoder=same(bundle)))
    with pytest.raises(IntegrityError, match=message):
        ask(with_files(bundle, tmp_path / "b", encoder=same(bundle, **meta)))


def test_two_towers_stand_in_the_order_of_the_checkpoints(bundle: Bundle, tmp_path: Path) -> None:
    each = ["a" * 64, "b" * 64]
    rows, entries = [], dict(bundle.manifest.text_files)
    data = {
        f"text/encoder_{i}.onnx": encoder(marked(bundle) | {"text_sha256": sha}, 64, 0.125)
        for i, sha in enumerate(each)
    }
    shutil.copytree(bundle.folder / "text", tmp_path / "text")
    for (name, graph), sha in zip(data.items(), each, strict=True):
        (tmp_path / name).write_bytes(graph)
        entries[name] = {"sha256": sha256(graph), "bytes": len(graph)}
        row = {"encoder": name, "tokenizer": "text/tokenizer.json", "max_tokens": 128}
        rows.append(row | {"sha256": sha})
    both = hashlib.sha256(f"{each[0]}\n{each[1]}".encode()).hexdigest()

    def listed(towers: list[dict[str, Any]]) -> Bundle:
        text = {"sha256": both, "files": entries, "towers": towers}
        return Bundle(tmp_path, replace(bundle.manifest, text=text))

    assert len(Words(listed(rows)).towers) == 2
    exchanged = [
        rows[0] | {"encoder": rows[1]["encoder"]},
        rows[1] | {"encoder": rows[0]["encoder"]},
    ]
    for wrong in (rows[::-1], exchanged, rows[:1] * 2, [*rows, rows[0]]):
        with pytest.raises(IntegrityError, match="or stand in another order"):
            Words(listed(wrong))


@pytest.mark.parametrize(
    "towers",
    [None, [], "text", [{}], [{"encoder": "text/encoder.onnx"}], [{"encoder": "manifest.json",
     "tokenizer": "text/tokenizer.json", "max_tokens": 128}]],
)  # fmt: skip
def test_a_manifest_that_does_not_list_its_towers(bundle: Bundle, towers: object) -> None:
    text = bundle.manifest.text | {"towers": towers}
    with pytest.raises(IntegrityError, match="export the bundle again"):
        Words(replace(bundle, manifest=replace(bundle.manifest, text=text)))


def test_a_changed_byte_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "b"
    shutil.copytree(bundle.folder, copy)
    data = bytearray((copy / "text/tokenizer.json").read_bytes())
    data[-3] ^= 1
    (copy / "text/tokenizer.json").write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=r"tokenizer\.json was changed"):
        ask(replace(bundle, folder=copy, _verified={}))


def test_sentences_stand_after_the_labels(bundle: Bundle, words: Words) -> None:
    labels = select_labels(bundle, ["edema", "cardiomegaly"])
    both = with_sentences(labels, words, ["Edema is present."], [])
    alone = with_sentences(None, words, ["Edema is present."], [])
    assert both.names == ("edema", "cardiomegaly", "query")
    assert alone.names == ("query",)
    rows = np.random.default_rng(0).normal(size=(5, words.manifest.embed_dim)).astype(np.float32)
    found = both.cell_scores(rows)
    np.testing.assert_array_equal(found[:, :2], labels.cell_scores(rows))
    np.testing.assert_array_equal(found[:, 2:], alone.cell_scores(rows))


def test_a_set_may_be_called_like_the_option(words: Words) -> None:
    """Its labels are `query:edema` then, and its table is not the one of the sentences."""
    other = Asked([{"id": "edema"}], np.full(words.manifest.embed_dim, 2, np.float32))
    chosen = Selection(("query:edema",), {"query": other}, (("query", 0),))
    both = with_sentences(chosen, words, ["Edema is present."], [])
    assert both.names == ("query:edema", "query")
    ones = np.ones((1, words.manifest.embed_dim), np.float32)
    assert both.cell_scores(ones)[0, 0] == 2 * words.manifest.embed_dim


def test_a_row_scores_the_same_in_any_company() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(97, 128)).astype(np.float32)
    asked = Asked([], rng.normal(size=128).astype(np.float32))
    together = asked.cell_scores(rows)
    assert together.shape == (97, 1)
    assert [float(asked.cell_scores(row[None])[0, 0]) for row in rows] == together[:, 0].tolist()
    np.testing.assert_allclose(together[:, 0], rows @ asked.direction, atol=1e-4)
