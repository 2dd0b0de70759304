"""Where training starts: random weights, or published ones that the recipe names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tier_infer.errors import UsageError
from tier_infer.files import sha256_of
from tier_train.model import DualEncoder
from tier_train.recipe import Recipe, recipe_from
from tier_train.towers.text_encoder import Tokenizer
from tier_train.towers.wordpiece import WordPiece, train_vocabulary


@dataclass(frozen=True)
class Start:
    model: DualEncoder
    tokenizer: Tokenizer
    recipe: Recipe  # with the sizes of the published text encoder, and file names without folders
    files: dict[str, str]  # what was read → SHA-256


def start(recipe: Recipe, sentences: Callable[[], list[str]]) -> Start:
    """`sentences` is asked for the training text only if a vocabulary must be learnt from it.

    Raises UsageError for a file that is not there, IntegrityError for one that is something else.
    """
    torch.manual_seed(recipe.seed)
    words: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    if recipe.text_init == "cxr-bert":
        from tier_train.imports import text_start

        folder = Path(recipe.text_folder)
        sizes, words, tokenizer = text_start(folder, recipe.max_tokens)
        recipe = recipe_from({**vars(recipe), **sizes, "text_dropout": recipe.text_dropout})
        files |= {key: sha256_of(p) for key, p in _text_files(folder).items()}
    else:
        tokenizer = WordPiece(train_vocabulary(sentences(), recipe.vocab_size), recipe.max_tokens)
    model = DualEncoder(recipe, tokenizer.vocab_size)
    if words:
        copy_into(model.words, words, "text tower")
    files |= start_image(model.image, recipe)
    named = replace(
        recipe,
        image_file=Path(recipe.image_file).name,
        text_folder=Path(recipe.text_folder).name,
    )
    return Start(model, tokenizer, named, files)


def unchanged(recipe: Recipe, files: dict[str, str]) -> None:
    """Raises UsageError when a file that the recipe names is not the one of `files`, that a run to
    be resumed started from. One that is gone is not needed."""
    named: dict[str, Path] = {}
    if recipe.image_init != "scratch":
        named[Path(recipe.image_file).name] = Path(recipe.image_file)
    if recipe.text_init == "cxr-bert" and Path(recipe.text_folder).is_dir():
        named |= _text_files(Path(recipe.text_folder))
    for key, path in named.items():
        if key in files and path.is_file() and sha256_of(path) != files[key]:
            raise UsageError(
                f"{path} is not the file that the run to be resumed started from; name that one, "
                "or start anew without --resume"
            )


def _text_files(folder: Path) -> dict[str, Path]:
    return {f"{folder.name}/{p.name}": p for p in sorted(folder.iterdir()) if p.is_file()}


def start_image(image: nn.Module, recipe: Recipe) -> dict[str, str]:
    """Copies the weights that image_init names into the vision encoder; file name → SHA-256."""
    if recipe.image_init == "scratch":
        return {}
    from tier_train.imports import image_start

    path = Path(recipe.image_file)
    if not path.is_file():
        raise UsageError(f"image_file: there is no file {path}")
    copy_into(image, image_start(recipe.image_init, path, recipe), "image tower")
    return {path.name: sha256_of(path)}


def copy_into(tower: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    """Every weight has its place; what has no weight is a new projector's, and only whole."""
    state = tower.state_dict()
    missing = {key.partition(".")[0] for key in set(state) - set(weights)}
    left = sorted(set(weights) - set(state))
    wrong = [k for k in weights if k in state and weights[k].shape != state[k].shape]
    if left or wrong or missing - {"proj", "text_head"}:
        first = (left + wrong + sorted(set(state) - set(weights)))[0]
        raise UsageError(f"the start weights do not fit the recipe's {what}: {first}")
    if any(key.partition(".")[0] in missing for key in weights):
        raise UsageError(f"the start weights hold only part of the {what}'s projector")
    with torch.no_grad():
        for key, value in weights.items():
            state[key].copy_(value)
