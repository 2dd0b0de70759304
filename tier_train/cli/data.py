"""tier-train data: make datasets, look at them, decode them once. None of it needs torch."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path

import click

from tier_infer.errors import UsageError
from tier_train.cli.process import CONTEXT, Guarded

COUNT, SEED = click.IntRange(0, 10**6), click.IntRange(0, 2**32 - 1)
DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
PLACE = click.argument("place", metavar="ROOT|FILE.csv|KIND:PATH")
RECIPE = click.option(
    "--recipe",
    default="paper",
    show_default=True,
    metavar="NAME",
    help="Whose impressions, split, views and geometry.",
)
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key."
)
# Weights play no part here, and the recipes of the paper want files for them.
NO_WEIGHTS = ("image_init=scratch", "image_file=", "text_init=scratch", "text_folder=")


@click.group(cls=Guarded, context_settings=CONTEXT)
def data() -> None:
    """Make datasets, look at them, decode them once."""


@data.command(context_settings=CONTEXT)
@PLACE
@RECIPE
@SET
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@DEBUG
def check(place: str, recipe: str, overrides: tuple[str, ...], as_json: bool, debug: bool) -> None:
    """Count pairs per view, split and label; name problems and what mends them.

    Exit 0: ready for a run. Exit 2: something stops it.
    """
    from tier_train.data import data_check
    from tier_train.data.datasets import guess_spec
    from tier_train.recipe_file import load_recipe

    resolved = load_recipe(recipe, [*overrides, *NO_WEIGHTS])
    found = data_check.check_dataset(guess_spec(place), resolved)
    if as_json:
        click.echo(json.dumps(data_check.as_json(found), indent=1))
    else:
        click.echo("\n".join(data_check.as_text(found)))
    if not found.ready:
        click.get_current_context().exit(2)


@data.command(context_settings=CONTEXT)
@PLACE
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write or finish.")
@RECIPE
@SET
@click.option(
    "--size",
    type=click.IntRange(32, 4096),
    metavar="N",
    help="Short side in pixels; default: what the recipe's geometry resizes to (paper: 256).",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), metavar="N", help="Processes; default: all cores."
)
@click.option("--skip-bad", is_flag=True, help="Leave bad images out, even more than 5 %.")
@DEBUG
def cache(
    place: str,
    output: str,
    recipe: str,
    overrides: tuple[str, ...],
    size: int | None,
    workers: int | None,
    skip_bad: bool,
    debug: bool,
) -> None:
    """Decode every picture once, so that training waits for no JPEG: --data cache:DIR.

    The same command goes on after an interruption and mends what is damaged.
    """
    from tier_infer.geometry import GEOMETRIES
    from tier_train.data.cache_writer import write_cache
    from tier_train.data.datasets import guess_spec, open_dataset
    from tier_train.data.manifest import resolve_intensity
    from tier_train.recipe_file import load_recipe

    resolved = load_recipe(recipe, [*overrides, *NO_WEIGHTS])
    geometry = GEOMETRIES[resolved.geometry]
    if size is not None and geometry.rule != "short-side":
        raise UsageError(f"--size is a short side; geometry {geometry.name} fits the long one")
    dataset = open_dataset(guess_spec(place), resolved, skip_bad)
    if dataset.kind == "cache":
        raise UsageError(f"{place} is a cache already; train with --data cache:{dataset.path}")
    facts = write_cache(
        dataset,
        Path(output),
        resolved,
        replace(geometry, resize=size or geometry.resize),
        intensity=resolve_intensity(dataset, resolved.intensity)[0],
        workers=workers or os.cpu_count() or 1,
        skip_bad=skip_bad,
        say=lambda sentence: click.echo(sentence, err=True),
    )
    for note in facts["notes"]:
        click.echo(note, err=True)
    again = ["tier-train", "run", "--data", f"cache:{output}", "--recipe", recipe]
    again += [word for override in overrides for word in ("--set", override)]
    if recipe_starts_from_files(recipe, overrides):
        again += ["--set", "image_file=FILE", "--set", "text_folder=DIR"]
    click.echo(f"wrote {facts['pictures']} pictures to {output}; next: {shlex.join(again)}")


@data.command(context_settings=CONTEXT)
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Equal seeds, equal files.")
@click.option("--train", "n_train", type=COUNT, default=3000, show_default=True, help="Images.")
@click.option("--val", "n_val", type=COUNT, default=300, show_default=True, help="Images.")
@click.option("--test", "n_test", type=COUNT, default=800, show_default=True, help="Images.")
@click.option("--masks", is_flag=True, help="Also masks/LABEL/images/*.png of every finding.")
@DEBUG
def phantoms(
    output: str, seed: int, n_train: int, n_val: int, n_test: int, masks: bool, debug: bool
) -> None:
    """Draw chest phantoms as DICOM files with impressions, labels and an unseen study.dcm.

    Drawings, not patients: they show that the software works, nothing clinical.
    """
    from tier_train.phantoms.phantom_data import write_phantoms

    counts = {"train": n_train, "val": n_val, "test": n_test}
    if n_train < 1:
        raise UsageError("--train must be at least 1")
    manifest = write_phantoms(Path(output), seed, counts, masks=masks)
    click.echo(
        f"wrote {sum(counts.values())} phantoms and {manifest}; next: cd {output} && tier-train run"
    )


def recipe_starts_from_files(recipe: str, overrides: tuple[str, ...]) -> bool:
    """Whether `run` will ask for published weights that this command had no need of."""
    from tier_train.recipe_file import load_recipe

    try:
        load_recipe(recipe, list(overrides))
    except UsageError:
        return True
    return False
