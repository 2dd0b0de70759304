"""python -m pytest tests/train/test_recipe.py -- recipes, overrides, types and ranges."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from tier_infer.errors import UsageError
from tier_train.recipe import FOLDER, Recipe, load_recipe, recipe_from

PACKAGED = sorted(path.stem for path in FOLDER.glob("*.toml"))


def test_there_are_recipes() -> None:
    assert {"demo", "small"} <= set(PACKAGED)


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_recipe_loads(name: str) -> None:
    recipe = load_recipe(name, [])
    assert recipe.name == name
    assert recipe_from(dataclasses.asdict(recipe)) == recipe


def test_the_defaults_are_fig_2s() -> None:
    recipe = Recipe()
    assert (recipe.lambda_patch, recipe.lambda_token) == (0.2, 0.1)
    assert recipe.entropy_temperature == 1.0
    assert recipe.mask_padding
    assert recipe.global_pool == "norm_then_mean"
    assert recipe.max_tokens == 128
    assert recipe.logit_scale_init == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("lambda_pacth", "lambda_patch"), ("batchsize", "batch_size"), ("Steps", "steps")],
)
def test_an_unknown_key_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"{wrong}.* is unknown; did you mean {near}"):
        load_recipe("demo", [f"{wrong}=1"])


def test_a_key_like_no_other_gets_no_guess() -> None:
    with pytest.raises(UsageError, match=r"is unknown$"):
        recipe_from({"zzzzzzzz": 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", True),
        ("steps", 1.0),
        ("steps", "1"),
        ("steps", None),
        ("mask_padding", 1),
        ("lr", "1"),
        ("lr", True),
        ("lr", [1.0]),
        ("geometry", 1),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{key} must be"):
        recipe_from({key: value})


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("steps=12", 12),
        (" steps = 12 ", 12),
        ("lr=1e-4", 1e-4),
        ("lr=1", 1.0),
        ("mask_padding=false", False),
        ("mask_padding=True", True),
        ("shuffle_captions=true", True),
        ("global_pool=mean_then_norm", "mean_then_norm"),
        ("intensity=minmax", "minmax"),
    ],
)
def test_an_override_is_parsed_by_its_keys_type(item: str, value: Any) -> None:
    key = item.partition("=")[0].strip()
    found = getattr(load_recipe("demo", [item]), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "item", ["steps", "steps=", "steps=1e3", "steps=1.0", "lr=fast", "mask_padding=yes", "=3"]
)
def test_an_override_that_is_no_value_is_refused(item: str) -> None:
    with pytest.raises(UsageError):
        load_recipe("demo", [item])


def test_the_last_override_wins() -> None:
    assert load_recipe("demo", ["steps=1", "steps=2"]).steps == 2


def test_an_integer_in_a_table_is_a_float() -> None:
    lr = recipe_from({"lr": 1}).lr
    assert lr == 1.0
    assert type(lr) is float


IN_RANGE = ["lambda_patch=0", "zoom=0", "rotate=0", "weight_decay=0", "warmup=0", "warmup=1"]
OUT_OF_RANGE = [
    *("steps=0", "steps=-1", "batch_size=1", "batch_size=0", "validate_every=0", "lr=0", "lr=-1"),
    *("entropy_temperature=0", "text_heads=0", "text_heads=3", "embed_dim=0", "max_tokens=0"),
    *("vocab_size=0", "text_layers=0", "text_width=0", "lambda_patch=-1", "lambda_token=-0.1"),
    *("weight_decay=-1", "rotate=-1", "zoom=-0.1", "arch=vgg", "global_pool=max", "geometry=x"),
    "intensity=x",
    # what np.random and torch refuse as a seed
    *("seed=-1", "seed=99999999999999999999999"),
    # a schedule that never warms up or never gets there; a negative spread
    *("warmup=-0.1", "warmup=1.5", "brightness=-0.1", "contrast=-0.1"),
    # beyond 1 the scale changes sign: a mirrored radiograph
    "zoom=1.5",
    # torch refuses it later, with a traceback
    *("text_dropout=2", "text_dropout=-0.1", "text_dropout=nan"),
    # 1 switches truncation off in the tokenizer, 2 leaves no word, BERT has 512 positions
    *("max_tokens=1", "max_tokens=2", "max_tokens=513"),
    # not a number is not below 0
    *("lr=nan", "lr=inf", "lambda_patch=nan", "lambda_token=inf", "weight_decay=nan"),
    *("entropy_temperature=nan", "logit_scale_init=nan", "rotate=inf", "warmup=nan"),
    # the other's channels and size: a 3-channel trunk on one channel and the reverse
    *("arch=resnet50", "geometry=tier-224-imagenet"),
]


@pytest.mark.parametrize("item", IN_RANGE)
def test_the_edge_of_a_range_is_inside(item: str) -> None:
    load_recipe("demo", [item])


@pytest.mark.parametrize("item", OUT_OF_RANGE)
def test_a_value_outside_its_range_is_refused(item: str) -> None:
    with pytest.raises(UsageError):
        load_recipe("demo", [item])


def test_resnet50_goes_with_224_pixels() -> None:
    recipe = load_recipe("demo", ["arch=resnet50", "geometry=tier-224-imagenet"])
    assert recipe.arch == "resnet50"


@pytest.mark.parametrize("name", PACKAGED)
def test_unregularized_zeroes_both_lambdas_and_nothing_else(name: str) -> None:
    plain, twin = load_recipe(name, []), load_recipe(name, [], unregularized=True)
    assert plain.lambda_patch > 0
    assert plain.lambda_token > 0
    assert twin == dataclasses.replace(plain, lambda_patch=0.0, lambda_token=0.0)


def test_unregularized_also_beats_an_override() -> None:
    assert load_recipe("demo", ["lambda_patch=0.5"], unregularized=True).lambda_patch == 0.0


def test_a_toml_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("steps = 7\nlr = 1\n", encoding="utf-8")
    recipe = load_recipe(str(path), ["lambda_token=0.3"])
    assert recipe == dataclasses.replace(Recipe(), name="mine", steps=7, lr=1.0, lambda_token=0.3)


@pytest.mark.parametrize("content", [b"steps = ", b"\xff\xfe", b"[steps]\na = 1\n", b"stesp = 1"])
def test_a_broken_toml_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        load_recipe(str(path), [])


def test_an_unknown_recipe_names_the_packaged_ones(tmp_path: Path) -> None:
    for source in ("nope", "", str(tmp_path), str(tmp_path / "nope.toml")):
        with pytest.raises(UsageError, match="demo, small"):
            load_recipe(source, [])
