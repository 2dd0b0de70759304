"""A Triton model repository from a bundle: the encoder, label sets, and both in one request.

    tier_encoder          pixels → embeddings
    tier_query_SET        embeddings → scores, one per label set
    tier_SET              pixels → scores, patch embeddings: an ensemble of the two

Pixels are crops: reading DICOM and preprocessing stay with `tier_infer`, in the client. Every
model carries in `parameters` which bundle and which label set it is, so that a client can refuse.
How a repository lies on disk: server/docs/user_guide/model_repository.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tier_export.triton_config import (
    LABELS,
    encoder_config,
    ensemble_config,
    planned,
    query_config,
    text_of,
)
from tier_export.triton_plans import Plans
from tier_infer.bundle import NOTICE, Bundle, canonical, sha256
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.label_sets import ID, normal_id
from tier_infer.query_table import QueryTable

SCHEMA = "tier-triton/1"
LISTING = "tier-triton.json"
ENCODER = "tier_encoder"
CONFIG, MODEL = "config.pbtxt", "1/model.onnx"
# An ensemble needs its folder of version 1 and no file in it; but an empty folder gets lost in
# archives and in git.
PLACE = "1/about.txt"
ABOUT = "An ensemble has no file of its own; this one keeps the folder.\n"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Repository:
    files: Files  # path → bytes, the listing included
    listing: dict[str, Any]


def make_repository(
    bundle: Bundle,
    queries: Sequence[str] = (),
    precision: str = "fp32",
    device: str = "auto",
    plans: Plans | None = None,
) -> Repository:
    """All label sets of the bundle, or those of `queries`. Equal bundles give equal bytes.

    The graphs are opened and pass the bundle's golden vectors first. UsageError for a set or an
    encoder that isn't there, IntegrityError and ParityError for graphs that are not the bundle's.
    """
    sets = chosen_sets(bundle, queries)
    names = model_names(sets)
    Engine(bundle, "cpu", precision)
    manifest = bundle.manifest
    crop, cells, dim = manifest.resolved_geometry().crop, manifest.cells, manifest.embed_dim
    told = _told(bundle, precision)
    encoder = encoder_config(ENCODER, crop, cells, dim, device, told)
    if plans:
        encoder = planned(encoder, plans.by_capability, plans.profile)
        weights = {f"1/{name}": data for name, data in plans.files.items()}
    else:
        weights = {MODEL: bundle.encoder(precision)}
    files = _model(ENCODER, encoder, weights)
    for set_id in sets:
        table = QueryTable(bundle, set_id)
        about = told | _told_of(bundle, set_id, table.ids)
        query_name, name = names[set_id]
        pooled = table.pool is not None
        query = query_config(query_name, cells, dim, len(table.ids), pooled, about)
        lines = {LABELS: _label_file(set_id, table.ids)}
        files |= _model(query_name, query, {MODEL: bundle.query_graph(set_id)} | lines)
        ensemble = ensemble_config(name, encoder, query, about)
        files |= _model(name, ensemble, {PLACE: ABOUT.encode()} | lines)
    listing = {
        "schema": SCHEMA,
        "bundle": {"name": manifest.name, "sha256": manifest.bundle_sha256},
        "precision": precision,
        "device": "cuda" if plans else device,
        "tensorrt": plans.version if plans else None,
        "encoder": ENCODER,
        "sets": {s: {"query": names[s][0], "ensemble": names[s][1]} for s in sets},
        "files": {n: {"sha256": sha256(d), "bytes": len(d)} for n, d in files.items()},
        "notice": NOTICE,
    }
    return Repository(files | {LISTING: canonical(listing).encode()}, listing)


def chosen_sets(bundle: Bundle, queries: Sequence[str]) -> list[str]:
    """In the bundle's order, each once."""
    there = bundle.manifest.label_sets
    asked = [normal_id(name) for name in queries] or list(there)
    for name, given in zip(asked, queries, strict=False):
        if name not in there:
            raise UsageError(
                f"label set {given!r} is not in the bundle; it has {', '.join(there)}; "
                "`tier-export labels --queries` adds one"
            )
    return [name for name in there if name in asked]


def model_names(sets: Sequence[str]) -> dict[str, tuple[str, str]]:
    """set → its query model and its ensemble. A set's id is ASCII by the manifest's own check, so
    it can stand in a model's name as it is; UsageError where two models would have one name."""
    owners = {ENCODER: "the encoder"}
    names: dict[str, tuple[str, str]] = {}
    for set_id in sets:
        names[set_id] = (f"tier_query_{set_id}", f"tier_{set_id}")
        for name in names[set_id]:
            if name in owners:
                raise UsageError(
                    f"label set {set_id} and {owners[name]} would both be the model {name}; leave "
                    "one out with --queries, or write another name behind `set =` in its file"
                )
            owners[name] = f"label set {set_id}"
    return names


def _told(bundle: Bundle, precision: str) -> dict[str, str]:
    manifest = bundle.manifest
    return {
        "notice": NOTICE,
        "bundle": manifest.name,
        "bundle_sha256": manifest.bundle_sha256,
        "precision": precision,
        "geometry": json.dumps(manifest.geometry, sort_keys=True),
        "intensity": manifest.intensity,
        "views": ",".join(manifest.views),
    }


def _told_of(bundle: Bundle, set_id: str, ids: Sequence[str]) -> dict[str, str]:
    entry = bundle.manifest.label_sets[set_id]
    pool = {"pool": json.dumps(entry["pool"], sort_keys=True)} if "pool" in entry else {}
    return {
        "set": set_id,
        "set_sha256": str(entry["sha256"]),
        "text_sha256": bundle.manifest.text_sha256,
        "labels": ",".join(ids),
        **pool,
    }


def _label_file(set_id: str, ids: Sequence[str]) -> bytes:
    """One id a line, in the order of the columns."""
    for label in ids:
        if not ID.fullmatch(label):  # a line break would move every name after it by one
            raise IntegrityError(
                f"label set {set_id} has a label called {label!r}, which is no id; make it again "
                "with `tier-export labels`"
            )
    return "".join(f"{label}\n" for label in ids).encode()


def _model(name: str, config: Mapping[str, Any], files: Files) -> Files:
    every = {CONFIG: text_of(config).encode("ascii")} | files
    return {f"{name}/{path}": data for path, data in every.items()}
