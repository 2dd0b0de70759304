"""python -m pytest tests/train/test_imports.py -- published layouts load whole and embed alike.

The expected embeddings are those of the source libraries' own classes (make_import_vectors.py).
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.conftest import DATA
from tests.data.make_import_vectors import SENTENCES
from tests.train import layouts
from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.checkpoint import Checkpoint, load_checkpoint
from tier_train.cli import main
from tier_train.imports import image_start, text_start
from tier_train.imports.sources import SOURCES
from tier_train.recipe import recipe_from
from tier_train.towers.clip_text import ClipTokenizer
from tier_train.towers.image_encoder import ImageEncoder
from tier_train.towers.text_encoder import embed_prompts

torch.set_num_threads(1)
IMPORTED = ("biovil", "biovil-t", "tier", "chexzero", "medclip")
FRONTAL, BOTH = ("frontal",), ("frontal", "lateral")
FIELDS = {  # geometry, intensity, pooling, prompts, text tokens, D
    "biovil": ("biovil-480-raw", "minmax", "mean_then_norm", "chexpert", 512, 128),
    "biovil-t": ("biovil-t-448-raw", "minmax", "mean_then_norm", "chexpert", 512, 128),
    "tier": ("tier-224-imagenet", "mimic-jpg", "mean_then_norm", "chexpert", 128, 128),
    "chexzero": ("chexzero-320pad-224", "mimic-jpg", "cls", "chexzero", 77, 512),
    "medclip": ("medclip-224", "mimic-jpg", "mean_then_norm", "medclip", 77, 512),
}


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    with np.load(DATA / "import_vectors.npz") as table:
        return dict(table)


@pytest.fixture(scope="module", params=IMPORTED)
def imported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Checkpoint]]:
    folder = tmp_path_factory.mktemp("published")
    yield request.param, SOURCES[request.param](*layouts.write_source(request.param, folder))
    shutil.rmtree(folder)  # half a gigabyte


def test_embeddings_equal_the_source_library(
    imported: tuple[str, Checkpoint], vectors: dict[str, Any]
) -> None:
    source, checkpoint = imported
    pixels = layouts.crops(GEOMETRIES[checkpoint.recipe.geometry].crop)
    with torch.no_grad():
        image_e, patch_e = checkpoint.model.encode_image(torch.from_numpy(pixels))
    cells = patch_e.flatten(1, 2)[:, vectors["cells"]]
    np.testing.assert_allclose(image_e, vectors[f"{source}_image"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(cells, vectors[f"{source}_patches"], rtol=0, atol=1e-4)
    words, tokenizer = checkpoint.model.words, checkpoint.tokenizer
    for prompt, text_e, ids in zip(
        layouts.PROMPTS, vectors[f"{source}_text"], vectors[f"{source}_ids"].tolist(), strict=True
    ):
        assert tokenizer.uncut(prompt) == [i for i in ids if i >= 0]
        assert tokenizer.can_read(prompt)
        own = embed_prompts(words, tokenizer, [prompt])[0]
        np.testing.assert_allclose(own, text_e, rtol=0, atol=1e-5)
    padded = vectors["medclip_padded" if source == "medclip" else f"{source}_text"]
    together = embed_prompts(words, tokenizer, layouts.PROMPTS)
    np.testing.assert_allclose(together, padded, rtol=0, atol=1e-5)


def test_each_keeps_what_its_source_fixes(imported: tuple[str, Checkpoint]) -> None:
    source, checkpoint = imported
    recipe, training = checkpoint.recipe, checkpoint.training
    assert FIELDS[source] == (
        *(recipe.geometry, checkpoint.intensity, recipe.global_pool, recipe.prompts),
        *(checkpoint.tokenizer.max_tokens, recipe.embed_dim),
    )
    assert checkpoint.views == (FRONTAL if source.startswith("biovil") else BOTH)
    assert training["patches"].startswith("not trained") is (source == "chexzero")
    assert recipe.intensity == checkpoint.intensity
    assert training["source"] == source
    assert layouts.FILES[source] in training["starts"]
    assert all(len(value) == 64 and "/" not in key for key, value in training["starts"].items())
    assert training["notes"]
    has_scale = source in ("tier", "chexzero", "medclip")  # tame: 4 and something
    assert (checkpoint.model.logit_scale.item() > 2.7) is has_scale


def test_the_command_writes_a_checkpoint(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectors: dict[str, Any]
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    files = [str(path) for path in layouts.write_source("chexzero", tmp_path / "published")]
    output = tmp_path / "ckpt.pt"
    result = runner.invoke(main, ["import", "chexzero", *files, "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert "151.3 million weights, nothing missing, nothing left over" in result.stdout
    assert "patches not trained" in result.stdout
    assert f"next: tier-export --fp16 {output}" in result.stdout
    assert "note: its loss saw the class token alone" in result.stderr
    checkpoint = load_checkpoint(output)
    assert checkpoint.training["patches"] == "not trained"
    with torch.no_grad():
        image_e, _ = checkpoint.model.encode_image(torch.from_numpy(layouts.crops(320)))
    np.testing.assert_allclose(image_e, vectors["chexzero_image"], rtol=0, atol=1e-5)
    words = embed_prompts(checkpoint.model.words, checkpoint.tokenizer, layouts.PROMPTS)
    np.testing.assert_allclose(words, vectors["chexzero_text"], rtol=0, atol=1e-5)
    shutil.rmtree(tmp_path / "published")
    output.unlink()


def test_torchvision_is_a_start_and_says_so(tmp_path: Path, vectors: dict[str, Any]) -> None:
    (path,) = layouts.write_source("torchvision", tmp_path)
    with pytest.raises(UsageError, match=r"no text tower.* image_init=torchvision"):
        SOURCES["torchvision"](path)
    recipe = recipe_from({"arch": "resnet50", "geometry": "tier-224-imagenet"})
    weights = image_start("torchvision", path, recipe)
    assert {key.partition(".")[0] for key in weights} == {"trunk"}
    encoder = ImageEncoder(recipe).eval()
    encoder.load_state_dict(weights, strict=False)
    mean, std = (
        torch.tensor(getattr(GEOMETRIES[recipe.geometry], name)).reshape(1, 3, 1, 1)
        for name in ("mean", "std")
    )
    x = (torch.from_numpy(layouts.crops(224))[:, None] / 255 - mean) / std
    with torch.no_grad():
        features = encoder.trunk(x).mean((2, 3))[:, :64]
    np.testing.assert_allclose(features, vectors["torchvision_features"], rtol=1e-5, atol=1e-5)
    path.unlink()


def test_training_starts_from_biovil_and_cxr_bert(tmp_path: Path) -> None:
    path, folder = layouts.write_source("biovil", tmp_path)
    table = {"arch": "resnet50", "geometry": "tier-224-imagenet", "embed_dim": 128}
    weights = image_start("biovil", path, recipe_from(table))
    state = layouts.state_of("biovil")
    assert torch.equal(weights["proj.3.bias"], state["projector.model.3.bias"])
    assert len(weights) == 326  # 328 less fc
    early = image_start("biovil", path, recipe_from(table | {"patch_layer": "layer3"}))
    assert set(early) == {k for k in weights if k.startswith("trunk.") and ".layer4." not in k}
    other = image_start("biovil", path, recipe_from(table | {"projector": "linear"}))
    assert set(other) == {key for key in weights if key.startswith("trunk.")}
    with pytest.raises(UsageError, match="goes with arch 'resnet50'"):
        image_start("biovil", path, recipe_from({}))
    sizes, words, tokenizer = text_start(folder, max_tokens=99)
    assert sizes == {
        "text_width": 768,
        "text_layers": 12,
        "text_heads": 12,
        "text_inner": 3072,
        "text_dropout": 0.1,
        "vocab_size": 30522,
    }
    text = layouts.state_of("cxr-bert")
    assert torch.equal(
        words["text.encoder.layer.11.output.dense.bias"],
        text["bert.encoder.layer.11.output.dense.bias"],
    )
    assert (tokenizer.max_tokens, tokenizer.vocab_size, len(words)) == (99, 30522, 203)
    shutil.rmtree(tmp_path)


def test_biovil_t_is_a_start_too(tmp_path: Path) -> None:
    path = tmp_path / "image.pt"
    torch.save(layouts.state_of("biovil-t"), path)
    recipe = recipe_from({"arch": "resnet50", "geometry": "tier-224-imagenet", "embed_dim": 128})
    assert image_start("biovil", path, recipe)["proj.0.weight"].shape == (128, 2048, 1, 1)


def test_the_byte_pairs_are_those_of_clip(vectors: dict[str, Any]) -> None:
    """Against CLIP's own tokenizer, over the same merges."""
    tokenizer = ClipTokenizer(list(itertools.islice(layouts.merges(), layouts.MERGES)))
    assert tokenizer.vocab_size == 49408
    for number, sentence in enumerate(SENTENCES):
        assert tokenizer.uncut(sentence) == vectors[f"clip_ids_{number}"].tolist(), sentence
    ids, mask = tokenizer(["edema", "pleural effusion " * 80])
    assert ids.shape == mask.shape == (2, 77)
    assert mask.sum(1).tolist() == [len(tokenizer.uncut("edema")), 77]
    assert ids[1, -1] == 49407, "a cut sentence still ends"
    assert not tokenizer.can_read("no <|endoftext|> edema")
    assert not tokenizer.can_read("no &lt;|endoftext|&gt; edema")
    assert not tokenizer.can_read("  ")
