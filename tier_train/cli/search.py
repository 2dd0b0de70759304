"""tier-train search."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from tier_infer.errors import UsageError
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

DECIDED = ("lambda_patch", "lambda_token", "epochs", "steps", "validate_every", "keep_best")


@click.command(context_settings=CONTEXT)
@DATA
@RECIPE
@SET
@click.option(
    "--pairs",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Random pairs; may be raised later.",
)
@click.option(
    "--epochs", type=click.IntRange(1, 1000), default=1, show_default=True, help="Of each pair."
)
@VALIDATE
@SKIP_BAD
@DEVICE
@THREADS
@click.option("-o", "--output", default="search", show_default=True, metavar="DIR")
@DEBUG
def search(
    data: str | None,
    recipe: str,
    overrides: tuple[str, ...],
    pairs: int,
    epochs: int,
    validate_on: str | None,
    skip_bad: bool,
    device: str,
    threads: int | None,
    output: str,
    debug: bool,
) -> None:
    """Try random pairs of lambda_patch and lambda_token, ranked by zero-shot validation AUC.

    Pairs are uniform in (0, 1), drawn by the recipe's seed (paper, section 3.1; the released code
    draws from (0, 0.5)). Pair 0 is (0, 0), for reference. Needs validation images with labels.

    Writes DIR/search.csv, best first, after every pair, search.png at the end, and each pair's
    metrics. Pairs with a collapse alarm come after all others. Only the best pair's checkpoint is
    kept. Interrupted, the same command goes on where it stopped and ends at the same table.
    """
    from tier_train.recipe_file import load_recipe

    spec = dataset_spec(data)
    for item in overrides:
        if (key := item.partition("=")[0].strip()) in DECIDED:
            how = "name it with --epochs" if key in ("epochs", "steps") else "leave it out"
            raise UsageError(f"--set {key}=… has no effect on a search, which decides it; {how}")
    resolved = load_recipe(recipe, list(overrides))
    prepare_process(threads)
    from tier_train.search import draw, winner
    from tier_train.search import search as run_search

    def say(line: str) -> None:
        click.echo(line, err=True)

    dataset, validation = open_both(spec, validate_on, resolved, skip_bad)
    trials = run_search(
        dataset,
        resolved,
        Path(output),
        pairs=pairs,
        epochs=epochs,
        validation=validation,
        skip_bad=skip_bad,
        device=device,
        say=say,
    )
    click.echo(f"{'pair':>9} {'lambda_patch':>12} {'lambda_token':>12} {'val AUC':>8}")
    for trial in trials:
        name = str(trial.pair) if trial.pair else "reference"
        row = (
            f"{name:>9} {trial.lambda_patch:12.4f} {trial.lambda_token:12.4f} {trial.val_auc:8.4f}"
        )
        click.echo(f"{row}  {trial.alarm}".rstrip())
    try:
        draw(Path(output) / "search.png", trials)
    except ImportError:
        say("no search.png: it needs its extra, pip install 'tier-cxr[plots]'")
    best = winner(trials)
    if best is None:
        raise UsageError("training diverged with every pair; lower lr, e.g. --set lr=1e-4")
    if best.alarm:
        say(f"collapse alarm with every pair, none is recommended; pair {best.pair}: {best.alarm}")
        return
    if trials[0].pair == 0:
        say("no pair is better than the reference without penalties")
    words = ["--data", spec, "--recipe", recipe]
    words += [word for item in overrides for word in ("--set", item)]
    words += [f"--set=lambda_patch={best.lambda_patch}", f"--set=lambda_token={best.lambda_token}"]
    words += ["--validate-on", validate_on] if validate_on else []
    words += ["--skip-bad"] if skip_bad else []
    click.echo(f"next: tier-train run {shlex.join(words)}")
