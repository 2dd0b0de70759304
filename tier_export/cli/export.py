"""tier-export CKPT.pt…: checkpoints → bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tier_infer.errors import UsageError


class Export(click.Command):
    """Hidden behind the group: users type paths, so messages must not name a verb `export`."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        return super().make_context("tier-export", args, None, **extra)


@click.command(
    "export", cls=Export, hidden=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument(
    "ckpt", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CKPT.pt..."
)
@click.option("--fp16", is_flag=True, help="Also write the FP16 twin of the encoder.")
@click.option(
    "--queries",
    multiple=True,
    metavar="SET",
    help="Label set: a packaged name such as chexpert, or a TOML file; may be repeated, the first "
    "is the default set. Default: what the checkpoint's recipe names as its prompts.",
)
@click.option(
    "--dataset",
    "--crops",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="Measure parity on the images of this manifest (its test split); default: phantoms.",
)
@click.option("-o", "--output", default="bundle", show_default=True, metavar="DIR")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def export(
    ckpt: tuple[Path, ...],
    fp16: bool,
    queries: tuple[str, ...],
    dataset: Path | None,
    output: str,
    debug: bool,
) -> None:
    """Export checkpoints."""
    from tier_train.cli.process import prepare_process

    prepare_process(None)
    check_extra()
    from tier_export.certificate import table
    from tier_export.crops import manifest_crops, phantom_crops
    from tier_export.export import Wish
    from tier_export.export import export as run
    from tier_export.members import members_of
    from tier_export.writing import check_target
    from tier_infer.label_sets import load_label_set
    from tier_train.checkpoint import load_checkpoint

    target = Path(output)
    check_target(target)
    sets = [load_label_set(source) for source in queries]
    if len({s.id for s in sets}) != len(sets):
        raise UsageError("two label sets have the same name")
    members = members_of([load_checkpoint(path) for path in ckpt])
    first = members.networks[0]
    sets = sets or [load_label_set(first.recipe.prompts)]
    for source in members.sources:
        if source.alarm:
            click.echo(f"tier-export: collapse alarm in training: {source.alarm}", err=True)
    presets = (members.geometry, first.intensity)
    crops = manifest_crops(dataset, *presets) if dataset else phantom_crops(*presets)
    wish = Wish(fp16=fp16)
    manifest, prover = run(members, sets, crops, target, wish, lambda s: click.echo(s, err=True))
    click.echo(table(prover))
    for file, entry in manifest.files.items():
        click.echo(f"{file:<28} {entry['bytes'] / 1e6:7.2f} MB  {entry['precision']}")
    click.echo(f"wrote {output}, {manifest.bundle_sha256[:12]}; next: tier-infer study.dcm")


def check_extra() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("export needs its extra: pip install 'tier-cxr[export]'") from None
