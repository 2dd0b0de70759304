"""tier-export labels: add, replace or remove label sets of a bundle; the encoder stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tier_infer.errors import UsageError

if TYPE_CHECKING:
    from tier_export.labels import Change, Source
    from tier_infer.bundle import Bundle, Manifest

SCHEMA = "tier-labels/1"


@click.command("labels", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--queries",
    multiple=True,
    metavar="SET",
    help="Label set to add or replace: a packaged name such as chexpert, or a TOML file; may be "
    "repeated.",
)
@click.option(
    "--bundle",
    "bundle_dir",
    envvar="TIER_BUNDLE",
    default="bundle",
    metavar="DIR",
    help="Folder that tier-export wrote; else TIER_BUNDLE, else ./bundle.",
)
@click.option(
    "--checkpoint",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CKPT.pt",
    help="Embed the sentences with this checkpoint of the bundle instead of the text tower in it; "
    "of an ensemble name all, in order.",
)
@click.option("--default", is_flag=True, help="Make the first --queries the default set.")
@click.option("--remove", multiple=True, metavar="SET", help="Take a label set out of the bundle.")
@click.option(
    "--check", "--lint-only", "check", is_flag=True, help="Only tell what is odd; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def labels(
    queries: tuple[str, ...],
    bundle_dir: str,
    checkpoint: tuple[Path, ...],
    default: bool,
    remove: tuple[str, ...],
    check: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Add, replace or remove label sets of a bundle.

    No byte of an encoder changes, and the bundle keeps its SHA-256.
    """
    if not queries and not remove:
        raise UsageError("name a label set to add with --queries SET, or one to --remove")
    if not queries and (checkpoint or default or check):
        raise UsageError("--checkpoint, --default and --check are about a set; add --queries SET")
    if check and (default or remove):
        raise UsageError("--check writes nothing; leave --default and --remove out")
    _check_extra()
    from tier_export import labels as swap
    from tier_export.lint import told
    from tier_infer.label_sets import load_label_set, normal_id

    sets = [load_label_set(source) for source in queries]
    ids = [s.id for s in sets]
    out = list(dict.fromkeys(normal_id(name) for name in remove))
    if len(set(ids)) != len(ids):
        raise UsageError("two label sets have the same name")
    if set(ids) & set(out):
        raise UsageError(f"label set {min(set(ids) & set(out))} is to be added and removed")
    folder = Path(bundle_dir)
    bundle = swap.open_bundle(folder)
    if not check:
        swap.check_writable(bundle, folder)
    source = _source(bundle, checkpoint) if sets else None
    made = [swap.make(s, source) for s in sets if source]
    warnings = [f"{m.labels.id}: {text}" for m in made for text in m.warnings]
    for line in told(warnings):
        click.echo(f"tier-export: {line}", err=True)
    if check:
        changes = [swap.Change("checked", m.labels.id, len(m.table), "") for m in made]
        _tell(changes, warnings, bundle.manifest, as_json)
        return
    done = swap.prepare(bundle, made, out, default)
    swap.write(bundle, done)
    _tell(done.changes, warnings, done.manifest, as_json)


def _source(bundle: Bundle, checkpoints: tuple[Path, ...]) -> Source:
    from tier_export.labels import checkpoint_source, tower_source

    if not checkpoints:
        return tower_source(bundle)
    from tier_train.cli.process import prepare_process

    prepare_process(None)
    return checkpoint_source(bundle, checkpoints)


def _tell(changes: list[Change], warnings: list[str], manifest: Manifest, as_json: bool) -> None:
    if as_json:
        table = {
            "schema": SCHEMA,
            "bundle": {"name": manifest.name, "sha256": manifest.bundle_sha256},
            "default_set": manifest.default_set,
            "sets": [
                {
                    "action": c.action,
                    "set": c.set_id,
                    "labels": c.labels,
                    "sha256": c.sha256 or None,
                }
                for c in changes
            ],
            "warnings": warnings,
        }
        click.echo(json.dumps(table, indent=1))
        return
    width = max(len(c.set_id) for c in changes)
    for c in changes:
        line = f"{c.action:<8} {c.set_id:<{width}} {c.labels:>6} labels  {c.sha256[:12]}"
        click.echo(line.rstrip())
    click.echo(f"bundle {manifest.bundle_sha256[:12]}, default set {manifest.default_set}")


def _check_extra() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UsageError(
            "a label set is written as an ONNX graph; pip install 'tier-cxr[cpu,labels]', or with "
            "PyTorch 'tier-cxr[export]'"
        ) from None
