"""tier-infer evaluate: a bundle on a labelled dataset."""

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
from tier_infer.cli.options import CONTEXT, device_option
from tier_infer.errors import UsageError


@click.command(context_settings=CONTEXT)
@click.argument("bundle_or_csv", metavar="[BUNDLE]", required=False, type=click.Path(exists=True))
@evaluation_options
@device_option
def evaluate(
    bundle_or_csv: str | None,
    bundle_dir: str,
    device: str,
    precision: str,
    debug: bool,
    **options: Any,
) -> None:
    """AUC, MCC and F1 of a bundle on a labelled dataset, with intervals.

    `tier-infer evaluate LABELS.csv` is short for --dataset manifest:LABELS.csv.
    """
    from tier_infer.bundle import load_bundle
    from tier_infer.engine import Engine
    from tier_infer.evaluation.bundle_scorer import BundleScorer
    from tier_infer.evaluation.run import covered, lacking

    if bundle_or_csv is not None and Path(bundle_or_csv).is_file():
        if options["dataset"] is not None:
            raise UsageError(f"{bundle_or_csv} and --dataset both name a dataset; give one")
        options["dataset"] = f"manifest:{bundle_or_csv}"
    elif bundle_or_csv is not None:
        bundle_dir = bundle_or_csv
    bundle = load_bundle(Path(bundle_dir))
    cohort = open_dataset(options)
    default, sets = bundle.manifest.default_set, bundle.manifest.label_sets
    set_id = options["queries"] or default
    if set_id not in sets:
        raise UsageError(f"label set {set_id!r} is not in the bundle; it has {', '.join(sets)}")
    asked = labels_asked(options)
    if asked is None:
        asked = covered(cohort, sets[set_id]["labels"])
        cohort = replace(cohort, notes=(*cohort.notes, *lacking(cohort, sets[set_id]["labels"])))
    if set_id != default:
        asked = [label if ":" in label else f"{set_id}:{label}" for label in asked]
    engine = Engine(bundle, device, precision)
    scorer = BundleScorer(bundle, engine, asked)
    _, code = run_evaluation(cohort, scorer, options, "tier-infer", engine.choice)
    click.get_current_context().exit(code)
