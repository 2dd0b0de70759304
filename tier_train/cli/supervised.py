"""tier-train supervised."""

from __future__ import annotations

import math
from pathlib import Path

import click

from tier_train.cli.process import CONTEXT, prepare_process
from tier_train.cli.run import (
    DATA,
    DEBUG,
    DEVICE,
    RECIPE,
    SET,
    SKIP_BAD,
    THREADS,
    VALIDATE,
    dataset_spec,
    open_both,
)


@click.command(context_settings=CONTEXT)
@DATA
@RECIPE
@SET
@VALIDATE
@SKIP_BAD
@DEVICE
@THREADS
@click.option("-o", "--output", default="supervised.pt", show_default=True, metavar="FILE")
@DEBUG
def supervised(
    data: str | None,
    recipe: str,
    overrides: tuple[str, ...],
    validate_on: str | None,
    skip_bad: bool,
    device: str,
    threads: int | None,
    output: str,
    debug: bool,
) -> None:
    """Train the supervised CNN that the paper compares with.

    The recipe's vision encoder, taught with label columns instead of impressions: the five CheXpert
    tasks where the data has all five, else every label. Frontal images only; unknown labels are
    masked. Keys about text, keep_best and save_every have no effect. The weights of the best
    validation are kept.

    Writes supervised.pt, supervised.metrics.csv and supervised.scores.csv, the scores of the test
    split (the validation images where there is none, which is said), and prints their AUC per label
    with a 95 % bootstrap interval.
    """
    from tier_train.recipe_file import load_recipe

    spec = dataset_spec(data)
    # the published text encoder of a recipe is not needed here, so nobody should have to name it
    resolved = load_recipe(recipe, [*overrides, "text_init=scratch", "text_folder="])
    prepare_process(threads)
    from tier_train.state import beside
    from tier_train.supervised import train_supervised

    def say(line: str) -> None:
        click.echo(line, err=True)

    dataset, validation = open_both(spec, validate_on, resolved, skip_bad)
    trained, areas = train_supervised(
        dataset,
        resolved,
        Path(output),
        validation=validation,
        skip_bad=skip_bad,
        device=device,
        say=say,
    )
    if trained.training["scored_split"] == "val":
        click.echo("validation images, by which the weights were chosen: optimistic")
    for row in areas:
        counts = f"{row.positives} with, {row.negatives} without"
        if math.isnan(row.auc):
            click.echo(f"{row.label:<24} no AUC: one class only ({counts})")
        else:
            click.echo(
                f"{row.label:<24} {row.auc:.3f}  {row.low:.3f} to {row.high:.3f}  ({counts})"
            )
    scores = beside(Path(output), "scores.csv")
    click.echo(f"wrote {output}; the scores behind these AUCs: {scores}")
