"""Every number of a training run, with its default, its meaning and its source.

A recipe is a TOML file in `recipes/` that overrides these defaults (see `recipe_file`); what came
of it is stored in the checkpoint.
"""

from __future__ import annotations

import difflib
import typing
from dataclasses import dataclass, replace
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_infer.intensity import PRESETS

# What the trunk divides the side by, and the channels that it takes.
STRIDE = {"narrow": 16, "resnet50": 32, "vit-b32": 32}
CHOICES: dict[str, tuple[str, ...]] = {
    "geometry": tuple(GEOMETRIES),
    "intensity": ("", *PRESETS),
    "arch": tuple(STRIDE),
    "patch_layer": ("last", "layer3"),
    "projector": ("mlp", "linear"),
    "image_init": ("scratch", "biovil", "torchvision", "checkpoint"),
    "global_pool": ("norm_then_mean", "mean_then_norm", "cls"),
    "text_arch": ("bert", "clip", "medclip"),
    "text_init": ("scratch", "cxr-bert"),
    "optimizer": ("adamw", "adam"),
    "schedule": ("cosine", "constant"),
    "precision": ("fp32", "bf16", "fp16"),
    "select_by": ("auc", "val_loss"),
    "augment": ("shift", "paper"),
    "impressions": ("mimic", "tier", "chexzero"),
    "split_by": ("patients", "released_code", "official"),
    "views": ("all", "frontal"),
}
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "split_seed": (0, 2**32 - 1),
    "embed_dim": (1, 4096),
    "logit_scale_init": (-5, 8),
    "text_width": (1, 4096),
    "text_layers": (1, 48),
    "text_heads": (1, 64),
    "text_inner": (0, 65536),
    "text_dropout": (0, 0.9),
    "text_frozen": (0, 48),
    "vocab_size": (64, 10**6),
    "max_tokens": (3, 512),  # [CLS], a word, [SEP]; BERT has 512 positions
    "lambda_patch": (0, 1000),
    "lambda_token": (0, 1000),
    "entropy_temperature": (0.01, 1000),
    "entropy_eps": (0, 1e-3),
    "steps": (1, 10**9),
    "epochs": (0, 10**6),
    "batch_size": (2, 10**6),  # a pair needs another to differ from
    "micro_batch": (0, 10**6),
    "lr": (1e-9, 10),
    "weight_decay": (0, 10),
    "warmup": (0, 1),
    "validate_every": (0, 10**9),
    "save_every": (0, 10**9),
    "keep_best": (0, 1000),
    "rotate": (0, 90),
    "zoom": (0, 0.5),  # beyond 1 it would mirror the radiograph
    "brightness": (0, 1),
    "contrast": (0, 1),
}


@dataclass(frozen=True)
class Recipe:
    name: str = "small"
    seed: int = 0

    # the data: how MIMIC-CXR is read; a manifest has its own split and text
    impressions: str = "mimic"  # whose rules cut the impression out of a report
    split_by: str = "patients"  # ~90 % of the patients train (paper, section 3.1)
    split_seed: int = 0
    views: str = "all"  # the paper trains on frontal and lateral images

    # the image: preset names are defined in tier_infer, because the runtime must do the same
    geometry: str = "small-112"
    intensity: str = ""  # empty: the dataset names it
    arch: str = "narrow"  # narrow has stride 16, the others 32
    patch_layer: str = "last"  # layer3: an earlier block of resnet50, a grid twice as fine
    projector: str = "mlp"  # BioViL: 1×1 conv, BatchNorm, ReLU, 1×1 conv; linear: one matrix
    image_init: str = "scratch"
    image_file: str = ""  # the weights that image_init names

    # the joint space
    embed_dim: int = 128  # D; BioViL
    global_pool: str = "norm_then_mean"  # Fig. 2; the released code has mean_then_norm
    logit_scale_init: float = 2.6592600369327783  # ln(1 / 0.07), CLIP section 2.5

    # the text encoder
    text_arch: str = "bert"  # clip and medclip come with imports
    text_init: str = "scratch"
    text_folder: str = ""  # the folder that text_init names; it decides the six sizes below
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 2
    text_inner: int = 0  # width inside a layer; 0: four times text_width
    text_dropout: float = 0.0
    vocab_size: int = 2000  # WordPiece, at most
    max_tokens: int = 128  # the paper truncates there
    text_frozen: int = 0  # embeddings and the first so many layers keep their weights
    cache_frozen_text: bool = False  # their output once per impression; no dropout in them then

    # the two penalties of Fig. 2
    lambda_patch: float = 0.2  # times the mean entropy over the patches
    lambda_token: float = 0.1  # times the mean entropy over the tokens
    entropy_temperature: float = 1.0  # softmax of raw cosines
    entropy_eps: float = 0.0  # the released code adds 1e-7 before the logarithm
    mask_padding: bool = True  # else the loss of a pair depends on its batch

    # optimisation
    optimizer: str = "adamw"  # adam: weight decay in the gradient and on every parameter
    schedule: str = "cosine"  # after the warm-up; constant has neither
    steps: int = 1000
    epochs: int = 0  # more than 0: so many times through the data, whatever `steps` says
    batch_size: int = 32  # pairs that are told apart, over all processes
    micro_batch: int = 0  # pairs in memory at once; 0: all of them
    precision: str = "fp32"  # of the towers; the loss is always float32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.1  # share of the steps; cosine to zero afterwards

    # watching and keeping
    prompts: str = "chexpert"  # label set of the validation AUC
    validate_every: int = 200  # steps; 0: after every epoch
    save_every: int = 0  # steps between further states for --resume; each validation writes one
    keep_best: int = 0  # checkpoints kept beside the last; the paper ensembles 5
    select_by: str = "auc"  # zero-shot, needs labels; val_loss needs none

    # augmentation, per image and step; no flips, because reports name the side
    augment: str = "shift"  # paper: crop, affine and jitter with the released ranges, fixed
    rotate: float = 0.0  # degrees, uniform in ±
    zoom: float = 0.0  # relative, uniform in ±
    brightness: float = 0.1  # uniform in ±, in units of the full grey range
    contrast: float = 0.1  # factor uniform in 1 ± contrast

    # a control: pairs torn apart, so that nothing but chance can be learnt
    shuffle_captions: bool = False


def grid_side(recipe: Recipe) -> int:
    """Patches per side, the root of P."""
    stride = STRIDE[recipe.arch] // (2 if recipe.patch_layer == "layer3" else 1)
    return GEOMETRIES[recipe.geometry].network_side // stride


def recipe_from(table: dict[str, Any]) -> Recipe:
    """Raises UsageError for an unknown key, a wrong type or a value outside its range."""
    known = types()
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
    for key, allowed in CHOICES.items():
        if getattr(recipe, key) not in allowed:
            words = ", ".join(word for word in allowed if word)
            raise UsageError(f"recipe key {key} is {getattr(recipe, key)!r}; allowed: {words}")
    for key, (low, high) in RANGES.items():
        value = getattr(recipe, key)
        if not low <= value <= high:  # NaN is outside
            raise UsageError(f"recipe key {key} is {value}; allowed: {low} to {high}")
    if recipe.text_width % recipe.text_heads:
        raise UsageError("recipe key text_width must be a multiple of text_heads")
    _check_together(recipe)


def _check_together(recipe: Recipe) -> None:
    """Keys that are right alone and wrong beside each other."""
    geometry = GEOMETRIES[recipe.geometry]
    channels = 1 if recipe.arch == "narrow" else 3
    fits = [g.name for g in GEOMETRIES.values() if len(g.mean) == channels]
    if len(geometry.mean) != channels or (recipe.arch == "vit-b32" and grid_side(recipe) != 7):
        raise UsageError(
            f"recipe key arch is {recipe.arch!r}, which geometry {recipe.geometry} does not feed; "
            f"allowed geometries: {', '.join(fits)}"
        )
    for key, needed, why in (
        ("patch_layer", recipe.patch_layer == "last" or recipe.arch == "resnet50", "arch resnet50"),
        ("global_pool", recipe.global_pool != "cls" or recipe.arch == "vit-b32", "arch vit-b32"),
        ("text_frozen", recipe.text_frozen <= recipe.text_layers, "at most text_layers"),
        (
            "mask_padding",
            recipe.mask_padding or not recipe.cache_frozen_text,
            "text that is not cached",
        ),
        (
            "cache_frozen_text",
            not recipe.cache_frozen_text or recipe.text_frozen > 0,
            "text_frozen",
        ),
        ("micro_batch", recipe.micro_batch <= recipe.batch_size, "at most batch_size"),
    ):
        if not needed:
            value = getattr(recipe, key)
            raise UsageError(f"recipe key {key} is {value!r}; it goes with {why}")


def types() -> dict[str, type]:
    return typing.get_type_hints(Recipe)
