"""Recipes as TOML files: a packaged name or a user's file, over the one that it is `like`, under
the `--set` of the command line; and what the keys must not say together.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tier_infer.errors import UsageError
from tier_train.recipe import Recipe, recipe_from, types

FOLDER = Path(__file__).with_name("recipes")
SIZES = {"text_width", "text_layers", "text_heads", "text_inner", "vocab_size"}


def load_recipe(source: str, overrides: list[str], unregularized: bool = False) -> Recipe:
    """A packaged recipe by name or a TOML file; overrides are `key=value`.

    Raises UsageError for an unknown key, with the nearest known one, or a value of another type.
    """
    path, table = _read(source)
    said: dict[str, Any] = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value, got {item!r}")
        said[key.strip()] = _typed(key.strip(), value.strip())
    table = _over(table, said)
    init = table.get("text_init", "scratch")
    if init != "scratch" and (decided := sorted(SIZES & set(said))):
        raise UsageError(
            f"recipe key {decided[0]} has no effect beside text_init = {init!r}: its folder says it"
        )
    if unregularized:
        table |= {"lambda_patch": 0.0, "lambda_token": 0.0}
    name = path.stem + ("-unregularized" if unregularized else "")
    recipe = recipe_from(table | {"name": name})
    _check_start(recipe)
    return recipe


def _read(source: str, depth: int = 0) -> tuple[Path, dict[str, Any]]:
    """A recipe's own keys over those of the one that it names with `like`, a packaged one or a file
    beside it."""
    packaged = FOLDER / f"{source}.toml"
    path = packaged if packaged.is_file() else Path(source)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise UsageError(f"recipe {source!r} is neither packaged ({names}) nor a TOML file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {source} is not valid TOML: {error}") from error
    base = table.pop("like", None)
    if base is None:
        return path, _over({}, table)
    if type(base) is not str or depth > 8:
        raise UsageError(f"recipe {source}: `like` must name another recipe, got {base!r}")
    beside = path.parent / base
    return path, _over(_read(str(beside) if beside.is_file() else base, depth + 1)[1], table)


def _over(base: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """`said` over `base`. Raises UsageError for a key of `said` that the result silences; one of
    `base` that `said` silences goes, as `steps` does for somebody who sets `epochs`."""
    if "name" in said:
        raise UsageError("recipe key name can't be set: a recipe is called as its file is")
    if "steps" in said and "epochs" not in said:
        base = base | {"epochs": 0}
    table = base | said
    for by, silent in _silenced(table):
        if unheard := sorted(silent & set(said)):
            raise UsageError(
                f"recipe key {unheard[0]} has no effect beside {by} = {table[by]!r}; set only one "
                "of them"
            )
        for key in silent & set(table):
            del table[key]
    return table


def _silenced(table: Mapping[str, Any]) -> list[tuple[str, set[str]]]:
    """A key, and those that have no effect beside its value."""
    drawn = {"rotate", "zoom", "brightness", "contrast"}
    return [
        ("epochs", {"steps"} if table.get("epochs") else set()),
        ("augment", drawn if table.get("augment") == "paper" else set()),
        ("schedule", {"warmup"} if table.get("schedule") == "constant" else set()),
    ]


def to_toml(recipe: Recipe) -> str:
    """The text that `load_recipe` reads back as this recipe, whatever its file is called."""
    silent = {"name"} | {key for _, keys in _silenced(vars(recipe)) for key in keys}
    table = {key: value for key, value in vars(recipe).items() if key not in silent}
    return "".join(f"{key} = {_literal(value)}\n" for key, value in table.items())


def _literal(value: object) -> str:
    """JSON's spelling is TOML's, but for characters beyond 16 bits, which stand as they are."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_start(recipe: Recipe) -> None:
    """A recipe that starts from published weights needs to be told where they lie."""
    for init, file, what in (
        ("image_init", "image_file", "FILE"),
        ("text_init", "text_folder", "DIR"),
    ):
        kind, named = getattr(recipe, init), getattr(recipe, file)
        if kind != "scratch" and not named:
            raise UsageError(
                f"recipe {recipe.name} starts from {kind}: name it with --set {file}={what}, or "
                f"train from nothing with --set {init}=scratch"
            )
        if kind == "scratch" and named:
            raise UsageError(f"recipe key {file} is {named!r}, but {init} says scratch")
        if not named.isprintable():  # it is written down in <stem>.recipe.toml
            raise UsageError(f"recipe key {file} holds characters that no text file can")
    if recipe.text_arch != "bert":
        raise UsageError(f"recipe key text_arch is {recipe.text_arch!r}; only bert can be trained")


def _typed(key: str, text: str) -> Any:
    kind = types().get(key, str)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise UsageError(f"recipe key {key} must be {kind.__name__}, got {text!r}") from None
    return text
