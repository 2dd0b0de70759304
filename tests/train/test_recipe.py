"""python -m pytest tests/train/test_recipe.py -- recipes, overrides, types and ranges."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from tier_infer.errors import UsageError
from tier_train.recipe import Recipe, grid_side, recipe_from
from tier_train.recipe_file import FOLDER, load_recipe, to_toml

PACKAGED = sorted(path.stem for path in FOLDER.glob("*.toml"))
# The paper's recipes start from files that the user has.
START = ["image_file=biovil.pt", "text_folder=cxr-bert"]
NEEDED = {"paper": START, "released_code": START, "unregularized": START}


def test_there_are_recipes() -> None:
    assert {"demo", "small"} <= set(PACKAGED)


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_recipe_loads(name: str) -> None:
    recipe = load_recipe(name, NEEDED.get(name, []))
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
    *("steps=0", "steps=-1", "batch_size=1", "batch_size=0", "validate_every=-1", "lr=0", "lr=-1"),
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
    *("arch=resnet50", "geometry=tier-224-imagenet", "arch=vit-b32"),
    # right alone, wrong beside the rest
    *("patch_layer=layer3", "global_pool=cls", "text_frozen=2", "micro_batch=33"),
    *("cache_frozen_text=true", "text_arch=clip"),
    *("image_init=biovil", "text_init=cxr-bert", "image_file=x.pt", "text_folder=x"),
    *("precision=fp8", "optimizer=sgd", "schedule=step", "select_by=loss", "augment=none"),
    *("impressions=x", "split_by=x", "views=x", "entropy_eps=0.1", "keep_best=-1", "epochs=-1"),
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
    needed = NEEDED.get(name, [])
    plain, twin = load_recipe(name, needed), load_recipe(name, needed, unregularized=True)
    assert (plain.lambda_patch > 0) == (name != "unregularized")
    assert (plain.lambda_token > 0) == (name != "unregularized")
    named = f"{name}-unregularized"  # so that the bundles of the two can be told apart
    assert twin == dataclasses.replace(plain, name=named, lambda_patch=0.0, lambda_token=0.0)


def test_the_unregularized_recipe_is_the_papers_twin() -> None:
    paper = load_recipe("paper", START, unregularized=True)
    assert load_recipe("unregularized", START) == dataclasses.replace(paper, name="unregularized")


def test_the_papers_recipe_is_the_papers() -> None:
    """Section 3.1 of the paper; Adam's weight decay and the five checkpoints as released."""
    recipe = load_recipe("paper", START)
    assert (recipe.lr, recipe.batch_size, recipe.epochs, recipe.optimizer) == (1e-4, 32, 30, "adam")
    assert (recipe.image_init, recipe.text_init, recipe.text_frozen) == ("biovil", "cxr-bert", 8)
    assert (recipe.geometry, recipe.arch, recipe.embed_dim) == (
        "tier-224-imagenet",
        "resnet50",
        128,
    )
    assert (recipe.keep_best, recipe.select_by, recipe.schedule) == (5, "auc", "constant")
    assert grid_side(recipe) == 7


def test_the_released_code_differs_from_the_paper_where_it_is_known_to() -> None:
    paper, released = load_recipe("paper", START), load_recipe("released_code", START)
    changed = {
        field.name: getattr(released, field.name)
        for field in dataclasses.fields(Recipe)
        if getattr(paper, field.name) != getattr(released, field.name)
    }
    assert changed == {
        "name": "released_code",
        "global_pool": "mean_then_norm",
        "lambda_patch": 0.1,
        "lambda_token": 0.2,
        "mask_padding": False,
        "entropy_eps": 1e-7,
        "impressions": "tier",
        "split_by": "released_code",
        "split_seed": 1,
        "prompts": "released_code",
    }


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_recipe_that_starts_from_files_asks_for_them(name: str) -> None:
    with pytest.raises(UsageError, match=r"starts from biovil: .*--set image_file=FILE"):
        load_recipe(name, [])
    with pytest.raises(UsageError, match=r"starts from cxr-bert: .*--set text_folder=DIR"):
        load_recipe(name, START[:1])
    load_recipe(name, ["image_init=scratch", "text_init=scratch"])


@pytest.mark.parametrize(
    "items",
    [
        *(["rotate=1"], ["zoom=0.1"], ["warmup=0.2"], ["contrast=0.1"], ["steps=3", "epochs=2"]),
        *(["text_layers=1"], ["text_width=32"], ["vocab_size=100"]),  # the folder says these
    ],
    ids=" ".join,
)
def test_a_key_that_another_silences_is_refused(items: list[str]) -> None:
    with pytest.raises(UsageError, match=r"has no effect beside"):
        load_recipe("paper", [*START, *items])


def test_what_is_said_last_drops_what_it_silences() -> None:
    assert load_recipe("small", ["epochs=3"]).epochs == 3
    assert load_recipe("small", ["augment=paper"]).rotate == Recipe().rotate
    assert load_recipe("demo", ["schedule=constant"]).warmup == Recipe().warmup
    counted = load_recipe("paper", [*START, "steps=3"])
    assert (counted.steps, counted.epochs) == (3, 0)
    assert load_recipe("paper", [*START, "text_dropout=0.0"]).text_dropout == 0.0


def test_what_is_said_last_in_files_drops_it_too(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('like = "small"\nepochs = 2\n', encoding="utf-8")
    (tmp_path / "its.toml").write_text('like = "mine.toml"\nsteps = 9\n', encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.toml"), []).epochs == 2
    counted = load_recipe(str(tmp_path / "its.toml"), [])
    assert (counted.steps, counted.epochs) == (9, 0)


def test_the_name_is_the_files() -> None:
    with pytest.raises(UsageError, match="name can't be set"):
        load_recipe("small", ["name=mine"])


@pytest.mark.parametrize(
    "name", ["lungs \N{GRINNING FACE}.pt", "a\x7fb.pt", 'quote".pt', "\udce9.pt"]
)
def test_a_path_is_written_so_that_it_can_be_read(tmp_path: Path, name: str) -> None:
    start = ["image_init=biovil", f"image_file={name}", "arch=resnet50"]
    start.append("geometry=tier-224-imagenet")
    if not name.isprintable():
        with pytest.raises(UsageError, match="characters that no text file can"):
            load_recipe("small", start)
        return
    path = tmp_path / "again.toml"
    path.write_text(to_toml(load_recipe("small", start)), encoding="utf-8")
    assert load_recipe(str(path), []).image_file == name


def test_the_finer_grids() -> None:
    base = ["arch=resnet50", "geometry=tier-224-imagenet"]
    assert grid_side(load_recipe("demo", [*base, "patch_layer=layer3"])) == 14
    assert grid_side(load_recipe("demo", ["arch=resnet50", "geometry=biovil-480-raw"])) == 15
    assert grid_side(load_recipe("demo", ["arch=vit-b32", "geometry=tier-224-imagenet"])) == 7


def test_a_recipe_may_start_from_another(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('like = "demo"\nsteps = 7\n', encoding="utf-8")
    recipe = load_recipe(str(tmp_path / "mine.toml"), [])
    assert recipe == dataclasses.replace(load_recipe("demo", []), name="mine", steps=7)


def test_recipes_that_start_from_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'like = "{path}"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="`like` must name another recipe"):
        load_recipe(str(path), [])


@pytest.mark.parametrize("name", PACKAGED)
def test_a_recipe_written_down_runs_again(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name, [*NEEDED.get(name, []), "lr=3e-5"])
    path = tmp_path / "again.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(str(path), []) == dataclasses.replace(recipe, name="again")


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
        with pytest.raises(UsageError, match="demo, paper, released_code, small, unregularized"):
            load_recipe(source, [])
