"""tier-export verify [BUNDLE]: the certificate replayed, on any machine."""

from __future__ import annotations

from pathlib import Path

import click

from tier_infer.errors import UsageError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "folder", envvar="TIER_BUNDLE", default="bundle", type=click.Path(path_type=Path),
    metavar="[BUNDLE]",
)  # fmt: skip
@click.option(
    "--against",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CKPT.pt",
    help="The checkpoint that the bundle was exported from; of an ensemble all, so it may be "
    "repeated. PyTorch is the reference then; default: the golden vectors and the fp32 encoder.",
)
@click.option(
    "--dataset",
    metavar="KIND:PATH|FILE.csv",
    help="Measure on these labelled images, with AUC by label: a manifest, or a dataset of "
    "`tier-infer evaluate` such as chexpert:ROOT; at most 512, evenly taken. Default: phantoms.",
)
@click.option(
    "--split",
    help="Of --dataset. Default: the papers' own; of a manifest test, else val, else all.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def verify(
    folder: Path,
    against: tuple[Path, ...],
    dataset: str | None,
    split: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Measure a bundle again and hold it against its certificate."""
    if split is not None and dataset is None:
        raise UsageError("--split is one of a dataset; name it with --dataset")
    if against:
        from tier_train.cli.process import prepare_process

        prepare_process(None)
    from tier_export.verify import refuse_broken
    from tier_export.verify import verify as run
    from tier_export.verify_report import to_json, to_lines
    from tier_infer.bundle import load_bundle

    bundle = load_bundle(folder, unused=True)
    found = run(bundle, against, dataset, split)
    click.echo(to_json(bundle, found) if as_json else "\n".join(to_lines(bundle, found)))
    refuse_broken(found)
    if found.differences:
        click.echo(
            f"tier-export: not the certificate's figures: {len(found.differences)} of "
            f"{found.compared}, measured on another machine or by another version",
            err=True,
        )
