"""Every number of a training run, with its default, its meaning and its source.

A recipe is a TOML file in `recipes/` that overrides these defaults; `--set key=value` overrides the
recipe. The resolved recipe is stored in the checkpoint.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_infer.intensity import PRESETS

FOLDER = Path(__file__).with_name("recipes")
ARCH_OF = {"small-112": "narrow", "tier-224-imagenet": "resnet50"}
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "embed_dim": (1, 4096),
    "logit_scale_init": (-5, 8),
    "text_width": (1, 4096),
    "text_layers": (1, 48),
    "text_heads": (1, 64),
    "text_dropout": (0, 0.9),
    "vocab_size": (64, 10**6),
    "max_tokens": (3, 512),  # [CLS], a word, [SEP]; BERT has 512 positions
    "lambda_patch": (0, 1000),
    "lambda_token": (0, 1000),
    "entropy_temperature": (0.01, 1000),
    "steps": (1, 10**9),
    "batch_size": (2, 10**6),  # a pair needs another to differ from
    "lr": (1e-9, 10),
    "weight_decay": (0, 10),
    "warmup": (0, 1),
    "validate_every": (1, 10**9),
    "rotate": (0, 90),
    "zoom": (0, 0.5),  # beyond 1 it would mirror the radiograph
    "brightness": (0, 1),
    "contrast": (0, 1),
}


@dataclass(frozen=True)
class Recipe:
    name: str = "small"
    seed: int = 0

    # the image: preset names are defined in tier_infer, because the runtime must do the same
    geometry: str = "small-112"
    intensity: str = ""  # empty: the manifest names it
    arch: str = "narrow"  # narrow (stride 16, 112 px) or resnet50 (stride 32, 224 px)

    # the joint space
    embed_dim: int = 128  # D; BioViL
    global_pool: str = "norm_then_mean"  # Fig. 2; the released code has mean_then_norm
    logit_scale_init: float = 2.6592600369327783  # ln(1 / 0.07), CLIP section 2.5

    # the text encoder, a BERT trained from scratch
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 2
    text_dropout: float = 0.0
    vocab_size: int = 2000  # WordPiece, at most
    max_tokens: int = 128  # the paper truncates there

    # the two penalties of Fig. 2
    lambda_patch: float = 0.2  # times the mean entropy over the 49 patches
    lambda_token: float = 0.1  # times the mean entropy over the tokens
    entropy_temperature: float = 1.0  # softmax of raw cosines
    mask_padding: bool = True  # else the loss of a pair depends on its batch

    # optimisation
    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.1  # share of the steps; cosine to zero afterwards
    validate_every: int = 200

    # augmentation, per image and step; no flips, because reports name the side
    rotate: float = 0.0  # degrees, uniform in ±
    zoom: float = 0.0  # relative, uniform in ±
    brightness: float = 0.1  # uniform in ±, in units of the full grey range
    contrast: float = 0.1  # factor uniform in 1 ± contrast

    # a control: pairs torn apart, so that nothing but chance can be learnt
    shuffle_captions: bool = False


def load_recipe(source: str, overrides: list[str], unregularized: bool = False) -> Recipe:
    """A packaged recipe by name or a TOML file; overrides are `key=value`.

    Raises UsageError for an unknown key, with the nearest known one, or a value of another type.
    """
    packaged = FOLDER / f"{source}.toml"
    path = packaged if packaged.is_file() else Path(source)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise UsageError(f"recipe {source!r} is neither packaged ({names}) nor a TOML file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {source} is not valid TOML: {error}") from error
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value, got {item!r}")
        table[key.strip()] = _typed(key.strip(), value.strip())
    if unregularized:
        table |= {"lambda_patch": 0.0, "lambda_token": 0.0}
    return recipe_from(table | {"name": path.stem})


def recipe_from(table: dict[str, Any]) -> Recipe:
    """Raises UsageError for an unknown key, a wrong type or a value outside its range."""
    known = _types()
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"recipe key {key!r} is unknown{hint}")
        if known[key] is float and type(value) is int:
            table = table | {key: float(value)}
        elif type(value) is not known[key]:
            raise UsageError(f"recipe key {key} must be {known[key].__name__}, got {value!r}")
    recipe = replace(Recipe(), **table)
    _check_ranges(recipe)
    return recipe


def _check_ranges(recipe: Recipe) -> None:
    choices = {
        "geometry": tuple(GEOMETRIES),
        "intensity": ("", *PRESETS),
        "arch": ("narrow", "resnet50"),
        "global_pool": ("norm_then_mean", "mean_then_norm"),
    }
    for key, allowed in choices.items():
        if getattr(recipe, key) not in allowed:
            words = ", ".join(word for word in allowed if word)
            raise UsageError(f"recipe key {key} is {getattr(recipe, key)!r}; allowed: {words}")
    if ARCH_OF[recipe.geometry] != recipe.arch:
        raise UsageError(
            f"recipe key arch is {recipe.arch!r}, geometry {recipe.geometry} needs "
            f"{ARCH_OF[recipe.geometry]!r} to give a 7 x 7 grid"
        )
    for key, (low, high) in RANGES.items():
        value = getattr(recipe, key)
        if not low <= value <= high:  # NaN is outside
            raise UsageError(f"recipe key {key} is {value}; allowed: {low} to {high}")
    if recipe.text_width % recipe.text_heads:
        raise UsageError("recipe key text_width must be a multiple of text_heads")


def _typed(key: str, text: str) -> Any:
    kind = _types().get(key, str)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise UsageError(f"recipe key {key} must be {kind.__name__}, got {text!r}") from None
    return text


def _types() -> dict[str, type]:
    return typing.get_type_hints(Recipe)
