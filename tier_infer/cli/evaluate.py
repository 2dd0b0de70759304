"""tier-infer evaluate: AUC on a CSV of labelled images."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tier_infer.cli.options import CONTEXT, device_option, refuse_overwriting, tell_refused
from tier_infer.errors import UsageError
from tier_infer.files import write_atomic
from tier_infer.tables import csv_text


@click.command(context_settings=CONTEXT)
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
    asked = [part for part in labels.split(",") if part.strip()] if labels is not None else None
    if scores is not None:
        folder = Path(scores).parent
        if Path(scores).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UsageError(f"--scores {scores} is a folder or lies in none that can be written")
        refuse_overwriting("--scores", scores, [labels_csv])
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
            "refused": [
                {"image_path": r.path, "reason": r.reason, "message": r.message}
                for r in results
                if r.status != "scored"
            ],
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
    bug = any(r.reason == "bug" for r in results)
    click.get_current_context().exit(1 if bug else 3 if not scored else 8 if failed else 0)


def _finite(value: object) -> object:
    """JSON has no NaN: an AUC with one class only is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_scores(path: Path, names: list[str], results: list[Any]) -> None:
    rows: list[tuple[str, ...]] = [("image_path", "label", "score")]
    for name, result in zip(names, results, strict=True):
        rows += [(name, label, repr(z)) for label, z in result.scores.items()]
    write_atomic(path, csv_text(rows).encode("utf-8", "surrogateescape"))
