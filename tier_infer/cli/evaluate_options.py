"""`evaluate` on both sides: the same options, the same course, the same output."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tier_infer.errors import UsageError
from tier_infer.guard import printable

if TYPE_CHECKING:
    from tier_infer.evaluation.cohort import Cohort
    from tier_infer.evaluation.run import Evaluated
    from tier_infer.evaluation.scores import Scorer

PROTOCOLS = ("per_image", "first_frontal", "study_mean")
EVERY = 10.0  # seconds between two lines of progress
Options = dict[str, Any]


def evaluation_options(command: Any) -> Any:
    """Adds what `run_evaluation` takes, as keyword arguments of the same names."""
    for option in reversed(
        (
            click.option(
                "--dataset", metavar="KIND:PATH", help="chexpert:ROOT, padchest:ROOT, covid:ROOT, "
                "mimic:ROOT, nih:ROOT or manifest:FILE.csv; docs/evaluation-data.md has each.",
            ),
            click.option("--split", help="Default: the split that the dataset's papers report."),
            click.option("--queries", metavar="SET", help="Label set; default: the model's own."),
            click.option("--labels", metavar="A,B", help="Default: all that the dataset knows."),
            click.option(
                "--protocol", type=click.Choice(PROTOCOLS), default="per_image", show_default=True,
                help="What is counted.",
            ),
            click.option(
                "--validation", metavar="SPLIT",
                help="Choose thresholds on this split of the dataset and freeze them: MCC and F1.",
            ),
            click.option(
                "--against", metavar="SCORES", type=click.Path(exists=True, path_type=Path),
                help="scores.csv of another model, or its folder: paired comparison.",
            ),
            click.option(
                "--radiologists", metavar="DIR", type=click.Path(exists=True, path_type=Path),
                help="Their decisions (CheXpert's label repository); needs --validation.",
            ),
            click.option("--group-by", metavar="COLUMN", help="AUC per value of a column, too."),
            click.option(
                "--draws", type=click.IntRange(min=0), default=2000, show_default=True,
                help="Bootstrap resamples of patients; 0: no intervals.",
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Of its draws."),
            click.option(
                "-o", "--output", metavar="DIR", type=click.Path(path_type=Path),
                help="Keep scores.csv and the reports here; an interrupted run goes on.",
            ),
            click.option("--plots", is_flag=True, help="Draw PNGs into -o (extra `plots`)."),
            click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def open_dataset(options: Options) -> Cohort:
    from tier_infer.evaluation.datasets import open_cohort

    check_options(options)
    if options["dataset"] is None:
        raise UsageError(
            "evaluate needs --dataset KIND:PATH, e.g. chexpert:ROOT or manifest:labels.csv"
        )
    return open_cohort(options["dataset"], options["split"])


def labels_asked(options: Options) -> list[str] | None:
    """None: all that the dataset knows. UsageError for --labels that names none."""
    if options["labels"] is None:
        return None
    asked = [part.strip() for part in options["labels"].split(",") if part.strip()]
    if not asked:
        raise UsageError("--labels names no label; leave it out for all that the dataset knows")
    return list(dict.fromkeys(asked))


def check_options(options: Options) -> None:
    """UsageError for options that need another, before a model is opened."""
    if options["plots"] and options["output"] is None:
        raise UsageError("--plots draws into the folder of -o; add -o DIR")
    if options["plots"]:
        from tier_infer.evaluation.plots import check_installed

        check_installed()


def run_evaluation(
    cohort: Cohort, scorer: Scorer, options: Options, program: str, opening: str = ""
) -> tuple[Evaluated, int]:
    """Evaluates, prints and writes; returns the exit code. `opening`: told when scoring begins."""
    from tier_infer.evaluation.cautions import cautions
    from tier_infer.evaluation.markdown import markdown
    from tier_infer.evaluation.report import json_text, write_report
    from tier_infer.evaluation.run import Plan, evaluate

    validation = None
    if options["validation"] is not None:
        validation = open_dataset({**options, "split": options["validation"]})
    plan = Plan(
        options["protocol"],
        options["draws"],
        options["seed"],
        options["group_by"],
        validation,
        options["against"],
        options["radiologists"],
    )
    folder = options["output"]
    warnings = cautions(scorer, cohort, plan.protocol)
    cohort = replace(cohort, notes=(*cohort.notes, *warnings))
    found = evaluate(cohort, scorer, plan, folder, progress(program, opening))
    for warning in warnings:
        click.echo(f"{program}: {printable(warning)}", err=True)
    report = found.report
    if folder is not None:
        write_report(report, folder)
    if options["plots"]:
        from tier_infer.evaluation.plots import draw

        draw(found, folder)
    click.echo(json_text(report) if options["as_json"] else markdown(report), nl=False)
    parts = [report["images"]]
    if "validation" in report:
        parts.append(report["validation"]["images"])
    for images in parts:
        for reason, count in images["reasons"].items():
            click.echo(f"{program}: {count} images {printable(reason)}", err=True)
    bug = any("bug" in reason.split() for images in parts for reason in images["reasons"])
    failed = any(images["failed"] for images in parts)
    code = 1 if bug else 3 if not parts[0]["scored"] else 8 if failed else 0
    return found, code


def progress(program: str, opening: str = "") -> Callable[[int, int], None]:
    """A line on stderr every ten seconds, and how fast it was at the end, for each split."""
    start = last = time.monotonic()
    first = before = -1  # images done when it began: a run may go on where another ended

    def tell(done: int, total: int) -> None:
        nonlocal start, last, first, before, opening
        now = time.monotonic()
        if opening:
            click.echo(f"{program}: {printable(opening)}", err=True)
            opening = ""
        if before < 0 or done < before:
            start, last, first = now, now, done
            if done:
                click.echo(f"{program}: {done} of {total} images were scored before", err=True)
        before = -1 if done == total else done
        speed = (done - first) / max(now - start, 1e-9)
        if done == total and done > first:
            click.echo(f"{program}: {done - first} images, {speed:.1f} per second", err=True)
        elif now - last >= EVERY:
            last = now
            left = (total - done) / speed / 60 if speed else 0
            click.echo(f"{program}: {done} of {total} images, {left:.0f} min left", err=True)

    return tell
