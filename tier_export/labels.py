"""A label set goes into a finished bundle, or out of it; no byte of an encoder changes.

The sentences' directions come from the bundle's own text towers, without torch, or from the
checkpoints that it was exported from. `prepare` changes nothing, `write` lets the new bundle appear
whole or leaves the old one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tier_export import OPSET
from tier_export.golden_gate import widened
from tier_export.heads import Floats, table_score
from tier_export.label_proof import check_read, proven
from tier_export.lint import Finding, lint
from tier_export.queries import query_graph, set_entry
from tier_export.refusals import Reads, direction_errors, refuse, unreadable
from tier_export.writing import Files, recover, write_bundle
from tier_infer.bundle import (
    MAX_MANIFEST_BYTES,
    Bundle,
    Manifest,
    load_bundle,
    parse_manifest,
    read_verified,
    sha256,
)
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.golden import TABLE, SetScores, golden_files, read_golden
from tier_infer.label_sets import Label, LabelSet
from tier_infer.pooling import pool_errors

Sentences = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What turns sentences into directions."""

    readers: Sequence[Reads]
    embed: Callable[[Sequence[Sentences]], Floats]  # groups of sentences → q [G, D], eq. 3


@dataclass(frozen=True)
class Made:
    """A label set with its directions, and what is odd about it, or wrong."""

    labels: LabelSet
    table: Floats  # [L, D]; with errors, of the labels that can be read
    findings: list[Finding]
    errors: list[str]


@dataclass(frozen=True)
class Change:
    action: str  # added, replaced, removed
    set_id: str
    labels: int
    sha256: str  # of the query graph


@dataclass(frozen=True)
class Swap:
    manifest: Manifest
    files: Files
    changes: list[Change]


def open_bundle(folder: Path, renewed: Collection[str] = ()) -> Bundle:
    """As `load_bundle`, but under its real name: a link to it must not become a folder. And the
    files of the sets in `renewed`, which go, may be damaged or missing. Writes nothing."""
    real = folder.resolve()
    try:
        return replace(load_bundle(folder), folder=real)
    except IntegrityError:
        if not (real / "manifest.json").is_file():
            raise
    return _with_damaged_sets(real, renewed)


def open_to_write(folder: Path, renewed: Collection[str] = ()) -> Bundle:
    """As `open_bundle`; and puts back what a killed write took away."""
    real = folder.resolve()
    if real.name:
        recover(real)
    return open_bundle(folder, renewed)


def _with_damaged_sets(folder: Path, renewed: Collection[str]) -> Bundle:
    with (folder / "manifest.json").open("rb") as file:
        manifest = parse_manifest(file.read(MAX_MANIFEST_BYTES + 1))
    sets = {entry["path"]: set_id for set_id, entry in manifest.label_sets.items()}
    for name, entry in manifest.listed():
        try:
            read_verified(folder / name, entry)
        except IntegrityError as error:
            if name not in sets:
                raise
            if sets[name] not in renewed:
                raise IntegrityError(
                    f"label set {sets[name]}: {str(error).partition(';')[0]}; make it again with "
                    f"`tier-export labels --queries`, or take it out with --remove {sets[name]}"
                ) from None
    return Bundle(folder, manifest)


def check_wish(
    bundle: Bundle, added: Collection[str], remove: Collection[str], default: str | None
) -> None:
    """UsageError for a set that is not there, before minutes of embedding, too."""
    there = bundle.manifest.label_sets
    known = ", ".join(dict.fromkeys((*there, *added)))
    first = bundle.manifest.default_set if default is None else default
    for set_id in remove:
        if set_id not in there:
            raise UsageError(
                f"label set {set_id!r} is not in the bundle; it has {', '.join(there)}"
            )
        if set_id == first:
            raise UsageError(
                f"{set_id} is the default set, and what a bare label means; make another one the "
                "default with --default SET"
            )
    if first not in there and first not in added:
        raise UsageError(
            f"--default {first!r}: there is no such label set, in the bundle or added; allowed: "
            f"{known}"
        )


def check_pools(bundle: Bundle, sets: Sequence[LabelSet]) -> None:
    """UsageError for patch scores that the bundle's encoder can't give, likewise."""
    manifest = bundle.manifest
    rows, patches = manifest.checkpoint, manifest.cells**2
    refuse([e for s in sets for e in pool_errors(s.id, s.pool, rows, patches)])


def check_writable(bundle: Bundle, called: Path) -> None:
    """UsageError before minutes of embedding; `called` is how the user names the folder."""
    folders = (bundle.folder, bundle.folder.parent)
    if not all(os.access(folder, os.W_OK | os.X_OK) for folder in folders):
        raise UsageError(
            f"the bundle {called} or the folder around it can't be written; copy it to a place of "
            "your own and name the copy with --bundle"
        )


def tower_source(bundle: Bundle) -> Source:
    """The text towers that the bundle holds; UsageError where it holds none."""
    from tier_infer.sentences import Words

    if not bundle.manifest.text_files:
        raise UsageError(
            "the bundle holds no text tower: name the checkpoints that it was exported from with "
            "--checkpoint ckpt.pt, or export it again with `tier-export --text`"
        )
    words = Words(bundle)
    return Source(
        words.towers, lambda groups: np.stack([words.query(group, ()) for group in groups])
    )


def checkpoint_source(bundle: Bundle, paths: Sequence[Path]) -> Source:
    """The checkpoints' text towers in PyTorch; IntegrityError where they are not the bundle's."""
    from tier_export.average import average_of
    from tier_export.members import members_of
    from tier_train.checkpoint import load_checkpoint

    rows = bundle.manifest.checkpoint
    if len(paths) != len(rows):
        count = f"{len(rows)} checkpoint{'s' * (len(rows) != 1)}"
        files = ", ".join(str(row["sha256"])[:12] for row in rows)
        raise UsageError(
            f"the bundle was exported from {count}, --checkpoint names "
            f"{len(paths)}; name all, in the order of the export (SHA-256 {files})"
        )
    averaged = any(row.get("combined") == "average" for row in rows)
    combine = average_of if averaged else members_of
    members = combine([load_checkpoint(path) for path in paths], [str(path) for path in paths])
    found, wanted = members.text_sha256, bundle.manifest.text_sha256
    if found != wanted:
        order = ", in the order of the export" if len(rows) > 1 else ""
        raise IntegrityError(
            f"{' '.join(map(str, paths))}: the text encoder is {found[:12]}, this bundle's is "
            f"{wanted[:12]}; name what the bundle was exported from{order}"
        )

    def embed(groups: Sequence[Sentences]) -> Floats:
        rows = tuple(Label(f"group_{n}", "", group, ()) for n, group in enumerate(groups))
        return members.table(LabelSet("groups", rows))

    return Source([network.tokenizer for network in members.networks], embed)


def make(labels: LabelSet, source: Source) -> Made:
    """Its directions and what is odd about it; UsageError for a set that asks nothing."""
    refuse([*unreadable(labels, source.readers).values()])  # before minutes of embedding
    made = examine(labels, source)
    refuse(made.errors)
    return made


def examine(labels: LabelSet, source: Source) -> Made:
    """As `make`, but with all errors: those of directions are of the labels that can be read."""
    wrong = unreadable(labels, source.readers)
    sound = [x for x in labels.labels if not wrong.keys() & {*x.positive, *x.negative}]
    if not sound:
        return Made(labels, np.empty((0, 0), np.float32), [], [*wrong.values()])
    read = replace(labels, labels=tuple(sound))
    table = directions(read, source)
    errors = [*wrong.values(), *direction_errors(table, read)]
    return Made(labels, table, [] if errors else lint(labels, table, source.readers), errors)


def directions(labels: LabelSet, source: Source) -> Floats:
    """float32 [L, D], q⁺ − q⁻ of every label; sentences that labels share are embedded once."""
    sides = [side for label in labels.labels for side in (label.positive, label.negative) if side]
    row = {group: n for n, group in enumerate(dict.fromkeys(sides))}
    q = source.embed(list(row))
    table = q[[row[label.positive] for label in labels.labels]]
    held = [n for n, label in enumerate(labels.labels) if label.negative]
    table[held] -= q[[row[labels.labels[n].negative] for n in held]]
    return table


def prepare(
    bundle: Bundle,
    sets: Sequence[Made],
    remove: Collection[str] = (),
    default: str | None = None,
) -> Swap:
    """The bundle with `sets` added or replaced, without `remove`, and with another default set if
    so wished (see `check_wish`). Every query graph is proven on the golden embeddings;
    ParityError."""
    before = bundle.manifest
    check_pools(bundle, [made.labels for made in sets])
    golden = read_golden(bundle)
    entries, scores = dict(before.label_sets), dict(golden.scores) if golden else {}
    files: Files = {}
    changes = []
    opset = int(before.graph.get("encoder", {}).get("opset", OPSET))
    for made in sets:
        set_id, count = made.labels.id, len(made.table)
        graph = query_graph(made.table, made.labels, before.text_sha256, opset).SerializeToString()
        scores[set_id] = SetScores(sha256(graph), proven(graph, made.table, made.labels, golden))
        action = "replaced" if set_id in entries else "added"
        entries[set_id] = set_entry(made.labels, graph)
        files[entries[set_id]["path"]] = graph
        changes.append(Change(action, set_id, count, sha256(graph)))
    for set_id in remove:
        gone = entries.pop(set_id)
        scores.pop(set_id, None)
        changes.append(Change("removed", set_id, len(gone["labels"]), gone["sha256"]))
    first = before.default_set if default is None else default
    manifest = replace(before, label_sets=entries, default_set=first)
    if golden:
        pools = [table_score(made.table, made.labels) for made in sets if made.labels.pool]
        gates = widened(bundle, golden, pools)
        files[TABLE] = golden_files(replace(golden, scores=scores, gates=gates))[TABLE]
        entry = {"sha256": sha256(files[TABLE]), "bytes": len(files[TABLE])}
        manifest = replace(manifest, golden=before.golden | {TABLE: entry})
    _check_manifest(manifest, before)
    check_read(manifest, files, [made.labels.id for made in sets])
    return Swap(manifest, files, changes)


def write(bundle: Bundle, swap: Swap) -> None:
    """The old bundle is complete until the new one stands in its place."""
    write_bundle(bundle.folder, swap.manifest, swap.files, keep=bundle.manifest)


def _check_manifest(manifest: Manifest, before: Manifest) -> None:
    if manifest.bundle_sha256 != before.bundle_sha256 or manifest.files != before.files:
        raise RuntimeError("a label set must not change what the bundle is")
    size = len(manifest.to_json())
    if size > MAX_MANIFEST_BYTES:
        raise UsageError(
            f"the bundle's manifest would have {size} bytes, at most {MAX_MANIFEST_BYTES} are "
            "read; use shorter label ids, or remove a label set with --remove"
        )
