"""python -m pytest tests/train/test_imports_towers.py -- CLIP's towers, MedCLIP's words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tier_infer.errors import IntegrityError, UsageError
from tier_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tier_train.imports import image_start
from tier_train.model import DualEncoder
from tier_train.recipe import Recipe, recipe_from
from tier_train.towers.clip_text import ClipTextEncoder
from tier_train.towers.image_encoder import ImageEncoder
from tier_train.towers.medclip_text import MedClipTextEncoder
from tier_train.towers.text_encoder import build_bert
from tier_train.towers.vit import ViTTrunk
from tier_train.towers.wordpiece import SPECIAL, WordPiece

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trunk() -> ViTTrunk:
    torch.manual_seed(0)
    return ViTTrunk(image=48, patch=16, width=64, layers=2).eval()


def test_cells_lie_where_the_image_shows_them(trunk: ViTTrunk) -> None:
    """Without attention and places a patch token sees its own patch only."""
    alone = ViTTrunk(image=48, patch=16, width=64, layers=0)
    nn.init.zeros_(alone.positional_embedding)
    x = torch.zeros(1, 3, 48, 48)
    x[:, :, 16:32, 32:] = 1.0  # row 1, column 2
    with torch.no_grad():
        cls, grid = alone(x)
        empty, nothing = alone(torch.zeros(1, 3, 48, 48))
    assert (cls.shape, grid.shape) == ((1, 64), (1, 64, 3, 3))
    assert torch.equal(cls, empty)
    changed = (grid - nothing).abs().sum((0, 1)) > 0
    assert changed.nonzero().tolist() == [[1, 2]]
    with torch.no_grad():
        assert not torch.equal(trunk(x)[0], trunk(torch.zeros(1, 3, 48, 48))[0])


def test_the_vision_transformer_learns() -> None:
    """Trained from nothing: every weight has a gradient through the image and patch embeddings."""
    recipe = recipe_from({"arch": "vit-b32", "geometry": "tier-224-imagenet", "global_pool": "cls"})
    torch.manual_seed(0)
    encoder = ImageEncoder(recipe)
    image_e, patch_e = encoder(torch.randn(2, 3, 224, 224))
    assert (image_e.shape, patch_e.shape) == ((2, 128), (2, 7, 7, 128))
    ((image_e[0] * image_e[1]).sum() + (patch_e[0] * patch_e[1]).sum()).backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max() > 0, name


def test_a_token_of_clip_sees_only_those_before_it() -> None:
    torch.manual_seed(1)
    tower = ClipTextEncoder(100, 64, 2, 2, 8, 16).eval()
    ids = torch.tensor([[1, 5, 6, 99, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        first = tower(ids, mask)
        other = tower(torch.tensor([[1, 5, 7, 99, 0, 0]]), mask)
        alone = tower.sentence_e(ids[:, :4], mask[:, :4])
        torch.testing.assert_close(first[:, :2], other[:, :2])
        assert (first[:, 2:4] - other[:, 2:4]).abs().amax(-1).min() > 1e-3
        torch.testing.assert_close(tower.sentence_e(ids, mask), first[:, 3])
        torch.testing.assert_close(alone, first[:, 3], atol=1e-6, rtol=0)  # padding changes nothing
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(1, 6))


def test_medclip_averages_three_layers_and_all_tokens() -> None:
    recipe: Recipe = recipe_from({"text_width": 32, "text_layers": 4, "text_heads": 2})
    torch.manual_seed(2)
    tower = MedClipTextEncoder(build_bert(recipe, 50), 32, 8).eval()
    ids, mask = torch.tensor([[2, 7, 8, 3, 0]]), torch.tensor([[1, 1, 1, 1, 0]])
    kept: list[torch.Tensor] = []
    for number in (0, 1, 3):
        layer = tower.text.get_submodule(f"encoder.layer.{number}")
        layer.register_forward_hook(lambda *call: kept.append(_tensor(call[2])))
    with torch.no_grad():
        token_e, text_e = tower(ids, mask), tower.sentence_e(ids, mask)
    mean = sum(kept[:3]) / 3
    assert isinstance(mean, torch.Tensor)
    each = mean @ tower.text_head.weight.T  # [1, 5, 8]
    torch.testing.assert_close(token_e, each / each.norm(dim=-1, keepdim=True))
    whole = each.mean(1)  # padding included
    torch.testing.assert_close(text_e, whole / whole.norm(dim=-1, keepdim=True))


def _tensor(output: object) -> torch.Tensor:
    first = output[0] if isinstance(output, tuple) else output
    assert isinstance(first, torch.Tensor)
    return first


@pytest.mark.parametrize("arch", ["clip", "medclip"])
def test_the_dual_encoder_builds_these_towers(arch: str) -> None:
    table = {"text_arch": arch, "text_width": 64, "text_heads": 1, "text_layers": 2}
    model = DualEncoder(recipe_from(table | {"embed_dim": 24}), vocab_size=90)
    ids, mask = torch.randint(0, 90, (3, 5)), torch.ones(3, 5, dtype=torch.int64)
    assert model.encode_text(ids, mask).shape == (3, 5, 24)
    assert model.words.sentence_e(ids, mask).shape == (3, 24)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours with a tiny text tower."""
    recipe = recipe_from({"text_width": 16, "text_layers": 1, "embed_dim": 8})
    torch.manual_seed(3)
    vocab = [*SPECIAL, "edema"]
    model = DualEncoder(recipe, len(vocab))
    path = tmp_path_factory.mktemp("narrow") / "ckpt.pt"
    words = WordPiece(vocab, 32)
    save_checkpoint(path, Checkpoint(model, words, recipe, "minmax", ("frontal",), {}, ""))
    return path


def test_training_starts_from_a_checkpoint_of_ours(narrow: Path) -> None:
    image = load_checkpoint(narrow).model.image.state_dict()
    weights = image_start("checkpoint", narrow, recipe_from({"embed_dim": 8}))
    assert weights.keys() == image.keys()
    assert all(torch.equal(weights[key], image[key]) for key in image)
    other = image_start("checkpoint", narrow, recipe_from({"embed_dim": 8, "projector": "linear"}))
    assert other.keys() == {key for key in image if key.startswith("trunk.")}
    deep = recipe_from({"arch": "resnet50", "geometry": "tier-224-imagenet"})
    with pytest.raises(UsageError, match="has arch 'narrow', the recipe 'resnet50'"):
        image_start("checkpoint", narrow, deep)


def test_published_weights_are_not_a_checkpoint_and_the_other_way_round(narrow: Path) -> None:
    deep = recipe_from({"arch": "resnet50", "geometry": "tier-224-imagenet"})
    with pytest.raises(IntegrityError, match="looks like a checkpoint of ours"):
        image_start("biovil", narrow, deep)
