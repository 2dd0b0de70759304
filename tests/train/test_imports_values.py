"""python -m pytest tests/train/test_imports_values.py -- whole files whose numbers cannot be right.

And what tells one file from another: digests, names, notes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from tests.train import layouts
from tier_infer.errors import IntegrityError
from tier_train.imports import sources
from tier_train.imports.images import biovil_image, image_shapes, torchvision_trunk
from tier_train.imports.keymaps import TORCHVISION, convert
from tier_train.recipe import recipe_from

torch.set_num_threads(1)


def test_a_negative_variance_is_refused_by_name(tmp_path: Path) -> None:
    """BatchNorm takes its root: every score was NaN."""
    key = "layer1.0.bn1.running_var"
    expected = {f"trunk.{key}": torch.Size((2,))}
    state = dict.fromkeys(TORCHVISION.unused, torch.zeros(1))
    assert convert(tmp_path, state | {key: torch.tensor([0.0, 1.0])}, TORCHVISION, expected)
    with pytest.raises(IntegrityError, match=f"{key} is negative"):
        convert(tmp_path, state | {key: torch.tensor([1.0, -1e-3])}, TORCHVISION, expected)


def test_a_product_that_overflows_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each weight of BioViL-T is finite, their product is not."""
    layouts.let_hollow_in(monkeypatch)
    state = layouts.hollow("biovil-t")
    large = torch.tensor(1e30)
    for key in ("encoder.backbone_to_vit.weight", "projector.model.0.weight"):
        state[key] = large.expand(state[key].shape)
    torch.save(state, path := tmp_path / "biovil_t.pt")
    recipe = recipe_from({"arch": "resnet50", "geometry": "tier-224-imagenet", "embed_dim": 128})
    with pytest.raises(IntegrityError, match=r"biovil_t.pt: its projector .* not finite"):
        biovil_image(path, image_shapes(recipe), temporal=True)


@pytest.mark.parametrize(
    ("name", "bias", "weight"),
    [
        ("image.pt", "projector.model.1.bias", "projector.model.3.weight"),
        (
            "pytorch_model.bin",
            "cls_projection_head.LayerNorm.bias",
            "cls_projection_head.dense_to_output.weight",
        ),
    ],
    ids=["image", "text"],
)
def test_an_embedding_that_overflows_names_its_file(
    name: str, bias: str, weight: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite weights whose product is not."""
    layouts.let_hollow_in(monkeypatch)
    image, words = layouts.hollow("biovil"), layouts.hollow("cxr-bert")
    for key in (bias, weight):
        state = image if key in image else words
        state[key] = torch.full(state[key].shape, 1e30)
    torch.save(image, path := tmp_path / "image.pt")
    folder = layouts.write_cxr_bert(tmp_path / "words", words)
    with pytest.raises(IntegrityError, match=f"{name}: its embedding .* is not finite"):
        sources.SOURCES["biovil"](path, folder)


def test_every_file_that_was_read_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an old file, whose bytes have no checksum, is told of."""
    layouts.let_hollow_in(monkeypatch)
    path = tmp_path / "image.pt"
    torch.save(layouts.hollow("biovil"), path, _use_new_zipfile_serialization=False)
    folder = layouts.write_cxr_bert(tmp_path / "words", layouts.hollow("cxr-bert"))
    training = sources.SOURCES["biovil"](path, folder).training
    names = ("config.json", "vocab.txt", "tokenizer_config.json", "pytorch_model.bin")
    assert training["starts"] == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (path, *(folder / name for name in names))
    }
    told = [note for note in training["notes"] if "without checksums" in note]
    assert len(told) == 1
    assert told[0].startswith("image.pt is in torch's old format")
    assert training["starts"]["image.pt"] in told[0]


def test_torchvisions_name_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.let_hollow_in(monkeypatch)
    recipe = recipe_from({"arch": "resnet50", "geometry": "tier-224-imagenet"})
    torch.save(layouts.hollow("torchvision"), path := tmp_path / "resnet50.pth")
    right = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    named = path.rename(tmp_path / f"resnet50-{right}.pth")
    assert torchvision_trunk(named, image_shapes(recipe))
    wrong = named.rename(tmp_path / "resnet50-0676ba61.pth")
    with pytest.raises(IntegrityError, match="does not begin with 0676ba61"):
        torchvision_trunk(wrong, image_shapes(recipe))
