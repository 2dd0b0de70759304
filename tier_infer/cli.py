"""tier-infer: score studies, offline. The only file of the runtime that prints or exits."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tier_infer.errors import UsageError
from tier_infer.files import write_atomic
from tier_infer.guard import guarded, printable

VERBS = ("evaluate",)
TALK = 20
CONTEXT = {"help_option_names": ["-h", "--help"]}
DEVICE_HELP = "Where the graph runs; auto may choose and says what it chose."


class ScoreOrVerb(click.Group):
    """`tier-infer STUDY…` scores; a verb as the first word does something else.

    A path always means score: a file that is called like a verb is written ./evaluate.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*VERBS, "-h", "--help", "--version"):
            args = ["score", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        return guarded("tier-infer", ctx, lambda: click.Group.invoke(self, ctx))

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage("tier-infer", "STUDY... [OPTIONS]  |  evaluate LABELS.csv [OPTIONS]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of scoring stand on the first page: scoring is the command."""
        click.Command.format_options(self.commands["score"], ctx, formatter)
        with formatter.section("Further verbs"):
            formatter.write_dl([(v, self.commands[v].get_short_help_str(70)) for v in VERBS])


class Score(click.Command):
    """Hidden behind the group: users type paths, so messages must not name a verb `score`."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        return super().make_context("tier-infer", args, None, **extra)


def device_option(command: Any) -> Any:
    command = click.option(
        "--debug", is_flag=True, help="Show the traceback of an error; it may hold file content."
    )(command)
    command = click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16"]),
        default="auto",
        help="Which encoder of the bundle; auto takes fp32 on a CPU, fp16 on CUDA.",
    )(command)
    command = click.option(
        "--device", default="auto", metavar="auto|cpu|cuda", help=DEVICE_HELP, show_default=True
    )(command)
    return click.option(
        "--bundle",
        "bundle_dir",
        envvar="TIER_BUNDLE",
        default="bundle",
        metavar="DIR",
        help="Folder that tier-export wrote; else TIER_BUNDLE, else ./bundle.",
    )(command)


@click.group(
    cls=ScoreOrVerb,
    context_settings=CONTEXT,
    help="Score chest radiographs (DICOM, PNG, JPEG) for findings written in plain words.\n\n"
    "STUDY is a file, several files or a folder. Research use only, not for diagnostic use.",
)
@click.version_option(package_name="tier-cxr")
def main() -> None:
    pass


@main.command("score", cls=Score, hidden=True, context_settings=CONTEXT)
@click.argument("study", nargs=-1, required=True)
@click.option("--labels", metavar="A,B", help="Findings, e.g. cardiomegaly,edema. Default: all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="One CSV row per image and label on stdout.")
@click.option("--heatmaps", metavar="DIR", help="Write one overlay PNG per image and label.")
@device_option
def score(
    study: tuple[str, ...],
    labels: str | None,
    as_json: bool,
    as_csv: bool,
    heatmaps: str | None,
    bundle_dir: str,
    device: str,
    precision: str,
    debug: bool,
) -> None:
    """Score studies."""
    from tier_infer import output
    from tier_infer.bundle import load_bundle
    from tier_infer.engine import Engine
    from tier_infer.images import find_images
    from tier_infer.overlay import write_overlays
    from tier_infer.scoring import group_studies, score_images, select_labels

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    paths = find_images(study)
    bundle = load_bundle(Path(bundle_dir))
    asked = [part for part in labels.split(",") if part.strip()] if labels is not None else None
    selection = select_labels(bundle, asked)
    engine = Engine(bundle, device, precision)
    if heatmaps is not None:
        Path(heatmaps).mkdir(parents=True, exist_ok=True)
        if any(Path(heatmaps).glob("study-*_image-*.png")):  # study-1 was somebody else
            raise UsageError(f"{heatmaps} holds overlays of another run; choose an empty folder")
    keep = heatmaps is not None
    studies = group_studies(score_images(paths, bundle, engine, selection, keep))
    code = output.exit_code(studies)
    if as_json:
        click.echo(output.to_json(studies, bundle, engine))
    elif as_csv:
        click.echo(output.to_csv(studies), nl=False, color=True)  # names as they are
        click.echo(f"tier-infer: {engine.device} {engine.precision}", err=True)
    elif code != 3:
        click.echo(output.to_table(studies, bundle, engine, selection))
    if code != 0:
        tell_refused([image for study in studies for image in study.images])
    if heatmaps is not None:
        geometry = bundle.manifest.resolved_geometry()
        for path in write_overlays(studies, geometry, Path(heatmaps)):
            click.echo(f"wrote {path}", err=True)
    click.get_current_context().exit(code)


@main.command(context_settings=CONTEXT)
@click.argument("labels_csv", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--labels", metavar="A,B", help="Default: the default set's labels that have a column."
)
@click.option("--split", help="Use only rows with this value in the split column.")
@click.option(
    "--group-by", metavar="COLUMN", help="AUC per value too; `folder` is the image's folder."
)
@click.option(
    "--scores", metavar="FILE", help="Write image_path,label,score for every scored image."
)
@click.option(
    "--draws",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Bootstrap resamples of patients; 0: no interval.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@device_option
def evaluate(
    labels_csv: str,
    labels: str | None,
    split: str | None,
    group_by: str | None,
    scores: str | None,
    draws: int,
    as_json: bool,
    bundle_dir: str,
    device: str,
    precision: str,
    debug: bool,
) -> None:
    """AUC with bootstrap intervals on a CSV of labelled images."""
    from tier_infer.bundle import load_bundle
    from tier_infer.engine import Engine
    from tier_infer.evaluate import evaluate as run
    from tier_infer.evaluate import read_labels

    bundle = load_bundle(Path(bundle_dir))
    images = read_labels(Path(labels_csv), split)
    engine = Engine(bundle, device, precision)
    asked = [part for part in labels.split(",") if part.strip()] if labels else None
    if scores is not None:
        folder = Path(scores).parent
        if Path(scores).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UsageError(f"--scores {scores} is a folder or lies in none that can be written")
    table, results = run(images, bundle, engine, asked, group_by, draws)
    scored = sum(r.status == "scored" for r in results)
    if scores is not None:
        _write_scores(Path(scores), [row["image_path"] for _, row in images.lines], results)
    if as_json:
        rows = [{k: _finite(v) for k, v in asdict(row).items()} for row in table]
        identity = {"name": bundle.manifest.name, "sha256": bundle.manifest.bundle_sha256}
        report: dict[str, object] = {
            "schema": "tier-infer-evaluate/1",
            "bundle": identity,
            "device": engine.device,
        }
        report |= {
            "precision": engine.precision,
            "images": len(results),
            "scored": scored,
            "auc": rows,
        }
        click.echo(json.dumps(report, indent=1, allow_nan=False))
    else:
        click.echo(f"{scored} of {len(results)} images scored, {engine.device} {engine.precision}")
        click.echo(f"{'label':<28} {'group':<20} {'AUC':>6}  {'95 % interval':<15}  pos / neg")
        for row in table:
            interval = f"{row.low:.3f} - {row.high:.3f}"
            click.echo(
                f"{row.label:<28} {row.group:<20} {row.auc:6.3f}  {interval:<15}  "
                f"{row.positives} / {row.negatives}"
            )
    tell_refused(results)
    failed = any(r.status == "failed" for r in results)
    click.get_current_context().exit(3 if not scored else 8 if failed else 0)


def tell_refused(images: list[Any]) -> None:
    """On stderr, the first TALK of them; tables, --json and --csv list all."""
    refused = [image for image in images if image.status != "scored"]
    for image in refused[:TALK]:
        click.echo(f"tier-infer: {printable(image.path)}: {image.message}", err=True)
    if len(refused) > TALK:
        click.echo(f"tier-infer: and {len(refused) - TALK} more", err=True)


def _finite(value: object) -> object:
    """JSON has no NaN: an AUC with one class only is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_scores(path: Path, names: list[str], results: list[Any]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("image_path", "label", "score"))
    for name, result in zip(names, results, strict=True):
        writer.writerows((name, label, repr(z)) for label, z in result.scores.items())
    write_atomic(path, buffer.getvalue().encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    main()
