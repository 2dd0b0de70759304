"""One function per published model: its files → a checkpoint like our own.

What each source fixes beside weights stands here: geometry, intensity, pooling, prompts, views and
what its users must know. docs/imports.md gives the reasons.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.files import sha256_of
from tier_infer.geometry import GEOMETRIES
from tier_train.checkpoint import Checkpoint, flat_state, shown
from tier_train.imports import keymaps
from tier_train.imports.folders import (
    HEAD,
    cxr_bert_weights,
    read_cxr_bert,
    read_merges,
    read_vocabulary,
    vocabulary_files,
)
from tier_train.imports.images import biovil_image, image_shapes, torchvision_trunk
from tier_train.imports.keymaps import KeyMap, convert, guess, layers
from tier_train.imports.weights import TIER_CLASSES, load_table, plain_state
from tier_train.model import DualEncoder
from tier_train.recipe import Recipe, recipe_from
from tier_train.towers.text_encoder import Tokenizer, embed_prompts

FRONTAL, BOTH = ("frontal",), ("frontal", "lateral")
THROUGH_MEAN = "trained through their mean"
RESNET = {"arch": "resnet50", "projector": "mlp", "global_pool": "mean_then_norm"}


def biovil(image: Path, folder: Path) -> Checkpoint:
    """BioViL (Boecking et al. 2022): biovil_image_resnet50_proj_size_128.pt and CXR-BERT."""
    return _biovil(image, folder, "biovil", "biovil-480-raw")


def biovil_t(image: Path, folder: Path) -> Checkpoint:
    """BioViL-T (Bannur et al. 2023) without a prior image: its image model and its own CXR-BERT."""
    note = "scores a single image: the comparison with a prior image is left out"
    return _biovil(image, folder, "biovil-t", "biovil-t-448-raw", note)


def _biovil(image: Path, folder: Path, name: str, geometry: str, *notes: str) -> Checkpoint:
    recipe = recipe_from(
        RESNET | {"name": name, "geometry": geometry, "intensity": "minmax", "max_tokens": 512}
    )
    pixels = biovil_image(image, image_shapes(recipe), temporal=name == "biovil-t")
    sizes, words, tokenizer = read_cxr_bert(folder, recipe.max_tokens)
    recipe = recipe_from({**vars(recipe), **sizes})
    weights = cxr_bert_weights(folder)
    files = [image, weights, folder / "config.json", *vocabulary_files(folder)]
    notes += (
        "prompts keep their full stop; hi-ml strips a trailing one before tokenising",
        "MONOCHROME1 files are inverted; hi-ml scales stored values as they are",
    )
    out = _checkpoint(recipe, tokenizer, pixels | words, FRONTAL, THROUGH_MEAN, files, notes)
    _check_finite(out, image, weights)
    return out


def tier(weights: Path, folder: Path) -> Checkpoint:
    """TIER's own best_model.pt or je_model-*.pt; of CXR-BERT's folder only the vocabulary."""
    table = load_table(weights, TIER_CLASSES)
    if not isinstance(table, dict) or "model_state_dict" not in table:
        raise IntegrityError(f"{weights} is not a TIER checkpoint: it has no model_state_dict")
    state = plain_state(weights, table)
    tokenizer = read_vocabulary(folder, 128)  # the released code truncates there
    fixed = RESNET | {"name": "tier", "geometry": "tier-224-imagenet", "intensity": "mimic-jpg"}
    text = _bert_sizes(weights, state, "transformer.bert.")
    dim = _shape(weights, state, "cnn.projector.model.3.bias", 1)[0]
    more = {"max_tokens": 128, "text_dropout": 0.1, "embed_dim": dim}
    recipe = _recipe(weights, fixed | text | more)
    _check_vocabulary(folder, tokenizer, recipe)
    out = _convert(weights, state, keymaps.TIER, recipe)
    notes = (
        "the image embedding is the mean of patches before the norm, as the released code has it; "
        "Fig. 2 of the paper normalises first",
        "prompts are the paper's; tier-export --queries released_code has the code's, with one "
        "negative more",
    )
    files = [weights, *vocabulary_files(folder)]
    checkpoint = _checkpoint(recipe, tokenizer, out, BOTH, "trained", files, notes)
    _check_finite(checkpoint, weights, weights)
    return checkpoint


def chexzero(weights: Path, bpe: Path) -> Checkpoint:
    """CheXzero (Tiu et al. 2022): CLIP ViT-B/32 as best_*.pt, and CLIP's list of merges."""
    from tier_train.towers.clip_text import ClipTokenizer

    state = plain_state(weights, load_table(weights))
    vocab_size, width = _shape(weights, state, "token_embedding.weight", 2)
    recipe = _recipe(weights, {
        "name": "chexzero", "geometry": "chexzero-320pad-224", "intensity": "mimic-jpg",
        "arch": "vit-b32", "projector": "linear", "global_pool": "cls", "prompts": "chexzero",
        "embed_dim": _shape(weights, state, "text_projection", 2)[1],
        "text_arch": "clip", "text_width": width, "text_heads": max(1, width // HEAD),
        "text_layers": layers(state, "transformer.resblocks.#."), "vocab_size": vocab_size,
        "max_tokens": _shape(weights, state, "positional_embedding", 2)[0],
    })  # fmt: skip
    merges = read_merges(bpe, vocab_size)  # before weights are converted, which takes memory
    out = _convert(weights, state, keymaps.CHEXZERO, recipe)
    tokenizer = ClipTokenizer(merges, recipe.max_tokens)
    notes = (
        "its loss saw the class token alone: heatmaps come from patch tokens that nothing trained",
        "half-precision weights are computed in float32",
        "scores are margins; CheXzero reports the softmax of the pair, which orders images alike",
    )
    files = [weights, bpe]
    checkpoint = _checkpoint(recipe, tokenizer, out, BOTH, "not trained", files, notes)
    _check_finite(checkpoint, weights, weights)
    return checkpoint


def medclip(weights: Path, folder: Path) -> Checkpoint:
    """MedCLIP with the ResNet (Wang et al. 2022): pytorch_model.bin, Bio_ClinicalBERT's folder."""
    state = plain_state(weights, load_table(weights))
    # Without a tokenizer_config.json transformers lower-cases, and so MedCLIP was trained.
    tokenizer = read_vocabulary(folder, 77, default_lower_case=True)
    recipe = _recipe(weights, {
        "name": "medclip", "geometry": "medclip-224", "intensity": "mimic-jpg",
        **RESNET, "projector": "linear", "prompts": "medclip",
        "embed_dim": _shape(weights, state, "vision_model.model.fc.weight", 2)[0],
        "text_arch": "medclip", "max_tokens": 77,
        **_bert_sizes(weights, state, "text_model.model."),
    })  # fmt: skip
    if recipe.text_layers < 2:
        raise IntegrityError(f"{weights}: its text tower has one layer, MedCLIP averages three")
    _check_vocabulary(folder, tokenizer, recipe)
    out = _convert(weights, state, keymaps.MEDCLIP, recipe)
    notes = (
        "each prompt is embedded alone; MedCLIP's text embedding counts padding, so that in its "
        "own code a prompt's embedding depends on the longest beside it",
        "all prompts of a class are averaged; MedCLIP draws ten of them without a seed",
    )
    files = [weights, *vocabulary_files(folder)]
    checkpoint = _checkpoint(recipe, tokenizer, out, BOTH, THROUGH_MEAN, files, notes)
    _check_finite(checkpoint, weights, weights)
    return checkpoint


def torchvision(weights: Path) -> NoReturn:
    """ImageNet's ResNet-50 is a start for training: without words there is nothing to score."""
    recipe = recipe_from(RESNET | {"geometry": "tier-224-imagenet"})
    torchvision_trunk(weights, image_shapes(recipe))
    raise UsageError(
        f"{weights} is whole, but ImageNet's ResNet-50 has no text tower to score with; train from "
        f"it: tier-train run --recipe paper --set image_init=torchvision --set image_file={weights}"
    )


SOURCES: dict[str, Callable[..., Checkpoint]] = {
    "biovil": biovil,
    "biovil-t": biovil_t,
    "tier": tier,
    "chexzero": chexzero,
    "medclip": medclip,
    "torchvision": torchvision,
}


def _recipe(path: Path, table: dict[str, Any]) -> Recipe:
    """Sizes come from the file: one that no recipe can have is the file's fault."""
    try:
        return recipe_from(table)
    except UsageError as error:
        raise IntegrityError(f"{path} has weights of another model: {error}") from None


def _convert(
    path: Path, state: dict[str, Tensor], keys: KeyMap, recipe: Recipe
) -> dict[str, Tensor]:
    with torch.device("meta"):  # keys and shapes without memory
        model = DualEncoder(recipe, recipe.vocab_size)
    expected = {key: value.shape for key, value in flat_state(model).items()}
    return convert(path, state, keys, expected)


def _checkpoint(
    recipe: Recipe,
    tokenizer: Tokenizer,
    weights: dict[str, Tensor],
    views: tuple[str, ...],
    patches: str,
    files: list[Path],
    notes: tuple[str, ...],
) -> Checkpoint:
    model = DualEncoder(recipe, tokenizer.vocab_size).eval()
    own = flat_state(model)
    weights = {"logit_scale": own["logit_scale"]} | weights  # BioViL's files have none
    assert set(weights) == set(own)
    with torch.no_grad():
        for key, value in own.items():  # `own` holds the model's own storage
            value.copy_(weights[key])
    # The old format keeps no checksums, so that a flipped bit in a weight looks like a weight.
    notes += tuple(
        f"{file.name} is in torch's old format, without checksums: compare its SHA-256 "
        f"{sha256_of(file)} with the published one"
        for file in files
        if file.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(file)
    )
    training = {
        "data": "imported",
        "source": recipe.name,
        "starts": {file.name: sha256_of(file) for file in files},
        "patches": patches,
        "notes": list(notes),
    }
    return Checkpoint(model, tokenizer, recipe, recipe.intensity, views, training, alarm="")


def _check_finite(checkpoint: Checkpoint, image: Path, words: Path) -> None:
    """Finite weights may still overflow: one grey picture and one sentence show it."""
    side = GEOMETRIES[checkpoint.recipe.geometry].crop
    with torch.no_grad():
        image_e, patch_e = checkpoint.model.encode_image(
            torch.full((1, side, side), 128, dtype=torch.uint8)
        )
    text_e = embed_prompts(checkpoint.model.words, checkpoint.tokenizer, ["No finding."])
    for path, what, parts in (
        (image, "a grey image", (image_e, patch_e)),
        (words, "text", (text_e,)),
    ):
        if not all(torch.isfinite(part).all() for part in parts):
            raise IntegrityError(
                f"{path}: its embedding of {what} is not finite; fetch the file again"
            )


def _bert_sizes(path: Path, state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    vocab_size, width = _shape(path, state, f"{prefix}embeddings.word_embeddings.weight", 2)
    inner, _ = _shape(path, state, f"{prefix}encoder.layer.0.intermediate.dense.weight", 2)
    return {
        "text_width": width,
        "text_heads": max(1, width // HEAD),
        "text_layers": layers(state, f"{prefix}encoder.layer.#."),
        "text_inner": inner,
        "vocab_size": vocab_size,
    }


def _shape(path: Path, state: Mapping[str, Tensor], key: str, dims: int) -> torch.Size:
    if key not in state or state[key].dim() != dims:
        raise IntegrityError(f"{path}: {shown(key)} is missing or no weight{guess(state)}")
    return state[key].shape


def _check_vocabulary(folder: Path, tokenizer: Tokenizer, recipe: Recipe) -> None:
    if tokenizer.vocab_size != recipe.vocab_size:
        raise IntegrityError(
            f"{folder / 'vocab.txt'} has {tokenizer.vocab_size} pieces, the weights know "
            f"{recipe.vocab_size}: it belongs to another text encoder"
        )
