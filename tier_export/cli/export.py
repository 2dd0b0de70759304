"""tier-export CKPT.pt…: checkpoints → bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tier_export import LAST_OPSET, OPSET
from tier_infer.errors import UsageError

if TYPE_CHECKING:
    from tier_infer.bundle import Manifest


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
@click.argument("ckpt", nargs=-1, type=click.Path(path_type=Path), metavar="CKPT.pt...")
@click.option("--fp16", is_flag=True, help="Also write the FP16 twin of the encoder.")
@click.option(
    "--int8",
    metavar="IMAGES",
    help="Also write an INT8 encoder for CPUs, calibrated on IMAGES: a manifest (never its test "
    "rows) or the word phantoms. Refused where an AUC moves by more than 0.003.",
)
@click.option(
    "--queries",
    multiple=True,
    metavar="SET",
    help="Label set: a packaged name such as chexpert, or a TOML file; may be repeated, the first "
    "is the default set. chexpert@top_k=5 and chexpert@log_sum_exp=0.1 pool the scores of patches. "
    "Default: what the checkpoint's recipe names as its prompts.",
)
@click.option(
    "--dataset",
    "--crops",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="Measure parity on the images of this manifest (its test split); default: phantoms.",
)
@click.option(
    "--average",
    is_flag=True,
    help="Average the weights of checkpoints of one run into one network, instead of an ensemble; "
    "refused where the average scores worse.",
)
@click.option(
    "--text",
    is_flag=True,
    help="Also write the text tower: tier-infer --query takes sentences then.",
)
@click.option(
    "--opset",
    type=click.IntRange(OPSET, LAST_OPSET),
    default=OPSET,
    show_default=True,
    help="ONNX operator set of every graph.",
)
@click.option("-o", "--output", default="bundle", show_default=True, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def export(
    ckpt: tuple[Path, ...],
    fp16: bool,
    int8: str | None,
    queries: tuple[str, ...],
    dataset: Path | None,
    average: bool,
    text: bool,
    opset: int,
    output: str,
    as_json: bool,
    debug: bool,
) -> None:
    """Export checkpoints."""
    check_extra()
    if not ckpt:
        raise UsageError(
            "name a checkpoint, as `tier-train run` writes it: tier-export ckpt.pt"
            + (f"; --int8 {int8} took one: --int8 needs images, or --int8 phantoms" if int8 else "")
        )
    from tier_export.writing import check_target
    from tier_infer.label_sets import load_label_set

    target = Path(output)
    replaced = check_target(target)
    sets = [load_label_set(source, pooled=True) for source in queries]
    twice = {s.id for s in sets if [t.id for t in sets].count(s.id) > 1}
    if twice:
        raise UsageError(f"two label sets have the same name, {min(twice)}; rename one in its file")
    if sets:
        _refuse_loss(target, [labels.id for labels in sets])
    missing = next((path for path in ckpt if not path.is_file()), None)
    if missing:  # before torch is imported, which takes seconds
        raise UsageError(f"no checkpoint at {missing}; `tier-train run` writes ./ckpt.pt")
    from tier_train.cli.process import prepare_process

    prepare_process(None)
    from tier_export.average import average_of
    from tier_export.certificate import table
    from tier_export.crops import calibration_crops, manifest_crops, phantom_crops
    from tier_export.engines import add_engine, skipped
    from tier_export.export import Wish
    from tier_export.export import export as run
    from tier_export.members import members_of
    from tier_train.checkpoint import load_checkpoint

    checkpoints, names = [load_checkpoint(path) for path in ckpt], [str(path) for path in ckpt]
    members = average_of(checkpoints, names) if average else members_of(checkpoints, names)
    if not sets:
        sets = [load_label_set(members.prompts)]
        _refuse_loss(target, [labels.id for labels in sets])
    for source in members.sources:
        if source.alarm:
            say(f"tier-export: collapse alarm in training: {source.alarm}")
    presets = (members.geometry, members.networks[0].intensity)
    crops = manifest_crops(dataset, *presets) if dataset else phantom_crops(*presets)
    calibration = calibration_crops(int8, *presets) if int8 else None
    wish = Wish(fp16=fp16, int8=calibration, text=text, opset=opset)
    manifest, prover = run(members, sets, crops, target, wish, say)
    new = manifest.bundle_sha256
    engines, reason = add_engine(target, say)
    if as_json:
        if reason:
            say(skipped(reason))
        click.echo(to_json(manifest, output, engines))
        return
    click.echo(table(prover))
    for file, entry in (*manifest.files.items(), *manifest.text_files.items()):
        kind = entry.get("precision", "")
        click.echo(f"{file:<28} {entry['bytes'] / 1e6:7.2f} MB  {kind}".rstrip())
    for engine in engines:
        size = engine["bytes"] / 1e6
        click.echo(f"{engine['path']:<28} {size:7.2f} MB  {engine['precision']}, this machine only")
    if reason:
        click.echo(skipped(reason))
    instead = f" in place of {replaced[:12]}" if replaced and replaced != new else ""
    there = "" if output == "bundle" else f" --bundle {output}"
    click.echo(f"wrote {output}, {new[:12]}{instead}; next: tier-infer study.dcm{there}")


def say(line: str) -> None:
    click.echo(line, err=True)


def _refuse_loss(target: Path, sets: list[str]) -> None:
    """Label sets that somebody added to the bundle in place may stand nowhere else."""
    from tier_infer.bundle import parse_manifest

    path = target / "manifest.json"
    if not path.is_file():
        return
    lost = sorted(set(parse_manifest(path.read_bytes()).label_sets) - set(sets))
    if lost:
        raise UsageError(
            f"{target} holds the label sets {', '.join(lost)}, which this export would not write; "
            "name them with --queries, or another folder with -o"
        )


def to_json(manifest: Manifest, output: str, engines: list[dict[str, Any]]) -> str:
    table = {
        "schema": "tier-export/1",
        "bundle": {"path": output, "name": manifest.name, "sha256": manifest.bundle_sha256},
        "files": manifest.files,
        "engines": engines,  # empty where this machine has no GPU, see stderr
        "label_sets": {s: entry["sha256"] for s, entry in manifest.label_sets.items()},
        "parity": manifest.parity,
    }
    return json.dumps(table, indent=1, allow_nan=False)


def check_extra() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("export needs its extra: pip install 'tier-cxr[export]'") from None
