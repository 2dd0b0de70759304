"""python -m pytest tests/export/test_imports_export.py -- every architecture exports and scores.

Image towers in full size with tame weights, text towers of their kind but tiny. Each checkpoint is
saved, loaded, exported and scored by the runtime; the scores are those of
PyTorch on pixels that were normalised here as the published code does it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image
from torch import Tensor

import tier_export.golden
from tests.conftest import DATA
from tests.train.layouts import tame
from tier_export.crops import phantom_crops
from tier_export.export import Wish, export
from tier_export.members import members_of
from tier_export.parity import Crops
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.engine import Engine
from tier_infer.geometry import GEOMETRIES, to_crop
from tier_infer.golden import read_golden, replay
from tier_infer.label_sets import LabelSet, parse_label_set
from tier_infer.scoring import score_images, select_labels
from tier_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tier_train.model import DualEncoder
from tier_train.recipe import recipe_from
from tier_train.towers.clip_text import ClipTokenizer
from tier_train.towers.text_encoder import Tokenizer
from tier_train.towers.wordpiece import WordPiece, train_vocabulary
from tier_train.zero_shot import query_table

LABELS: LabelSet = parse_label_set(
    {"set": "two", "label": [
        {"id": "edema", "positive": ["Edema is present."], "negative": ["No edema."]},
        {"id": "normal", "positive": ["The lungs are clear."]},
    ]},
    "test",
)  # fmt: skip
WORDS = {"text_width": 32, "text_layers": 2, "text_heads": 2}
RESNET: dict[str, Any] = {"arch": "resnet50", "global_pool": "mean_then_norm", **WORDS}
RECIPES: dict[str, dict[str, Any]] = {
    "biovil": {**RESNET, "geometry": "biovil-480-raw"},
    "biovil-t": {**RESNET, "geometry": "biovil-t-448-raw"},
    "tier": {**RESNET, "geometry": "tier-224-imagenet"},
    "tier-layer3": {
        **RESNET, "geometry": "tier-224-imagenet", "patch_layer": "layer3",
        "global_pool": "norm_then_mean",
    },
    "chexzero": {
        **WORDS, "geometry": "chexzero-320pad-224", "arch": "vit-b32", "projector": "linear",
        "global_pool": "cls", "embed_dim": 512, "text_arch": "clip", "max_tokens": 77,
    },
    "medclip": {
        **RESNET, "geometry": "medclip-224", "projector": "linear", "embed_dim": 512,
        "text_arch": "medclip", "max_tokens": 77,
    },
}  # fmt: skip
GRIDS = {"biovil": 15, "biovil-t": 14, "tier": 7, "tier-layer3": 14, "chexzero": 7, "medclip": 7}


def in_imagenet_units(x: Tensor) -> Tensor:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return torch.cat([(x / 255 - m) / s for m, s in zip(mean, std, strict=True)], 1)


def in_chexzero_units(x: Tensor) -> Tensor:
    x = ((x - 101.48761) / 83.43944).expand(-1, 3, -1, -1)
    return torch.nn.functional.interpolate(x, size=224, mode="bicubic", antialias=False)


# float32 [N, 1, H, W] in 0..255 → what the published code feeds its network (peers: CheXzero's
# zero_shot.make, MedCLIP's extractor; hi-ml has no statistics).
PUBLISHED: dict[str, Callable[[Tensor], Tensor]] = {
    "biovil": lambda x: (x / 255).expand(-1, 3, -1, -1),
    "biovil-t": lambda x: (x / 255).expand(-1, 3, -1, -1),
    "tier": in_imagenet_units,
    "tier-layer3": in_imagenet_units,
    "chexzero": in_chexzero_units,
    "medclip": lambda x: ((x / 255 - 0.5862785803043838) / 0.27950088968644304).expand(
        -1, 3, -1, -1
    ),
}


@dataclass(frozen=True)
class Exported:
    name: str
    checkpoint: Checkpoint
    bundle: Bundle
    opened: dict[str, Engine] = field(default_factory=dict)

    @property
    def precisions(self) -> list[str]:
        return [row["precision"] for row in self.bundle.manifest.files.values()]

    def engine(self, precision: str) -> Engine:
        if precision not in self.opened:
            self.opened[precision] = Engine(self.bundle, "cpu", precision)
        return self.opened[precision]

    def graph(self, precision: str) -> onnx.ModelProto:
        return onnx.load_model_from_string(self.bundle.encoder(precision))


def make_checkpoint(name: str) -> Checkpoint:
    recipe = recipe_from({"name": name, **RECIPES[name]})
    tokenizer: Tokenizer
    if recipe.text_arch == "clip":
        tokenizer = ClipTokenizer(["e d", "e m", "l u"], recipe.max_tokens)
    else:
        vocabulary = train_vocabulary(["the lungs are clear", "no edema is present"], 200)
        tokenizer = WordPiece(vocabulary, recipe.max_tokens)
    torch.manual_seed(0)
    model = DualEncoder(recipe, tokenizer.vocab_size).eval()
    with torch.no_grad():
        for key, value in model.image.state_dict().items():
            if value.dtype == torch.float32:
                value.copy_(tame(key, tuple(value.shape), "float32", 0))
    training: dict[str, Any] = {"data": "imported"}
    if name == "chexzero":
        training |= {"patches": "not trained", "notes": ["heatmaps come from untrained patches"]}
    return Checkpoint(model, tokenizer, recipe, "minmax", ("frontal",), training, "")


@pytest.fixture(scope="module", params=list(RECIPES))
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    name, folder = request.param, tmp_path_factory.mktemp("exported")
    save_checkpoint(folder / "ckpt.pt", make_checkpoint(name))
    checkpoint = load_checkpoint(folder / "ckpt.pt")
    members = members_of([checkpoint])
    drawn = phantom_crops(members.geometry, checkpoint.intensity, 2).pixels
    flat = np.full_like(drawn[:1], 0), np.full_like(drawn[:1], 255)  # Z must span something
    crops = Crops(np.concatenate([drawn, *flat]), {}, "2 phantoms and 2 flat images")
    wish = Wish(fp16=name != "biovil-t")  # BioViL's network on fewer pixels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tier_export.golden, "COUNT", 2)
        export(members, [LABELS], crops, folder / "bundle", wish, lambda _: None)
    yield Exported(name, checkpoint, load_bundle(folder / "bundle"))
    for path in folder.rglob("*.*t*"):  # 0.3 GB of weights each
        if path.is_file():
            path.unlink()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, NDArray[np.integer[Any]]]:
    """Films that are not square: 8 bits as they are, and 16 of which the low byte is not zero."""
    folder = tmp_path_factory.mktemp("pictures")
    films = [np.asarray(Image.open(p)) for p in sorted((DATA / "nih").glob("*.jpg"))[:2]]
    tall, wide = films[0][:, 20:-30], films[1][10:-50]
    deep = wide.astype(np.uint16) * 200 + 77
    Image.fromarray(tall).save(folder / "tall.png")
    Image.fromarray(deep).save(folder / "deep.png")
    return {folder / "tall.png": tall, folder / "deep.png": deep}


def in_pytorch(
    exported: Exported, pictures: dict[Path, NDArray[np.integer[Any]]], brighter: float = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """scores [N, L] and cells [N, L, g, g]"""
    model, geometry = exported.checkpoint.model, GEOMETRIES[exported.checkpoint.recipe.geometry]
    crops = []
    for pixels in pictures.values():
        if pixels.dtype == np.uint16:  # OpenCV keeps the high byte, Pillow as TIER calls it cuts
            pixels = pixels >> 8 if exported.name == "chexzero" else np.minimum(pixels // 255, 255)
        crops.append(to_crop(pixels.astype(np.uint8), geometry))
    x = torch.from_numpy(np.stack(crops)).float().unsqueeze(1) + brighter
    with torch.no_grad():
        image_e, patch_e = model.image(PUBLISHED[exported.name](x))
        table = query_table(model, exported.checkpoint.tokenizer, LABELS)
        return (image_e @ table.T).numpy(), (patch_e @ table.T).permute(0, 3, 1, 2).numpy()


def test_pictures_score_as_in_pytorch(
    exported: Exported, pictures: dict[Path, NDArray[np.integer[Any]]]
) -> None:
    scores, cells = in_pytorch(exported, pictures)
    off, _ = in_pytorch(exported, pictures, brighter=0.5)  # of 255 grey levels
    assert np.abs(off - scores).max() > 2e-5, "these weights see too little for this comparison"
    golden = read_golden(exported.bundle)
    assert golden is not None
    paths = [str(path) for path in pictures]
    selection = select_labels(exported.bundle, None)
    for precision, dz, dcell in (("fp32", 1e-5, 1e-4), ("fp16", 2e-3, 1e-2)):
        if precision not in exported.precisions:
            continue
        engine = exported.engine(precision)
        found = list(score_images(paths, exported.bundle, engine, selection, keep_heat=True))
        assert [image.status for image in found] == ["scored", "scored"]
        for image, z, heat in zip(found, scores, cells, strict=True):
            np.testing.assert_allclose(list(image.scores.values()), z, atol=dz, rtol=0)
            assert ("patches_untrained" in image.flags) == (exported.name == "chexzero")
            assert image.heat is not None
            np.testing.assert_allclose(image.heat, heat, atol=dcell, rtol=0)
        assert replay(exported.bundle, engine, golden).breaches == []


def test_extremes_alone_and_in_a_batch(exported: Exported) -> None:
    side = int(exported.bundle.manifest.geometry["crop"])
    black = np.zeros((side, side), np.uint8)
    checkerboard = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = np.stack([black, black + 255, checkerboard])
    for precision in exported.precisions:
        engine = exported.engine(precision)
        whole, alone = engine.encode(pixels), engine.encode(pixels[2:])
        assert np.isfinite(whole.image).all()
        assert np.isfinite(whole.patches).all()
        np.testing.assert_allclose(alone.image, whole.image[2:], atol=1e-6, rtol=0)
        np.testing.assert_allclose(alone.patches, whole.patches[2:], atol=2e-6, rtol=0)


def test_the_manifest_describes_it(exported: Exported) -> None:
    manifest, side = exported.bundle.manifest, GRIDS[exported.name]
    assert manifest.grid == (side, side)
    assert manifest.geometry["name"] == RECIPES[exported.name]["geometry"]
    shape = manifest.graph["encoder"]["outputs"]["patch_embeddings"]["shape"]
    assert shape == ["N", side, side, manifest.embed_dim]
    (source,) = manifest.checkpoint
    if exported.name == "chexzero":
        assert source["patches"] == "not trained"
        assert source["notes"] == ["heatmaps come from untrained patches"]
    else:
        assert not {"patches", "notes"} & set(source)
    if exported.name != "biovil-t":
        certificate = json.loads(exported.bundle.certificate())
        assert len(certificate["precisions"]["fp16"]["proofs"]) == 2


def test_every_heavy_product_is_half(exported: Exported) -> None:
    if exported.name == "biovil-t":
        return
    graph = exported.graph("fp16").graph
    weights = {t.name: t for t in graph.initializer}
    kinds = {name: t.data_type for name, t in weights.items()}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    heavy = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    in_float = [n.op_type for n in heavy if kinds[n.output[0]] == TensorProto.FLOAT]
    operators = [n.op_type for n in graph.node]
    left = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == TensorProto.FLOAT)
    if exported.name == "chexzero":
        assert in_float == ["MatMul", "MatMul"]  # 320 to 224 pixels, before the network
        assert operators.count("Softmax") == 12
        norms = [n for n in graph.node if n.op_type == "LayerNormalization"]
        assert {kinds[n.output[0]] for n in norms} == {TensorProto.FLOAT}
        assert left < 320 * 224 + 26 * 2 * 768 + 768 + 100  # and the class token
    else:
        first = [n.input[1] for n in heavy if kinds[n.output[0]] == TensorProto.FLOAT]
        wanted = ["conv1", "layer1.0.conv1", "layer1.0.downsample.0"]
        assert first == [f"images.0.trunk.{name}.weight" for name in wanted]
        # 53 of the trunk, 10 of them in its last stage; two of the projector, MedCLIP's has one
        count = {"medclip": 54, "tier-layer3": 45}.get(exported.name, 55)
        assert operators.count("Conv") == count
        assert left < 64 * (147 + 64 + 256) + 500  # and biases
    assert "BatchNormalization" not in operators
