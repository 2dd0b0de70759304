"""python -m pytest tests/train/test_image_encoder.py -- keys, shapes, norms, normalisation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.conftest import DATA
from tier_infer.geometry import GEOMETRIES
from tier_train.recipe import Recipe, recipe_from
from tier_train.towers.image_encoder import ImageEncoder, build_trunk, normalise, unit_norm

torch.set_num_threads(1)
GEOMETRY = {"narrow": "small-112", "resnet50": "tier-224-imagenet"}


def recipe_of(arch: str, **keys: object) -> Recipe:
    return recipe_from({"arch": arch, "geometry": GEOMETRY[arch], **keys})


@pytest.fixture(scope="module")
def narrow() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(Recipe()).eval()


def test_the_resnet50_trunk_has_torchvisions_keys_and_shapes() -> None:
    layout = json.loads((DATA / "torchvision_resnet50_keys.json").read_text(encoding="utf-8"))
    expected = {k: shape for k, shape in layout.items() if not k.startswith("fc.")}
    found = {k: list(v.shape) for k, v in build_trunk("resnet50").state_dict().items()}
    assert len(expected) == 318
    assert found == expected


@pytest.mark.parametrize(("arch", "channels"), [("narrow", 128), ("resnet50", 2048)])
def test_the_projection_has_biovils_keys(arch: str, channels: int) -> None:
    state = ImageEncoder(recipe_of(arch, embed_dim=96)).state_dict()
    projection = {k: tuple(v.shape) for k, v in state.items() if k.startswith("proj.")}
    assert projection == {
        "proj.0.weight": (96, channels, 1, 1),
        "proj.1.weight": (96,),
        "proj.1.bias": (96,),
        "proj.1.running_mean": (96,),
        "proj.1.running_var": (96,),
        "proj.1.num_batches_tracked": (),
        "proj.3.weight": (96, 96, 1, 1),
        "proj.3.bias": (96,),
    }
    assert {k.split(".")[0] for k in state} == {"trunk", "proj"}


@pytest.mark.parametrize(
    ("arch", "shape"), [("narrow", (3, 1, 112, 112)), ("resnet50", (1, 3, 224, 224))]
)
@pytest.mark.parametrize("pool", ["norm_then_mean", "mean_then_norm"])
def test_shapes_and_unit_norms(arch: str, shape: tuple[int, ...], pool: str) -> None:
    torch.manual_seed(1)
    encoder = ImageEncoder(recipe_of(arch, global_pool=pool)).eval()
    with torch.no_grad():
        image_e, patch_e = encoder(torch.randn(shape))
    assert image_e.shape == (shape[0], 128)
    assert patch_e.shape == (shape[0], 7, 7, 128)
    for embeddings in (image_e, patch_e):
        assert embeddings.dtype == torch.float32
        assert (embeddings.norm(dim=-1) - 1).abs().max() < 1e-5


def test_the_two_pools_are_what_they_are_called(narrow: ImageEncoder) -> None:
    x = torch.randn(2, 1, 112, 112, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = narrow.proj(narrow.trunk(x)).double().numpy()  # [N, D, 7, 7]
        first, patches = narrow(x)
        narrow.global_pool = "mean_then_norm"
        second, same_patches = narrow(x)
    narrow.global_pool = "norm_then_mean"

    def unit(v: np.ndarray) -> np.ndarray:
        return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))

    np.testing.assert_allclose(first, unit(unit(before).mean((2, 3))), atol=1e-5)
    np.testing.assert_allclose(second, unit(before.mean((2, 3))), atol=1e-5)
    np.testing.assert_allclose(patches, unit(before).transpose(0, 2, 3, 1), atol=1e-5)
    assert torch.equal(patches, same_patches)
    assert (first - second).abs().max() > 1e-3


def test_rows_and_columns_of_the_grid_are_those_of_the_image(narrow: ImageEncoder) -> None:
    x = torch.zeros(2, 1, 112, 112)
    x[1, :, 48:64, 0:16] = 4.0  # row 3, column 0
    with torch.no_grad():
        _, patch_e = narrow(x)
    change = (patch_e[1] - patch_e[0]).norm(dim=-1)
    row, column = divmod(int(change.argmax()), 7)
    assert abs(row - 3) <= 1
    assert column <= 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("preset", sorted(GEOMETRIES))
def test_normalise_is_the_textbook_formula(preset: str, dtype: torch.dtype) -> None:
    geometry = GEOMETRIES[preset]
    pixels = np.arange(256).reshape(1, 16, 16)
    mean, std = np.array(geometry.mean), np.array(geometry.std)
    exact = (pixels[:, None] / 255 - mean.reshape(1, -1, 1, 1)) / std.reshape(1, -1, 1, 1)
    out = normalise(
        torch.from_numpy(pixels).to(dtype),
        torch.tensor(geometry.mean),
        torch.tensor(geometry.std),
    )
    assert out.dtype == torch.float32
    assert out.shape == (1, len(geometry.mean), 16, 16)
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-6)


def test_normalise_repeats_the_one_channel() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8)
    three = normalise(pixels, torch.full((3,), 0.5), torch.full((3,), 0.25))
    one = normalise(pixels, torch.tensor([0.5]), torch.tensor([0.25]))
    assert three.shape == (1, 3, 8, 8)
    assert torch.equal(three, one.expand(1, 3, 8, 8))


def test_unit_norm_of_nothing_is_nothing() -> None:
    assert torch.equal(unit_norm(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_unit_norm_of_nothing_has_a_gradient() -> None:
    v = torch.zeros(2, 4, requires_grad=True)
    unit_norm(v).sum().backward()
    assert v.grad is not None
    assert torch.isfinite(v.grad).all()
