"""python -m pytest tests/export/test_int8.py -- the INT8 encoder: what is 8-bit, and the gate."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tests.export.kin import saved, shifted
from tests.train.layouts import tame
from tier_export.crops import calibration_crops, phantom_crops
from tier_export.export import prover_of, query_files
from tier_export.graphs import check_signature, encoder_graph, quiet
from tier_export.int8 import fit_int8
from tier_export.members import Members, members_of
from tier_export.parity import Crops, onnx_encoder
from tier_infer.bundle import sha256
from tier_infer.errors import ParityError
from tier_infer.label_sets import load_label_set
from tier_train.checkpoint import load_checkpoint
from tier_train.towers.image_encoder import normalise
from tier_train.towers.vit import ViTTrunk

Weights = dict[str, NDArray[Any]]
Judge = Callable[[bytes], None]


@dataclass(frozen=True)
class Fitted:
    graph: onnx.ModelProto
    facts: dict[str, Any]
    said: list[str]


@pytest.fixture(scope="module")
def members(site: Path) -> Members:
    return members_of([load_checkpoint(site / "ckpt.pt")])


@pytest.fixture(scope="module")
def fp32(site: Path) -> onnx.ModelProto:
    return onnx.load(str(site / "bundle/image_encoder.onnx"))


@pytest.fixture(scope="module")
def calibration(members: Members) -> Crops:
    return calibration_crops("phantoms", members.geometry, "mimic-jpg")


@pytest.fixture(scope="module")
def gate(members: Members) -> Judge:
    """Of the export: |ΔAUC| ≤ 3e-3 per label against PyTorch, on 320 phantoms."""
    crops = phantom_crops(members.geometry, "mimic-jpg")
    labels = load_label_set("chexpert")
    tables, queries = query_files(members, [labels], 18, lambda _: None)
    prover = prover_of(members, [labels], tables, queries, crops)
    return lambda graph: prover.prove("int8", "here", onnx_encoder(graph))


@pytest.fixture(scope="module")
def int8(fp32: onnx.ModelProto, calibration: Crops, gate: Judge) -> Fitted:
    return fitted(fp32, calibration, gate)


def fitted(encoder: onnx.ModelProto, calibration: Crops, judge: Judge, **options: Any) -> Fitted:
    said: list[str] = []
    graph, facts = fit_int8(encoder, calibration, judge, said.append, **options)
    return Fitted(graph, facts, said)


def agree(graph: bytes) -> None:
    pass


def weights_of(model: onnx.ModelProto) -> Weights:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def made_by(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def convs(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def is_float(model: onnx.ModelProto, name: str) -> bool:
    (node,) = [node for node in model.graph.node if node.name == name]
    return node.input[1] in weights_of(model)


def rms(a: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(a))))


def test_the_trained_network_stays_within_the_gate(int8: Fitted, calibration: Crops) -> None:
    assert int8.facts["share"] > 2 / 3
    stem = int8.facts["kept_float32"][0]
    assert stem["weight"] == "images.0.trunk.conv1.weight"
    assert stem["reason"].startswith("stem: ")
    assert "products with weights of 7 bits" in int8.facts["summary"]
    stated = int8.facts["calibration"]
    assert stated["count"] == len(calibration.pixels) == 128
    assert stated["sha256"] == sha256(calibration.pixels.tobytes())
    assert int8.facts["reduce_range"] is True
    assert int8.said[0] == "calibrating on 128 phantoms"


def test_every_conv_but_the_stem_is_8_bit_with_a_step_per_channel(
    fp32: onnx.ModelProto, calibration: Crops
) -> None:
    found = fitted(fp32, calibration, agree)
    graph = found.graph
    makers, weights = made_by(graph), weights_of(graph)
    assert found.facts["quantised"] == len(convs(graph)) - 1 == 10
    for conv in convs(graph)[1:]:
        data, kernel = makers[conv.input[0]], makers[conv.input[1]]
        assert (data.op_type, kernel.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert weights[data.input[2]].dtype == np.uint8
        assert weights[data.input[1]].shape == ()
        stored = weights[kernel.input[0]]
        assert stored.dtype == np.int8
        assert weights[kernel.input[1]].shape == (len(stored),)  # a step per output channel
        assert [a.i for a in kernel.attribute if a.name == "axis"] == [0]
    assert graph.ByteSize() < 0.3 * fp32.ByteSize()


def pair_sum(graph: onnx.ModelProto) -> int:
    """The largest that two products of an activation and a weight can add up to."""
    stored = [w for w in weights_of(graph).values() if w.dtype == np.int8 and w.ndim == 4]
    assert stored
    return 2 * 255 * max(int(np.abs(w.astype(int)).max()) for w in stored)


def test_no_pair_of_products_leaves_16_bits(
    int8: Fitted, fp32: onnx.ModelProto, calibration: Crops
) -> None:
    """x86 without VNNI adds two of them in 16 bits and clips; the full range would be clipped."""
    assert pair_sum(int8.graph) < 2**15
    full = fitted(fp32, calibration, agree, reduce_range=False)
    assert pair_sum(full.graph) > 2**15
    assert full.facts["reduce_range"] is False


def test_both_ends_stay_float32(int8: Fitted, fp32: onnx.ModelProto, members: Members) -> None:
    check_signature(int8.graph, members)

    def ends(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
        """Operators before the first Conv and behind the last, as they follow from their inputs."""
        nodes = [n for n in model.graph.node if not n.op_type.endswith("quantizeLinear")]
        nodes = [n for n in nodes if n.op_type != "QuantizeLinear"]
        at = [i for i, n in enumerate(nodes) if n.op_type == "Conv"]
        return [n.op_type for n in nodes[: at[0]]], [n.op_type for n in nodes[at[-1] + 1 :]]

    stem, tail = ends(int8.graph)
    assert (stem, tail) == ends(fp32)
    assert tail[-1] == "Div"
    makers = made_by(int8.graph)
    (transpose,) = [n for n in int8.graph.graph.node if n.op_type == "Transpose"]
    assert makers[transpose.input[0]].op_type == "DequantizeLinear"
    for name in ("patch_embeddings", "image_embedding"):  # nothing 8-bit up to the last Conv
        asked = [name]
        while asked:
            node = makers.get(asked.pop())
            if node is not None and node is not transpose:
                assert node.op_type not in ("QuantizeLinear", "DequantizeLinear")
                asked.extend(node.input)


def test_embeddings_are_unit_vectors(int8: Fitted, calibration: Crops) -> None:
    image, patches = onnx_encoder(int8.graph.SerializeToString())(calibration.pixels[:4])
    for e in (image, patches):
        np.testing.assert_allclose(np.linalg.norm(e, axis=-1), 1, atol=1e-5)


def test_one_file_that_says_what_the_encoder_says(int8: Fitted, fp32: onnx.ModelProto) -> None:
    graph = int8.graph
    assert list(graph.metadata_props) == list(fp32.metadata_props)
    assert len(graph.metadata_props) == 4
    assert (graph.producer_name, graph.producer_version) == (fp32.producer_name, "")
    assert (graph.ir_version, list(graph.opset_import)) == (
        fp32.ir_version, list(fp32.opset_import),
    )  # fmt: skip
    assert all(t.data_location == TensorProto.DEFAULT for t in graph.graph.initializer)
    data = graph.SerializeToString()
    here = str(Path(__file__).parent.parent.parent).encode()
    for trace in (here, tempfile.gettempdir().encode(), b"site-packages", b".py", b"onnx.quantize",
                  b"onnx.infer"):  # fmt: skip
        assert trace not in data


FIT = """
import sys, onnx
from pathlib import Path
from tier_export.crops import calibration_crops
from tier_export.int8 import fit_int8
from tier_infer.bundle import sha256
from tier_infer.geometry import GEOMETRIES
calibration = calibration_crops("phantoms", GEOMETRIES["small-112"], "mimic-jpg")
encoder = onnx.load(sys.argv[1])
before = encoder.SerializeToString()
graph, _ = fit_int8(encoder, calibration, lambda graph: None, lambda words: None)
assert encoder.SerializeToString() == before
print(sha256(graph.SerializeToString()))
"""


def test_the_same_input_gives_the_same_bytes(
    site: Path, fp32: onnx.ModelProto, calibration: Crops
) -> None:
    """In two processes: the library walks through sets, whose order differs between them. The child
    also shows that nothing else is printed, that no warning appears and that no file stays."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", FIT, str(site / "bundle/image_encoder.onnx")],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ
            | {"PYTHONHASHSEED": "1", "TMPDIR": folder, "ORT_DISABLE_TELEMETRY": "1"},
        )
        assert os.listdir(folder) == []
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    handlers = list(logging.getLogger().handlers)
    here = fitted(fp32, calibration, agree).graph.SerializeToString()
    assert logging.getLogger().handlers == handlers
    assert done.stdout == f"{sha256(here)}\n"


def test_the_step_into_8_bits_stays_behind_the_pool(int8: Fitted, tmp_path: Path) -> None:
    """onnxruntime would move it to before the MaxPool, where its 8-bit pool is slow."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(int8.graph.SerializeToString(), options)
    optimised = onnx.load(str(tmp_path / "optimised.onnx"))
    (pool,) = [node for node in optimised.graph.node if node.op_type == "MaxPool"]
    assert made_by(optimised)[pool.input[0]].op_type in ("Conv", "FusedConv", "Relu")
    assert [n.op_type for n in optimised.graph.node].count("QLinearConv") >= 5


def inner_pair(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The two Convs of a block in the middle: nothing else reads what is between them."""
    makers = made_by(model)
    read = [name for node in model.graph.node for name in node.input]
    pairs = []
    for second in convs(model):
        relu = makers[second.input[0]]
        first = makers[relu.input[0]]
        if (relu.op_type, first.op_type) == ("Relu", "Conv") and read.count(relu.output[0]) == 1:
            pairs.append([first, second])
    return pairs[len(pairs) // 2]


def with_outliers(fp32: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The same function, but one channel between two Convs is 300 times as large as it was.

    As one tensor has one step for all its channels, the others lose 8 of their 8 bits.
    """
    model = onnx.ModelProto()
    model.CopyFrom(fp32)
    first, second = inner_pair(model)
    tensors = {t.name: t for t in model.graph.initializer}
    values = {name: numpy_helper.to_array(t).copy() for name, t in tensors.items()}
    largest = int(np.abs(values[first.input[1]]).sum((1, 2, 3)).argmax())
    values[first.input[1]][largest] *= 300
    values[first.input[2]][largest] *= 300
    values[second.input[1]][:, largest] /= 300
    for name in (*first.input[1:], second.input[1]):
        tensors[name].CopyFrom(numpy_helper.from_array(values[name], name))
    return model, [first.name, second.name]


def test_layers_around_outliers_are_left_out(fp32: onnx.ModelProto, calibration: Crops) -> None:
    model, around = with_outliers(fp32)
    pixels = calibration.pixels[:16]
    exact, _ = onnx_encoder(fp32.SerializeToString())(pixels)
    image, _ = onnx_encoder(model.SerializeToString())(pixels)
    assert np.abs(image - exact).max() < 1e-5  # in float32 nothing happened
    errors: list[float] = []

    def judge(graph: bytes) -> None:
        errors.append(rms(onnx_encoder(graph)(pixels)[0] - exact) / rms(exact - exact.mean(0)))
        if errors[-1] > 0.3:
            raise ParityError(f"embeddings differ by {errors[-1]}")

    found = fitted(model, calibration, judge)
    assert errors[0] > 0.5
    kept = {row["node"]: row for row in found.facts["kept_float32"]}
    assert set(kept) == {*around, convs(fp32)[0].name}
    for name in around:
        assert is_float(found.graph, name)
        assert kept[name]["op"] == "Conv"
        assert kept[name]["reason"].startswith("sensitive: in 8 bits it alone moves")
        assert kept[name]["weight"].endswith(("conv1.weight", "conv2.weight"))
        assert kept[name]["weight"].removesuffix(".weight") in found.facts["summary"]
    assert found.facts["quantised"] == 8
    assert 2 / 3 <= found.facts["share"] < 1
    assert f"embeddings differ by {errors[0]}" in found.said[1]


def test_layers_are_left_out_until_the_judge_agrees(
    fp32: onnx.ModelProto, calibration: Crops
) -> None:
    model, around = with_outliers(fp32)
    tried: list[int] = []

    def judge(graph: bytes) -> None:
        found = onnx.load_model_from_string(graph)
        tried.append(sum(is_float(found, conv.name) for conv in convs(fp32)))
        if not is_float(found, around[0]):
            raise ParityError("edema 0.02")

    found = fitted(model, calibration, judge)
    assert around[0] in [row["node"] for row in found.facts["kept_float32"]]
    assert tried[0] == 1  # the stem
    assert tried == sorted(tried)
    assert 1 < len(tried) <= 3
    assert found.facts["quantised"] == 11 - tried[-1]
    assert found.said[1].startswith("int8: edema 0.02; ranking")


def test_a_gate_that_stays_broken_is_the_last_refusal(
    fp32: onnx.ModelProto, calibration: Crops
) -> None:
    refusals: list[ParityError] = []
    shares = []
    sizes = {t.name: int(np.prod(t.dims)) for t in fp32.graph.initializer}
    values = {v.name: v for v in onnx.shape_inference.infer_shapes(fp32).graph.value_info}
    cost = {}
    for conv in convs(fp32):  # weights times places
        _, _, height, width = values[conv.output[0]].type.tensor_type.shape.dim
        cost[conv.name] = sizes[conv.input[1]] * height.dim_value * width.dim_value

    def judge(graph: bytes) -> None:
        model = onnx.load_model_from_string(graph)
        spent = sum(c for name, c in cost.items() if is_float(model, name))
        shares.append(spent / sum(cost.values()))
        refusals.append(ParityError(f"AUC differs, attempt {len(refusals)}"))
        raise refusals[-1]

    with pytest.raises(ParityError) as raised:
        fitted(fp32, calibration, judge)
    assert raised.value is refusals[-1]
    assert len(refusals) > 2
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] <= 1 / 3


def test_members_of_an_ensemble_are_all_8_bit(
    members: Members, calibration: Crops, tmp_path: Path
) -> None:
    (first,) = members.networks
    pair = members_of([first, saved(shifted(first, 1, 0.1), tmp_path / "other.pt")])
    found = fitted(encoder_graph(pair), calibration, agree)
    assert found.facts["quantised"] == 20
    in_float = [conv.input[1] for conv in convs(found.graph) if is_float(found.graph, conv.name)]
    assert in_float == [f"images.{member}.trunk.conv1.weight" for member in (0, 1)]
    check_signature(found.graph, pair)
    pixels = calibration.pixels[:16]
    exact, _ = pair.encode(pixels)
    image, _ = onnx_encoder(found.graph.SerializeToString())(pixels)
    assert 0 < rms(image - exact) < 0.01 * rms(exact - exact.mean(0)) + 0.005


class Transformer(torch.nn.Module):
    """CheXzero's image side on 64 pixels, with three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ViTTrunk(image=64, patch=16, width=128, layers=3)
        self.proj = torch.nn.Conv2d(128, 32, 1, bias=False)
        for key, value in self.state_dict().items():
            value.copy_(tame(key, tuple(value.shape), "float32", 0))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = normalise(pixels, torch.full((3,), 0.4), torch.full((3,), 0.3))
        token, cells = self.trunk(x)
        image, patches = self.proj(token[..., None, None])[..., 0, 0], self.proj(cells)
        patches = patches.permute(0, 2, 3, 1)
        return image / image.norm(dim=-1, keepdim=True), patches / patches.norm(
            dim=-1, keepdim=True
        )


def test_a_transformer_keeps_attention_and_layer_norm(calibration: Crops) -> None:
    model = Transformer().eval()
    pixels = calibration.pixels[:32, 24:88, 24:88].copy()
    with quiet():
        program = torch.onnx.export(
            model, (torch.zeros(2, 64, 64, dtype=torch.uint8),), dynamo=True, opset_version=18,
            input_names=["pixels"], output_names=["image_embedding", "patch_embeddings"],
            dynamic_shapes={"pixels": {0: "N"}}, external_data=False, verbose=False,
        )  # fmt: skip
    assert program is not None
    found = fitted(program.model_proto, Crops(pixels, {}, "cut"), agree)
    makers, weights = made_by(found.graph), weights_of(found.graph)
    products = [n for n in found.graph.graph.node if n.op_type == "MatMul"]
    constant = [n for n in products if makers[n.input[1]].input[0] in weights]
    assert len(constant) == 3 * 4  # of a block: q, k and v in one, out, and two of the MLP
    assert found.facts["quantised"] == 12 + 2  # the projection twice
    for node in constant:
        stored = weights[makers[node.input[1]].input[0]]
        assert stored.dtype == np.int8
        assert weights[makers[node.input[1]].input[1]].shape == stored.shape[1:]
        read_by = {n.op_type for n in found.graph.graph.node if node.output[0] in n.input}
        assert read_by == {"Add"}  # in float32: onnxruntime's kernel gives that
    reasons = [row["reason"].partition(":")[0] for row in found.facts["kept_float32"]]
    assert reasons == ["stem"] + ["attention"] * 3 * 2
    kinds = {v.name: v.type.tensor_type.elem_type for v in found.graph.graph.value_info}
    for node in found.graph.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax") or (
            node in products and node not in constant
        ):
            assert kinds[node.output[0]] == TensorProto.FLOAT
            around = {makers[name].op_type for name in node.input if name in makers}
            assert "DequantizeLinear" not in around
    with torch.no_grad():
        exact = model(torch.from_numpy(pixels))[0].numpy()
    image, _ = onnx_encoder(found.graph.SerializeToString())(pixels)
    error, spread = rms(image - exact), rms(exact - exact.mean(0))
    assert 0 < error < 0.2 * spread
