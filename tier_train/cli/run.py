"""tier-train run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tier_infer.errors import UsageError
from tier_train.cli.process import CONTEXT, prepare_process

if TYPE_CHECKING:
    from tier_train.data.dataset import Dataset
    from tier_train.recipe import Recipe

DATA = click.option(
    "--data",
    metavar="KIND:PATH",
    help="manifest:FILE.csv, mimic:ROOT[,reports=DIR], cache:DIR or chexpert:FILE.csv; default: "
    "./manifest.csv where there is one.",
)
RECIPE = click.option(
    "--recipe",
    default="small",
    show_default=True,
    metavar="NAME",
    help="small, demo, paper, released_code, unregularized or a TOML file.",
)
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a recipe key; tier_train/recipe.py explains them.",
)
VALIDATE = click.option(
    "--validate-on",
    metavar="KIND:PATH",
    help="Another dataset, whose val rows validate: the same kinds, e.g. chexpert:valid.csv.",
)
SKIP_BAD = click.option(
    "--skip-bad", is_flag=True, help="Leave out rows whose image is missing or refused."
)
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
THREADS = click.option(
    "--threads", type=int, metavar="N", help="CPU threads of torch; default: all cores."
)
DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


@click.command(context_settings=CONTEXT)
@DATA
@RECIPE
@SET
@click.option("--unregularized", is_flag=True, help="The recipe's twin: both lambdas 0.")
@VALIDATE
@SKIP_BAD
@click.option("--resume", is_flag=True, help="Continue an interrupted run, to the same result.")
@click.option(
    "--tensorboard", type=click.Path(path_type=Path), metavar="DIR", help="Log there too."
)
@DEVICE
@THREADS
@click.option("-o", "--output", default="ckpt.pt", show_default=True, metavar="FILE")
@DEBUG
def run(
    data: str | None,
    recipe: str,
    overrides: tuple[str, ...],
    unregularized: bool,
    validate_on: str | None,
    skip_bad: bool,
    resume: bool,
    tensorboard: Path | None,
    device: str,
    threads: int | None,
    output: str,
    debug: bool,
) -> None:
    """Train and write ckpt.pt, with its metrics file and curves beside it.

    Several GPUs or machines: torchrun --nproc-per-node N -m tier_train.cli run …
    """
    from tier_train.recipe_file import load_recipe

    spec = dataset_spec(data)
    resolved = load_recipe(recipe, list(overrides), unregularized)
    prepare_process(threads)
    from tier_train.train import train

    dataset, validation = open_both(spec, validate_on, resolved, skip_bad)
    checkpoint = train(
        dataset,
        resolved,
        Path(output),
        validation=validation,
        skip_bad=skip_bad,
        resume=resume,
        device=device,
        tensorboard=tensorboard,
        say=lambda s: click.echo(s, err=True),
    )
    if int(os.environ.get("RANK", "0")):
        return
    areas = checkpoint.training["val_auc"]
    for label, area in areas.items():
        click.echo(f"val AUC {label:<24} {area:.3f}")
    kept = checkpoint.recipe.keep_best
    of = f" (step {checkpoint.training['step']}, the best of those kept)" if kept else ""
    click.echo(f"wrote {output}{of}; next: tier-export --fp16 {output}")
    if checkpoint.alarm:
        click.echo(f"tier-train: collapse alarm: {checkpoint.alarm}", err=True)


def open_both(
    data: str, validate_on: str | None, recipe: Recipe, skip_bad: bool
) -> tuple[Dataset, Dataset | None]:
    """What --data and --validate-on name, telling what was left out of them."""
    from tier_train.data.datasets import open_dataset

    dataset = open_dataset(data, recipe, skip_bad)
    validation = open_dataset(validate_on, recipe, skip_bad) if validate_on else None
    if os.environ.get("RANK", "0") == "0":  # torchrun: one process talks
        for source in filter(None, (dataset, validation)):
            for note in source.notes:
                click.echo(f"{source.name}: {note}", err=True)
    return dataset, validation


def dataset_spec(data: str | None) -> str:
    """What --data names, or ./manifest.csv; UsageError names the command that makes one."""
    if data is not None:
        return data
    if Path("manifest.csv").is_file():
        return "manifest:manifest.csv"
    raise UsageError(
        "no data: there is no ./manifest.csv and no --data. Name a dataset with "
        "--data manifest:FILE.csv, or draw one with `tier-train data phantoms -o phantoms` and "
        "run again inside that folder"
    )
