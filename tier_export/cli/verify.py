"""tier-export verify [BUNDLE]: the certificate replayed, on any machine."""

from __future__ import annotations

from pathlib import Path

import click


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
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="Measure on the images of this manifest (its test split); default: phantoms.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def verify(
    folder: Path, against: tuple[Path, ...], dataset: Path | None, as_json: bool, debug: bool
) -> None:
    """Measure a bundle again and hold it against its certificate."""
    if against:
        from tier_train.cli.process import prepare_process

        prepare_process(None)
    from tier_export.verify import refuse_broken
    from tier_export.verify import verify as run
    from tier_export.verify_report import to_json, to_lines
    from tier_infer.bundle import load_bundle

    bundle = load_bundle(folder, unused=True)
    found = run(bundle, against, dataset)
    click.echo(to_json(bundle, found) if as_json else "\n".join(to_lines(bundle, found)))
    refuse_broken(found)
    if found.differences:
        click.echo(
            f"tier-export: not the certificate's figures: {len(found.differences)} of "
            f"{found.compared}, measured on another machine or by another version",
            err=True,
        )
