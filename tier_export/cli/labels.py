"""tier-export labels: list, add, replace or remove label sets of a bundle; the encoder stays."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tier_infer.errors import UsageError

if TYPE_CHECKING:
    from tier_export.labels import Made, Source
    from tier_infer.bundle import Bundle, Manifest
    from tier_infer.label_sets import LabelSet

SCHEMA = "tier-labels/1"
Row = dict[str, Any]  # action, set, labels, sha256 of the query graph; if listed, languages, pool


@click.command("labels", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--queries",
    multiple=True,
    metavar="SET",
    help="Label set to add or replace: a packaged name such as chexpert, or a TOML file; may be "
    "repeated. chexpert@top_k=5 and chexpert@log_sum_exp=0.1 pool the scores of patches.",
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
@click.option(
    "--default",
    metavar="SET",
    help="Make SET the default set, whose labels need no prefix: one of the bundle, or added now.",
)
@click.option("--remove", multiple=True, metavar="SET", help="Take a label set out of the bundle.")
@click.option(
    "--check",
    "--lint-only",
    "check",
    is_flag=True,
    help="Only tell what is wrong or odd about the --queries; write nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def labels(
    queries: tuple[str, ...],
    bundle_dir: str,
    checkpoint: tuple[Path, ...],
    default: str | None,
    remove: tuple[str, ...],
    check: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """List the label sets of a bundle, or add, replace and remove some.

    No byte of an encoder changes, and the bundle keeps its SHA-256.
    """
    if not queries and (checkpoint or check):
        raise UsageError("--checkpoint and --check are about a set; add --queries SET")
    if check and (default or remove):
        raise UsageError("--check writes nothing; leave --default and --remove out")
    _check_extra()
    from tier_export import labels as swap
    from tier_infer.label_sets import load_label_set, normal_id

    sets = [load_label_set(source, pooled=True) for source in queries]
    ids = [s.id for s in sets]
    out = list(dict.fromkeys(normal_id(name) for name in remove))
    first = None if default is None else normal_id(default)
    _check_names(ids, out)
    folder = Path(bundle_dir)
    if not (queries or remove or default is not None):
        _list(swap.open_bundle(folder), as_json)
        return
    if check:
        bundle = swap.open_bundle(folder, ids)
        swap.check_pools(bundle, sets)
        _check(sets, _source(bundle, checkpoint), bundle.manifest, as_json)
        return
    bundle = swap.open_to_write(folder, [*ids, *out])
    swap.check_writable(bundle, folder)
    swap.check_wish(bundle, ids, out, first)
    swap.check_pools(bundle, sets)
    source = _source(bundle, checkpoint) if sets else None
    made = [swap.make(s, source) for s in sets if source]
    _warn(made)
    done = swap.prepare(bundle, made, out, first)
    swap.write(bundle, done)
    rows: list[Row] = [
        {"action": c.action, "set": c.set_id, "labels": c.labels, "sha256": c.sha256}
        for c in done.changes
    ]
    _tell(rows, made, done.manifest, as_json, was=bundle.manifest.default_set)
    unmeasured = [str(e["precision"]) for e in done.manifest.files.values()]
    unmeasured = [precision for precision in unmeasured if precision != "fp32"]
    if ids and unmeasured:
        click.echo(
            f"{', '.join(unmeasured)} not yet measured for {', '.join(ids)}; next: tier-export "
            f"verify {shlex.quote(bundle_dir)}",
            err=True,
        )


def _check_names(ids: Sequence[str], out: Sequence[str]) -> None:
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise UsageError(
            f"two label sets have the same name, {twice[0]}; name it once, or write another one "
            "behind `set =` in its file"
        )
    if set(ids) & set(out):
        raise UsageError(f"label set {min(set(ids) & set(out))} is to be added and removed")


def _list(bundle: Bundle, as_json: bool) -> None:
    from tier_infer.label_names import names_of
    from tier_infer.pooling import described
    from tier_infer.query_table import QueryTable

    rows: list[Row] = []
    for set_id, entry in bundle.manifest.label_sets.items():
        query = QueryTable(bundle, set_id)
        known = query.labels
        languages = sorted({code for label in known for code in names_of(label)})
        row = {"action": "listed", "set": set_id, "labels": len(known), "sha256": entry["sha256"]}
        pool = {"pool": described(query.pool)} if query.pool else {}
        rows.append(row | {"languages": languages} | pool)
    _tell(rows, [], bundle.manifest, as_json)


def _check(sets: list[LabelSet], source: Source, manifest: Manifest, as_json: bool) -> None:
    """Every error of every set, then exit 2 if there was one."""
    from tier_export.labels import examine
    from tier_export.lint import told

    made = [examine(s, source) for s in sets]
    for m in made:
        for line in told(m.errors, "errors"):
            click.echo(f"tier-export: {m.labels.id}: {line}", err=True)
    _warn(made)
    rows: list[Row] = [
        {"action": "refused" if m.errors else "checked", "set": m.labels.id,
         "labels": len(m.labels.labels), "sha256": None}
        for m in made
    ]  # fmt: skip
    _tell(rows, made, manifest, as_json)
    count = sum(len(m.errors) for m in made)
    if count:
        wrong = ", ".join(m.labels.id for m in made if m.errors)
        raise UsageError(f"{_counted(count, 'error')} in {wrong}; mend the file and check it again")


def _warn(made: Sequence[Made]) -> None:
    """Of each set the weightiest, so that none is pushed off the screen by another; of sets that
    differ by their pool once."""
    from tier_export.lint import told

    for place, m in enumerate(made):
        if any(other.labels.labels == m.labels.labels for other in made[:place]):
            continue
        for line in told([finding.message for finding in m.findings]):
            click.echo(f"tier-export: {m.labels.id}: {line}", err=True)


def _source(bundle: Bundle, checkpoints: tuple[Path, ...]) -> Source:
    from tier_export.labels import checkpoint_source, tower_source

    if not checkpoints:
        return tower_source(bundle)
    from tier_train.cli.process import prepare_process

    prepare_process(None)
    return checkpoint_source(bundle, checkpoints)


def _tell(
    rows: list[Row], made: Sequence[Made], manifest: Manifest, as_json: bool, was: str | None = None
) -> None:
    """`was`: the default set before."""
    default = manifest.default_set
    found = [(m.labels.id, finding) for m in made for finding in m.findings]
    if as_json:
        table = {
            "schema": SCHEMA,
            "bundle": {"name": manifest.name, "sha256": manifest.bundle_sha256},
            "default_set": default,
            "default_set_before": was or default,
            "sets": [row | {"default": row["set"] == default} for row in rows],
            "errors": [f"{m.labels.id}: {text}" for m in made for text in m.errors],
            "warnings": [f"{set_id}: {finding.message}" for set_id, finding in found],
            "findings": [
                {"set": set_id, "kind": f.kind, "labels": f.labels, "words": f.words}
                for set_id, f in found
            ],
        }
        click.echo(json.dumps(table, indent=1))
        return
    width = max((len(row["set"]) for row in rows), default=0)
    spoken = max((len(" ".join(row.get("languages", ()))) for row in rows), default=0)
    for row in rows:
        action = f"{row['action']:<8} " if row["action"] != "listed" else ""
        count = f"{row['labels']:>6} label{'s' if row['labels'] != 1 else ' '}"
        languages = f"  {' '.join(row['languages']):<{spoken}}" if "languages" in row else ""
        mark = "  default" if languages and row["set"] == default else ""
        short = (row["sha256"] or "")[:12]
        mark += "".join(f"  {value}" for value in row.get("pool", {}).values())
        click.echo(f"{action}{row['set']:<{width}} {count}{languages}  {short}{mark}".rstrip())
    changed = (
        f", was {was}: a bare label now means {default}'s" if was not in (None, default) else ""
    )
    click.echo(f"bundle {manifest.bundle_sha256[:12]}, default set {default}{changed}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _check_extra() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UsageError(
            "a label set is written as an ONNX graph; pip install 'tier-cxr[cpu,labels]', or with "
            "PyTorch 'tier-cxr[export]'"
        ) from None
