"""python -m pytest tests/export/test_verify_sets.py -- label sets and text towers, held in verify.

Every fault is sealed: all hashes are right again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.export.resealed import reseal, verify
from tier_infer.bundle import sha256

QUERY, TOWER = "queries/chexpert.onnx", "text/encoder.onnx"


@pytest.fixture
def plain(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site / "bundle", tmp_path / "plain"))


def with_query(folder: Path, change: Callable[[onnx.ModelProto], None], order: Any = None) -> None:
    """Another query graph, and its golden scores in `order`."""
    model = onnx.load(str(folder / QUERY))
    change(model)
    data = model.SerializeToString()

    def golden(table: dict[str, Any]) -> None:
        row = table["scores"]["chexpert"]
        row["sha256"] = sha256(data)
        row["z"] = np.array(row["z"])[:, order or slice(None)].tolist()

    reseal(folder, golden=golden, files={QUERY: data})


def swap_rows(model: onnx.ModelProto) -> None:
    (tensor,) = model.graph.initializer
    table = numpy_helper.to_array(tensor)[[1, 0, 2, 3, 4]]
    tensor.CopyFrom(numpy_helper.from_array(table, tensor.name))


def labels_of(change: Callable[[dict[str, Any]], None]) -> Callable[[onnx.ModelProto], None]:
    def changed(model: onnx.ModelProto) -> None:
        (row,) = (prop for prop in model.metadata_props if prop.key == "labels")
        labels = json.loads(row.value)
        change(labels[0])
        row.value = json.dumps(labels)

    return changed


def test_the_bundles_tower_holds_its_label_sets(site: Path, bundle: Path) -> None:
    unlisted = verify(bundle)  # as the fixture added it, after the export
    assert unlisted.exit_code == 4
    assert "the text towers' files differ from manifest.json" in unlisted.stderr
    reseal(bundle)
    for more in ((), ("--against", site / "ckpt.pt")):
        result = verify(bundle, *more)
        assert result.exit_code == 0, result.output
        assert "not proven" not in result.stdout


def test_a_foreign_text_tower_is_refused(site: Path, bundle: Path) -> None:
    """Found here, it was exit 0, and `labels` made tables with it that were stamped right."""
    model = onnx.load(str(bundle / TOWER))
    (words,) = (t for t in model.graph.initializer if t.name.endswith("word_embeddings.weight"))
    mixed = np.ascontiguousarray(numpy_helper.to_array(words)[::-1])
    words.CopyFrom(numpy_helper.from_array(mixed, words.name))
    reseal(bundle, files={TOWER: model.SerializeToString()})
    result = verify(bundle)
    assert result.exit_code == 5, result.output
    assert "label set chexpert: its directions differ from those of the bundle" in result.stderr
    result = verify(bundle, "--against", site / "ckpt.pt")
    assert result.exit_code == 5, result.output
    assert "text tower: the embedding of" in result.stderr


def test_swapped_rows_of_a_table_are_found_by_the_tower(bundle: Path) -> None:
    with_query(bundle, swap_rows, [1, 0, 2, 3, 4])
    result = verify(bundle)
    assert result.exit_code == 5, result.output
    assert "label set chexpert: its directions differ" in result.stderr


def test_without_a_tower_that_is_said_and_pytorch_finds_them(site: Path, plain: Path) -> None:
    with_query(plain, swap_rows, [1, 0, 2, 3, 4])
    result = verify(plain)
    assert result.exit_code == 0, result.output
    assert "note: label sets not proven: the bundle holds no text tower" in result.stdout
    result = verify(plain, "--against", site / "ckpt.pt")
    assert result.exit_code == 5, result.output
    assert "score Z differs" in result.stderr


@pytest.mark.parametrize("positive", [[], [3], "Edema is present.", None])
def test_a_set_without_sentences_is_refused(plain: Path, positive: Any) -> None:
    with_query(plain, labels_of(lambda row: row.update(positive=positive)))
    result = verify(plain)
    assert result.exit_code == 4, result.output
    assert "label set chexpert does not carry its sentences" in result.stderr


def test_sentences_that_the_tower_cannot_read(site: Path, plain: Path, bundle: Path) -> None:
    change = labels_of(lambda row: row.update(negative=["中文"]))
    with_query(plain, change)
    result = verify(plain, "--against", site / "ckpt.pt")
    assert result.exit_code == 4, result.output
    assert "label set chexpert: label " in result.stderr
    with_query(bundle, change)
    result = verify(bundle)
    assert result.exit_code == 0, result.output
    assert "note: label set chexpert not proven: the sentence '中文'" in result.stdout
