"""Published weights that training starts from, under our keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tier_infer.errors import UsageError
from tier_train.imports.folders import read_cxr_bert
from tier_train.imports.images import biovil_image, image_shapes, torchvision_trunk
from tier_train.recipe import Recipe
from tier_train.towers.wordpiece import WordPiece


def text_start(
    folder: Path, max_tokens: int = 128
) -> tuple[dict[str, Any], dict[str, Tensor], WordPiece]:
    """A CXR-BERT folder → recipe keys of its sizes, its weights (text.*, text_head.*), tokenizer.

    Raises UsageError for a file that is not there, IntegrityError for one that does not fit.
    """
    sizes, words, tokenizer = read_cxr_bert(folder, max_tokens)
    del sizes["embed_dim"]  # the recipe's own; weights of another size are refused
    return sizes, words, tokenizer


def image_start(kind: str, path: Path, recipe: Recipe) -> dict[str, Tensor]:
    """kind biovil, torchvision or checkpoint → weights of the recipe's image tower.

    trunk.*, and proj.* where the file has a projection that fits: not from ImageNet, and not for
    another projector or an earlier patch layer. Raises as `text_start` does.
    """
    if kind == "checkpoint":
        from tier_train.checkpoint import flat_state, load_checkpoint

        source = load_checkpoint(path)
        if source.recipe.arch != recipe.arch:
            raise UsageError(f"{path} has arch {source.recipe.arch!r}, the recipe {recipe.arch!r}")
        found, layer = flat_state(source.model), source.recipe.patch_layer
        kept = (source.recipe.projector, layer) == (recipe.projector, recipe.patch_layer)
        if recipe.patch_layer == "last" != layer:
            raise UsageError(f"{path} ends at layer3: --set patch_layer=layer3 goes with it")
    else:
        if recipe.arch != "resnet50":
            raise UsageError(f"image_init {kind!r} goes with arch 'resnet50', not {recipe.arch!r}")
        whole = replace(recipe, patch_layer="last", projector="mlp")
        read = biovil_image if kind == "biovil" else torchvision_trunk
        found = read(path, image_shapes(whole))
        kept = kind == "biovil" and recipe == whole
    wanted = image_shapes(recipe)
    return {k: v for k, v in found.items() if k in wanted and (kept or k.startswith("trunk."))}
