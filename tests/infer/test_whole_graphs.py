"""python -m pytest tests/infer/test_whole_graphs.py -- a graph brings all its weights itself, and
gives what its bundle says.

Found in review: onnxruntime looks for external weights in the working directory, past every hash.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.spoken import speaking
from tier_infer.bundle import Bundle, load_bundle, sha256
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError
from tier_infer.query_table import QueryTable
from tier_infer.sentences import Words
from tier_infer.sessions import open_session

QUERIES, ENCODER, TEXT = "queries/chexpert.onnx", "image_encoder.onnx", "text/encoder.onnx"
USE: dict[str, Callable[[Bundle], object]] = {
    QUERIES: lambda bundle: QueryTable(bundle, "chexpert"),
    ENCODER: lambda bundle: Engine(bundle, "cpu", "fp32"),
    TEXT: lambda bundle: Words(bundle),
}


@pytest.fixture(scope="module")
def sound(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking(site, tmp_path_factory.mktemp("speaking") / "bundle")


def with_graph(sound: Path, folder: Path, name: str, graph: onnx.ModelProto) -> Bundle:
    """A bundle whose every hash is right again."""
    shutil.copytree(sound, folder)
    data = graph.SerializeToString()
    (folder / name).write_bytes(data)
    before = load_bundle(sound).manifest
    entry = {"sha256": sha256(data), "bytes": len(data)}
    files, sets, text = dict(before.files), dict(before.label_sets), dict(before.text)
    if name == ENCODER:
        files[name] = files[name] | entry
    elif name == TEXT:
        text["files"] = text["files"] | {name: entry}
    else:
        sets["chexpert"] = sets["chexpert"] | entry
    manifest = replace(before, files=files, label_sets=sets, text=text)
    (folder / "manifest.json").write_text(manifest.to_json())
    return load_bundle(folder)


def moved_out(graph: onnx.ModelProto, name: str, folder: Path) -> onnx.ModelProto:
    """The same graph, its largest weights in the file `name` of `folder`."""
    tensor = max(graph.graph.initializer, key=lambda t: len(t.raw_data))
    assert len(tensor.raw_data) > 1000
    (folder / name).write_bytes(tensor.raw_data)
    for key, value in (("location", name), ("length", str(len(tensor.raw_data)))):
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return graph


@pytest.mark.parametrize("name", USE)
def test_weights_in_another_file_are_refused_though_it_is_the_right_one(
    sound: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    graph = onnx.load(sound / name)
    USE[name](with_graph(sound, tmp_path / "same", name, graph))
    graph = moved_out(graph, "weights.bin", tmp_path)
    onnxruntime.InferenceSession(graph.SerializeToString())  # which takes them
    with pytest.raises(IntegrityError, match=r"can't load the graph.*weights\.bin"):
        USE[name](with_graph(sound, tmp_path / "bundle", name, graph))


@pytest.mark.parametrize("place", ["node", "branch", "function"])
def test_weights_anywhere_in_a_graph_are_its_own(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.ones((64, 4), np.float32)
    tensor = numpy_helper.from_array(values, "w")
    row = helper.make_tensor_value_info
    inputs, outputs = [row("x", 1, ["N", 64])], [row("y", 1, ["N", 4])]
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    for key, value in (("location", "w.bin"), ("length", str(len(tensor.raw_data)))):
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    steps = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    functions, extra = [], []
    if place == "function":
        functions = [helper.make_function("own", "F", ["x"], ["y"], steps, opset[:1])]
        steps = [helper.make_node("F", ["x"], ["y"], domain="own")]
    if place == "branch":
        product = helper.make_node("MatMul", ["x", "w"], ["inner"])
        branch = helper.make_graph([product], "b", [], [row("inner", 1, ["N", 4])], [tensor])
        extra = [numpy_helper.from_array(np.array(True), "always")]
        # its two branches are one graph, so that either way the file is needed
        steps = [helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch)]
    graph = helper.make_graph(steps, "g", inputs, outputs, extra)
    model = helper.make_model(graph, opset_imports=opset, functions=functions, ir_version=10)
    onnxruntime.InferenceSession(model.SerializeToString())
    with pytest.raises(IntegrityError, match=r"w\.bin"):
        open_session(model.SerializeToString(), "cpu")


def test_onnxruntimes_own_format_is_no_graph_of_a_bundle(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds its weights in the working directory whatever folder it is told."""
    monkeypatch.chdir(tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = "graph.ort"
    options.add_session_config_entry("session.save_model_format", "ORT")
    graph = moved_out(onnx.load(sound / QUERIES), "weights.bin", tmp_path)
    onnxruntime.InferenceSession(graph.SerializeToString(), options)
    data = Path("graph.ort").read_bytes()
    onnxruntime.InferenceSession(data)
    with pytest.raises(IntegrityError, match="can't load the graph"):
        open_session(data, "cpu")


def test_a_graph_that_fails_says_nothing_on_stdout(
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """onnxruntime would announce there that it tries again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"")
    graph = moved_out(onnx.load(sound / QUERIES), "weights.bin", tmp_path)
    (tensor,) = graph.graph.initializer
    tensor.external_data[0].value = "weights.bin/.."
    with pytest.raises(IntegrityError):
        open_session(graph.SerializeToString(), "cpu")
    assert capfd.readouterr() == ("", "")


def test_without_fusing_the_numbers_are_nearly_the_same(sound: Path) -> None:
    data = (sound / QUERIES).read_bytes()
    rows = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
    one, other = (
        open_session(data, "cpu", fused=fused).run(None, {"embeddings": rows})[0]
        for fused in (True, False)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def resized(graph: onnx.ModelProto, rows: int, columns: int) -> onnx.ModelProto:
    """A sound query graph of `rows` labels from `columns` dimensions."""
    (tensor,) = graph.graph.initializer
    table = np.resize(numpy_helper.to_array(tensor), (rows, columns))
    tensor.CopyFrom(numpy_helper.from_array(table, tensor.name))
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = columns
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = rows
    onnx.checker.check_model(graph, full_check=True)
    return graph


@pytest.mark.parametrize("change", [(-1, 0), (1, 0), (0, -1), (0, 64)])
def test_a_table_of_another_size_is_refused(
    sound: Path, tmp_path: Path, change: tuple[int, int]
) -> None:
    """Found in review: too few columns were a traceback, too many nothing at all."""
    graph = onnx.load(sound / QUERIES)
    rows, columns = graph.graph.initializer[0].dims
    graph = resized(graph, rows + change[0], columns + change[1])
    bundle = with_graph(sound, tmp_path / "b", QUERIES, graph)
    with pytest.raises(
        IntegrityError,
        match=rf"is not float32 scores of {rows} labels from embeddings of {columns};",
    ):
        QueryTable(bundle, "chexpert")


def test_a_table_that_only_claims_its_size_is_refused(sound: Path, tmp_path: Path) -> None:
    """Its scores go through a Compress, whose size nobody knows before it runs."""
    graph = onnx.load(sound / QUERIES)
    rows = graph.graph.initializer[0].dims[0]
    graph.graph.node[0].output[0] = "all"
    graph.graph.node.append(helper.make_node("Compress", ["all", "kept"], ["scores"], axis=1))
    kept = np.arange(rows) > 0
    graph.graph.initializer.append(numpy_helper.from_array(kept, "kept"))
    table = QueryTable(with_graph(sound, tmp_path / "b", QUERIES, graph), "chexpert")
    with pytest.raises(IntegrityError, match=rf"gives scores of shape \[2, {rows - 1}\] for 2"):
        table.cell_scores(np.ones((2, 128), np.float32))
