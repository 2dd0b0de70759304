"""python -m pytest tests/export/test_graphs.py -- what stands in the exported graphs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from tier_export import LAST_OPSET
from tier_export.export import query_files
from tier_export.fp16 import half_share, to_fp16
from tier_export.graphs import check_signature, encoder_graph, exported, properties
from tier_export.half import HalfEncoder, HalfPart, fold
from tier_export.members import Members, members_of
from tier_infer.errors import UsageError
from tier_infer.geometry import described
from tier_infer.label_sets import load_label_set, parse_label_set
from tier_train.checkpoint import Checkpoint, load_checkpoint
from tier_train.towers.image_encoder import normalise
from tier_train.towers.vit import ViTTrunk
from tier_train.zero_shot import encode_images


@pytest.fixture(scope="module")
def checkpoint(site: Path) -> Checkpoint:
    return load_checkpoint(site / "ckpt.pt")


@pytest.fixture(scope="module")
def members(checkpoint: Checkpoint) -> Members:
    return members_of([checkpoint])


@pytest.fixture(scope="module")
def fp32(site: Path) -> onnx.ModelProto:
    return onnx.load(str(site / "bundle/image_encoder.onnx"))


@pytest.fixture(scope="module")
def fp16(site: Path) -> onnx.ModelProto:
    return onnx.load(str(site / "bundle/image_encoder.fp16.onnx"))


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_the_cast_comes_first_and_batch_norm_is_folded(fp32: onnx.ModelProto) -> None:
    assert ops(fp32)[0] == "Cast"  # NVIDIA's parser refuses anything else on uint8
    assert fp32.graph.node[0].input[0] == "pixels"
    assert "BatchNormalization" not in ops(fp32)
    assert {o.domain: o.version for o in fp32.opset_import}[""] == 18


def test_the_same_weights_give_the_same_bytes(members: Members, site: Path) -> None:
    again = encoder_graph(members).SerializeToString()
    assert again == (site / "bundle/image_encoder.onnx").read_bytes()


def test_a_graph_is_one_valid_file_that_says_what_it_takes(site: Path, members: Members) -> None:
    for path in (site / "bundle").glob("image_encoder*.onnx"):
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        kinds = {value.name: value.type.tensor_type for value in inferred.graph.value_info}
        assert all(kinds[name].HasField("shape") for n in model.graph.node for name in n.output
                   if name in kinds)  # fmt: skip
        assert not model.functions
        assert {o.domain: o.version for o in model.opset_import} == {"": 18}
        assert model.ir_version == 10
        locations = {tensor.data_location for tensor in model.graph.initializer}
        assert locations == {TensorProto.DEFAULT}
        assert [value.name for value in model.graph.input] == ["pixels"]
        names = [value.name for value in model.graph.output]
        assert names == ["image_embedding", "patch_embeddings"]
        session = onnxruntime.InferenceSession(str(path))
        stated = session.get_modelmeta().custom_metadata_map
        assert json.loads(stated["geometry"]) == described(members.geometry)
        assert json.loads(stated["checkpoints"]) == [members.sources[0].sha256]
        assert stated["intensity"] == "mimic-jpg"
        assert stated["notice"] == "Research use only, not for diagnostic use."
        assert set(stated) == {"geometry", "intensity", "checkpoints", "notice"}
        image, patches = session.run(None, {"pixels": np.zeros((0, 112, 112), np.uint8)})
        assert (image.shape, patches.shape) == ((0, 128), (0, 7, 7, 128))


def test_an_average_says_so(members: Members) -> None:
    averaged = Members(members.networks, members.sources * 2)
    assert properties(averaged)["combined"] == "average"


def test_the_last_opset_allowed(members: Members, fp32: onnx.ModelProto) -> None:
    """torch converts what it exports; FP16 and the query graph must follow."""
    later = encoder_graph(members, LAST_OPSET)
    assert check_signature(later, members)["opset"] == LAST_OPSET
    half = to_fp16(later)
    labels = load_label_set("chexpert")
    _, queries = query_files(members, [labels], LAST_OPSET, print)
    for model in (later, half, onnx.load_model_from_string(queries["chexpert"])):
        assert {o.domain: o.version for o in model.opset_import} == {"": LAST_OPSET}
        assert model.ir_version >= helper.find_min_ir_version_for(list(model.opset_import))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 112, 112), np.uint8)
    exact = run(fp32, pixels)
    np.testing.assert_allclose(run(later, pixels), exact, atol=1e-6)
    np.testing.assert_allclose(run(half, pixels), exact, atol=2e-3)


def run(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    image: np.ndarray = session.run(["image_embedding"], {"pixels": pixels})[0]
    return image


class RowMean(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1)


def test_an_opset_that_torch_can_not_give_is_refused() -> None:
    """It says so in the log and gives opset 18, with exit 0."""
    with pytest.raises(RuntimeError, match="torch exported opset 18, 17 was asked for"):
        exported(RowMean(), {"x": (torch.zeros(2, 3), {0: "N"})}, ["y"], 17)


@pytest.mark.parametrize("file", ["image_encoder.onnx", "image_encoder.fp16.onnx"])
def test_wrong_pixels_are_refused_by_the_graph_itself(site: Path, file: str) -> None:
    session = onnxruntime.InferenceSession(str(site / "bundle" / file))
    for wrong in (
        np.zeros((1, 112, 112), np.float32),
        np.zeros((1, 224, 224), np.uint8),
        np.zeros((112, 112), np.uint8),
    ):
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            session.run(None, {"pixels": wrong})


def test_the_signature_is_checked(members: Members, fp32: onnx.ModelProto) -> None:
    stated = check_signature(fp32, members)
    assert list(stated["outputs"]) == ["image_embedding", "patch_embeddings"]
    with pytest.raises(RuntimeError, match="it must be"):
        check_signature(fp32, Members(members.networks * 2, members.sources))


def test_fp16_is_half_inside_and_float_outside(
    fp32: onnx.ModelProto, fp16: onnx.ModelProto
) -> None:
    assert half_share(fp32) == 0
    assert half_share(fp16) > 0.95
    casts = ops(fp16).count("Cast") - ops(fp32).count("Cast")
    assert casts == 2
    assert {o.type.tensor_type.elem_type for o in fp16.graph.output} == {TensorProto.FLOAT}
    kept = {t.name: t for t in fp16.graph.initializer if t.data_type == TensorProto.FLOAT}
    convs = [node for node in fp16.graph.node if node.op_type == "Conv"]
    assert convs[0].input[1] in kept  # the stem: nine weights per output
    assert not any(node.input[1] in kept for node in convs[1:])
    assert fp16.ByteSize() < 0.55 * fp32.ByteSize()


def test_the_converter_leaves_its_source_alone(fp32: onnx.ModelProto) -> None:
    before = fp32.SerializeToString()
    to_fp16(fp32)
    assert fp32.SerializeToString() == before


def test_the_query_graph_is_eq_4(checkpoint: Checkpoint) -> None:
    """e·q⁺ − e·q⁻ in float64 from the prompts' own embeddings; without negatives q⁻ = 0."""
    labels = parse_label_set(
        {
            "set": "two",
            "label": [
                {"id": "one", "positive": ["Edema is present.", "Pulmonary edema."],
                 "negative": ["The lungs are clear."]},
                {"id": "bare", "positive": ["Cardiomegaly."], "codes": {"SNOMED": "8186001"}},
            ],
        },
        "test",
    )  # fmt: skip

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v)

    def cls(sentence: str) -> np.ndarray:
        ids, mask = checkpoint.tokenizer([sentence])
        with torch.no_grad():
            return unit(checkpoint.model.encode_text(ids, mask)[0, 0].double().numpy())

    q = unit(cls("Edema is present.") + cls("Pulmonary edema."))
    table = np.stack([q - cls("The lungs are clear."), cls("Cardiomegaly.")])
    _, queries = query_files(members_of([checkpoint]), [labels], 18, print)
    session = onnxruntime.InferenceSession(queries["two"])
    e = np.random.default_rng(0).standard_normal((5, 128)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    found = session.run(["scores"], {"embeddings": e})[0]
    np.testing.assert_allclose(found, e.astype(np.float64) @ table.T, atol=1e-6)
    meta = session.get_modelmeta().custom_metadata_map
    rows = json.loads(meta["labels"])
    assert [row["id"] for row in rows] == ["one", "bare"]
    assert rows[1]["codes"] == {"SNOMED": "8186001"}
    assert meta["text_sha256"] == checkpoint.text_sha256


def test_rounding_between_operators_is_half_arithmetic(checkpoint: Checkpoint) -> None:
    """Against torch's own half convolutions."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 112, 112), np.uint8))
    folded = fold(checkpoint.model.image)
    x = normalise(pixels, checkpoint.model.mean, checkpoint.model.std)
    trunk = folded.trunk
    with torch.no_grad():
        x = trunk.maxpool(trunk.relu(trunk.conv1(x))).half()  # the stem stays float32
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3):
            x = stage.half()(x)
        projected = folded.proj.half()(x).float().permute(0, 2, 3, 1)
        patch_e = projected / projected.norm(dim=-1, keepdim=True)
        image_e = patch_e.mean((1, 2)) / patch_e.mean((1, 2)).norm(dim=-1, keepdim=True)
    exact, _ = encode_images(checkpoint.model, pixels.numpy())
    image, patches = HalfEncoder(checkpoint.model)(pixels)
    error = (image_e - exact).abs().max()
    assert (image - image_e).abs().max() <= 0.5 * error  # closer to each other than to float32
    torch.testing.assert_close(patches, patch_e, atol=2e-3, rtol=0)


def test_a_rounded_transformer_errs_as_much_as_a_half_one() -> None:
    """torch's own half arithmetic takes other sums, so the errors differ, but not in size."""
    torch.manual_seed(0)
    trunk = ViTTrunk(image=64, patch=16, width=128, layers=3).eval()
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        exact = trunk(x)
        ours = HalfPart(copy.deepcopy(trunk))(x)
        theirs = copy.deepcopy(trunk).half()(x.half())
    for a, b, right in zip(ours, theirs, exact, strict=True):
        assert a.dtype == torch.float32
        assert 0.8 < (a - right).norm() / (b.float() - right).norm() < 1.25


class SelfAttention(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


def test_attention_is_rounded_between_its_operators() -> None:
    """Against half tensors in the order of the graph: one call would round once, at its end."""
    x = torch.randn(2, 3, 50, 64, generator=torch.Generator().manual_seed(0)).half()
    scaled = x * 64**-0.25
    theirs = (scaled @ scaled.transpose(-1, -2)).softmax(-1) @ x
    ours, exact = HalfPart(SelfAttention())(x.float()), SelfAttention()(x.float())
    assert (ours - theirs.float()).norm() < 0.2 * (exact - theirs.float()).norm()


def test_helper_models_are_valid() -> None:
    """The checker that every written graph passes does refuse something."""
    node = helper.make_node("Conv", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [], [])
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(helper.make_model(graph), full_check=True)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([{"id": "a", "positive": ["Отёк лёгких."]}], "no letters"),
        (
            [{"id": "a", "positive": ["edema " * 200]}],
            " tokens, allowed 128; make two sentences of it",
        ),
        ([{"id": "a", "positive": ["Edema."], "negative": ["Edema."]}], "mean the same"),
        ([{"id": i, "positive": ["Edema."]} for i in ("a", "b")], "have the same sentences"),
    ],
)
def test_prompts_that_ask_nothing_are_refused(
    members: Members, labels: list[dict[str, object]], words: str
) -> None:
    """Found in review: unreadable prompts became [UNK] and scored every image alike."""
    with pytest.raises(UsageError, match=words):
        query_files(members, [parse_label_set({"set": "s", "label": labels}, "test")], 18, print)
