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
from typing import Any

import numpy as np

from tier_export import OPSET
from tier_export.lint import check_set
from tier_export.parity import Floats, onnx_query
from tier_export.queries import Reads, check_prompts, query_graph, set_entry
from tier_export.writing import Files, recover, write_bundle
from tier_infer.bundle import MAX_MANIFEST_BYTES, Bundle, Manifest, load_bundle, sha256
from tier_infer.errors import IntegrityError, ParityError, UsageError
from tier_infer.golden import TABLE, Golden, SetScores, golden_files, read_golden
from tier_infer.label_sets import Label, LabelSet

MAX_DZ = 1e-6  # between the query graph and its table's product in float64
Sentences = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What turns sentences into directions."""

    readers: Sequence[Reads]
    embed: Callable[[Sequence[Sentences]], Floats]  # groups of sentences → q [G, D], eq. 3


@dataclass(frozen=True)
class Made:
    """A label set with its directions, and what is odd about it."""

    labels: LabelSet
    table: Floats  # [L, D]
    warnings: list[str]


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


def open_bundle(folder: Path) -> Bundle:
    """As `load_bundle`, under its real name: a link to it must not become a folder."""
    real = folder.resolve()
    if real.name:
        recover(real)
    return replace(load_bundle(folder), folder=real)


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
        files = ", ".join(str(row["sha256"])[:12] for row in rows)
        raise UsageError(
            f"the bundle was exported from {len(rows)} checkpoints, --checkpoint names "
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
    """Its directions and the warnings about them; UsageError for a set that asks nothing."""
    for reader in source.readers:  # before minutes of embedding, too
        check_prompts(reader, labels)
    table = directions(labels, source)
    return Made(labels, table, check_set(labels, table, source.readers))


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
    bundle: Bundle, sets: Sequence[Made], remove: Collection[str] = (), default: bool = False
) -> Swap:
    """The bundle with `sets` added or replaced, the first as default if so wished, and without
    `remove`. Every query graph is proven on the golden embeddings; ParityError."""
    before = bundle.manifest
    golden = read_golden(bundle)
    entries, scores = dict(before.label_sets), dict(golden.scores) if golden else {}
    files: Files = {}
    changes = []
    opset = int(before.graph.get("encoder", {}).get("opset", OPSET))
    for made in sets:
        set_id, count = made.labels.id, len(made.table)
        graph = query_graph(made.table, made.labels, before.text_sha256, opset).SerializeToString()
        scores[set_id] = SetScores(sha256(graph), _proven(graph, made, golden))
        action = "replaced" if set_id in entries else "added"
        entries[set_id] = set_entry(made.labels, graph)
        files[entries[set_id]["path"]] = graph
        changes.append(Change(action, set_id, count, sha256(graph)))
    first = sets[0].labels.id if default else before.default_set
    for set_id in remove:
        gone = _removable(set_id, entries, first)
        scores.pop(set_id, None)
        changes.append(Change("removed", set_id, len(gone["labels"]), gone["sha256"]))
    manifest = replace(before, label_sets=entries, default_set=first)
    if golden:
        files[TABLE] = golden_files(replace(golden, scores=scores))[TABLE]
        entry = {"sha256": sha256(files[TABLE]), "bytes": len(files[TABLE])}
        manifest = replace(manifest, golden=before.golden | {TABLE: entry})
    _check_manifest(manifest, before)
    return Swap(manifest, files, changes)


def write(bundle: Bundle, swap: Swap) -> None:
    """The old bundle is complete until the new one stands in its place."""
    write_bundle(bundle.folder, swap.manifest, swap.files, keep=bundle.manifest)


def _removable(set_id: str, entries: dict[str, dict[str, Any]], default: str) -> dict[str, Any]:
    if set_id not in entries:
        raise UsageError(f"label set {set_id!r} is not in the bundle; it has {', '.join(entries)}")
    if set_id == default:
        raise UsageError(
            f"{set_id} is the default set, and what a bare label means; make another one the "
            "default with --queries SET --default"
        )
    return entries.pop(set_id)


def _check_manifest(manifest: Manifest, before: Manifest) -> None:
    if manifest.bundle_sha256 != before.bundle_sha256 or manifest.files != before.files:
        raise RuntimeError("a label set must not change what the bundle is")
    size = len(manifest.to_json())
    if size > MAX_MANIFEST_BYTES:
        raise UsageError(
            f"the bundle's manifest would have {size} bytes, at most {MAX_MANIFEST_BYTES} are "
            "read; use shorter label ids, or remove a label set with --remove"
        )


def _proven(graph: bytes, made: Made, golden: Golden | None) -> Floats:
    """float32 [N, L]: scores of the golden embeddings; without any, of the axes themselves."""
    embeddings = golden.image if golden else np.eye(made.table.shape[1], dtype=np.float32)
    z = embeddings @ made.table.T
    exact = embeddings.astype(np.float64) @ made.table.T.astype(np.float64)
    found = onnx_query(graph)(embeddings)
    worst = float(np.abs(found - exact).max()) if found.shape == exact.shape else float("inf")
    if not worst <= MAX_DZ:  # NaN is a breach
        raise ParityError(
            f"label set {made.labels.id}: its graph differs from its table's product by "
            f"{worst:.1e}, allowed {MAX_DZ:g}; the bundle is as it was"
        )
    return z
