"""tier-export: the only file of the package that prints or exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tier_infer.errors import UsageError
from tier_infer.guard import guarded


class Guarded(click.Command):
    """Turns an error into its sentence and exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        return guarded("tier-export", ctx, lambda: click.Command.invoke(self, ctx))


@click.command(cls=Guarded, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("ckpt", type=click.Path(path_type=Path), metavar="CKPT.pt")
@click.option("--fp16", is_flag=True, help="Also write the FP16 twin of the encoder.")
@click.option(
    "--queries",
    multiple=True,
    metavar="SET",
    help="Label set: a packaged name such as chexpert, or a TOML file; may be repeated, the first "
    "is the default set. Default: what the checkpoint's recipe names as its prompts.",
)
@click.option(
    "--crops",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="Measure parity on the images of this manifest (its test split); default: phantoms.",
)
@click.option("-o", "--output", default="bundle", show_default=True, metavar="DIR")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="tier-cxr")
def main(
    ckpt: Path, fp16: bool, queries: tuple[str, ...], crops: Path | None, output: str, debug: bool
) -> None:
    """Export a checkpoint to a bundle that tier-infer runs without PyTorch.

    The bundle appears only when its scores equal PyTorch's within the gates (exit 5 otherwise).
    """
    from tier_train.cli.process import prepare_process

    prepare_process(None)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("export needs its extra: pip install 'tier-cxr[export]'") from None
    from tier_export.crops import manifest_crops, phantom_crops
    from tier_export.export import check_target, export
    from tier_export.parity import table
    from tier_infer.label_sets import load_label_set
    from tier_train.checkpoint import load_checkpoint

    target = Path(output)
    check_target(target)
    sets = [load_label_set(source) for source in queries]
    if len({s.id for s in sets}) != len(sets):
        raise UsageError("two label sets have the same name")
    checkpoint = load_checkpoint(ckpt)
    sets = sets or [load_label_set(checkpoint.recipe.prompts)]
    if checkpoint.alarm:
        click.echo(f"tier-export: collapse alarm in training: {checkpoint.alarm}", err=True)
    measured_on = manifest_crops(crops, checkpoint) if crops else phantom_crops(checkpoint)
    name = f"{checkpoint.training.get('data', 'unknown')} {checkpoint.recipe.name}"
    manifest = export(
        checkpoint, sets, measured_on, target, fp16, name, lambda s: click.echo(s, err=True)
    )
    click.echo(table(manifest.parity))
    for file, entry in manifest.files.items():
        click.echo(f"{file:<28} {entry['bytes'] / 1e6:7.2f} MB  {entry['precision']}")
    click.echo(f"wrote {output}, {manifest.bundle_sha256[:12]}; next: tier-infer study.dcm")


if __name__ == "__main__":
    main()
