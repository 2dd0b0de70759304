"""tier-train evaluate: checkpoints on a labelled dataset, in PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tier_infer.cli.evaluate_options import (
    evaluation_options,
    labels_asked,
    open_dataset,
    run_evaluation,
)
from tier_train.cli.process import CONTEXT, prepare_process

SCORINGS = ("margin", "softmax", "prompt-mean", "prompt-max")


@click.command(context_settings=CONTEXT)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...",
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@evaluation_options
@click.option(
    "--scoring", type=click.Choice(SCORINGS),
    help="margin (default): what a bundle computes, cosine to the positive less the negative "
    "query. softmax: CheXzero's. prompt-mean, prompt-max: MedCLIP's. A supervised.pt has a head.",
)  # fmt: skip
@click.option("--prompts-per-label", type=click.IntRange(min=1), metavar="N",
              help="prompt-mean, prompt-max: drawn at random; default 10.")  # fmt: skip
@click.option("--prompt-seed", type=int, metavar="N", help="Of that draw; default 0.")
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda")
@click.option("--threads", type=int, help="Of the CPU; default: PyTorch's choice.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def evaluate(
    checkpoints: tuple[Path, ...],
    scoring: str | None,
    prompts_per_label: int | None,
    prompt_seed: int | None,
    device: str,
    threads: int | None,
    debug: bool,
    **options: Any,
) -> None:
    """AUC, MCC and F1 of a checkpoint or an ensemble on a labelled dataset, with intervals."""
    cohort = open_dataset(options)
    prepare_process(threads)
    from tier_infer.evaluation.run import lacking
    from tier_train.evaluation.scorers import Asked, scorer_and_set

    asked = Asked(
        scoring, options["queries"], labels_asked(options), device, prompt_seed, prompts_per_label
    )
    scorer, of_set = scorer_and_set(checkpoints, cohort, asked)
    if asked.labels is None:
        cohort = replace(cohort, notes=(*cohort.notes, *lacking(cohort, of_set)))
    _, code = run_evaluation(cohort, scorer, options, "tier-train")
    click.get_current_context().exit(code)
