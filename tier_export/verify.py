"""A bundle measured anew, on this machine: is it what its certificate says?

Without checkpoints the golden vectors hold the fp32 encoder, which PyTorch made, and the fp32
encoder holds its twins; no torch is needed. With the bundle's own checkpoints PyTorch holds
everything, label sets that were added later too. Nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tier_export.certificate import (
    SCHEMA,
    Found,
    Prover,
    cpu,
    crops_identity,
    worst,
)
from tier_export.crops import manifest_crops, phantom_crops
from tier_export.parity import GATES, Crops, Encode, breaches, onnx_encoder, onnx_query
from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.engine import Engine, QueryTable
from tier_infer.errors import IntegrityError, ParityError, UsageError
from tier_infer.golden import Golden, Replay, read_golden, replay
from tier_infer.label_sets import Label, LabelSet

AGREE = {**GATES["fp32"], "max_dauc": GATES["fp16"]["max_dauc"]}  # as two machines may differ
Encodes = dict[str, dict[str, Encode]]  # precision → machine → what computes it there
SHARE = 0.25  # of a figure: where rounding to half or 8 bits falls the other way


@dataclass(frozen=True)
class Verified:
    """What was found; `broken` is empty for a bundle that keeps its promise on this machine."""

    prover: Prover
    golden: dict[str, Replay]  # precision → what its encoder made of the vectors
    broken: list[str]
    differences: list[str] | None  # to the certificate's figures; None: of other crops
    remarks: list[str]


def verify(bundle: Bundle, against: Sequence[Path], dataset: Path | None) -> Verified:
    """Raises IntegrityError for a certificate or checkpoints of another bundle."""
    certificate = read_certificate(bundle)
    sets = {set_id: label_set(bundle, set_id) for set_id in bundle.manifest.label_sets}
    crops, same, remarks = _crops(bundle, certificate, dataset)
    golden, broken = _golden(bundle, remarks)
    reference = _pytorch if against else _fp32
    prover, encodes = reference(bundle, sets, crops, against)
    for precision, machines in encodes.items():
        for name, encode in machines.items():
            broken += _measure(prover, precision, name, encode)
    later = [
        set_id for set_id, entry in bundle.manifest.label_sets.items()
        if certificate["label_sets"].get(set_id) != entry["sha256"]
    ]  # fmt: skip
    if later:
        remarks.append(f"not in the certificate, added or replaced later: {', '.join(later)}")
    differences = _differences(certificate, prover, later) if same else None
    return Verified(prover, golden, broken, differences, remarks)


def read_certificate(bundle: Bundle) -> dict[str, Any]:
    """parity.json, and nothing in it contradicts manifest.json; IntegrityError."""
    manifest = bundle.manifest
    try:
        table = json.loads(bundle.certificate())
        if table["schema"] != SCHEMA:
            raise ValueError
        encoders = {ENCODERS[p]: row["sha256"] for p, row in table["precisions"].items()}
        crops = {key: table["crops"][key] for key in ("source", "sha256")}
        stated = {p: worst(row["proofs"]) for p, row in table["precisions"].items()}
        pairs = (
            ("bundle_sha256", table["bundle_sha256"], manifest.bundle_sha256),
            ("the encoders", encoders, {f: row["sha256"] for f, row in manifest.files.items()}),
            ("checkpoints", table["checkpoints"], [row["sha256"] for row in manifest.checkpoint]),
            ("the text towers", table["text_sha256"], manifest.text_sha256),
            ("the summary", {"crops": crops} | stated, manifest.parity),
        )
        dict(table["label_sets"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise IntegrityError(f"parity.json is not a table of {SCHEMA}; export again") from None
    for what, certified, found in pairs:
        if certified != found:
            raise IntegrityError(
                f"parity.json is not this bundle's certificate: {what} differ from manifest.json; "
                "export the bundle again"
            )
    return dict(table)


def label_set(bundle: Bundle, set_id: str) -> LabelSet:
    """The set as its graph carries it; IntegrityError where the manifest says otherwise."""
    query = QueryTable(bundle, set_id)
    if query.ids != bundle.manifest.label_sets[set_id]["labels"]:
        raise IntegrityError(f"label set {set_id} has other labels than manifest.json says")
    try:
        labels = tuple(
            Label(str(row["id"]), str(row["name"]), tuple(row["positive"]), tuple(row["negative"]))
            for row in query.labels
        )
    except (KeyError, TypeError):
        raise IntegrityError(f"label set {set_id} does not carry its sentences") from None
    return LabelSet(set_id, labels)


def _crops(
    bundle: Bundle, certificate: Mapping[str, Any], dataset: Path | None
) -> tuple[Crops, bool, list[str]]:
    """What to measure on, whether the certificate was measured on the same, and what to say."""
    presets = bundle.manifest.resolved_geometry(), bundle.manifest.intensity
    crops = manifest_crops(dataset, *presets) if dataset else phantom_crops(*presets)
    certified = certificate["crops"]
    if crops_identity(crops)["sha256"] == certified["sha256"]:
        return crops, True, []
    if dataset:
        words = f"the certificate was measured on other crops, {certified['source']}"
    elif certified["source"] == crops.source:
        words = "this version, or this machine, draws other phantoms than those of the certificate"
    else:
        words = f"the certificate was measured on {certified['source']}: name them with --dataset"
    return crops, False, [words]


def _golden(bundle: Bundle, remarks: list[str]) -> tuple[dict[str, Replay], list[str]]:
    """Every encoder that the vectors have gates for; precision → replay, and what is broken."""
    golden: Golden | None = read_golden(bundle)
    if golden is None:
        raise UsageError("the bundle has no golden vectors; export it again with tier-export")
    replays, broken = {}, []
    for precision in encoders(bundle):
        if precision not in golden.gates:
            remarks.append(f"the golden vectors have no gate for {precision}")
            continue
        found = replay(bundle, Engine(bundle, "cpu", precision), golden)
        replays[precision] = found
        broken += [f"{precision} (golden vectors): {words}" for words in found.breaches]
    return replays, broken


def encoders(bundle: Bundle) -> list[str]:
    """Precisions in the order of ENCODERS."""
    return [precision for precision, file in ENCODERS.items() if file in bundle.manifest.files]


def _fp32(
    bundle: Bundle, sets: Mapping[str, LabelSet], crops: Crops, _: Sequence[Path]
) -> tuple[Prover, Encodes]:
    """The fp32 encoder as reference, and its twins; all by onnxruntime."""
    queries = {set_id: bundle.query_graph(set_id) for set_id in sets}
    score = {set_id: onnx_query(graph) for set_id, graph in queries.items()}
    labels = {set_id: [label.id for label in s.labels] for set_id, s in sets.items()}
    exact = onnx_encoder(bundle.encoder("fp32"))
    prover = Prover(f"{cpu()} fp32", exact, score, queries, labels, crops)
    return prover, {p: {cpu(): onnx_encoder(bundle.encoder(p))} for p in encoders(bundle)[1:]}


def _pytorch(
    bundle: Bundle, sets: Mapping[str, LabelSet], crops: Crops, against: Sequence[Path]
) -> tuple[Prover, Encodes]:
    """PyTorch as reference, and every encoder; IntegrityError for checkpoints of another bundle."""
    from tier_export.average import members_for
    from tier_export.export import HALF, half_encoder, prover_of
    from tier_train.checkpoint import load_checkpoint

    checkpoints = [load_checkpoint(path) for path in against]
    members = members_for(bundle.manifest.checkpoint, checkpoints, [str(path) for path in against])
    if members.text_sha256 != bundle.manifest.text_sha256:
        raise IntegrityError(
            "the checkpoints' text towers are not those of the bundle's label sets"
        )
    tables = {set_id: members.table(labels) for set_id, labels in sets.items()}
    queries = {set_id: bundle.query_graph(set_id) for set_id in sets}
    prover = prover_of(members, list(sets.values()), tables, queries, crops)
    encodes = {p: {cpu(): onnx_encoder(bundle.encoder(p))} for p in encoders(bundle)}
    if "fp16" in encodes:
        encodes["fp16"][HALF] = half_encoder(members)
    return prover, encodes


def _measure(prover: Prover, precision: str, machine: str, encode: Encode) -> list[str]:
    """Keeps the figures in the prover's proofs; what is broken, set by set."""
    try:
        found = prover.measure(encode, f"{precision} ({machine})")
    except ParityError as error:
        return [str(error)]
    prover.proofs.setdefault(precision, {})[machine] = found
    return [
        f"{precision} ({machine}, set {set_id}): {words}"
        for set_id, row in found.items()
        for words in breaches(precision, row)
    ]


def _differences(certificate: Mapping[str, Any], prover: Prover, later: Sequence[str]) -> list[str]:
    """Figures that are not the certificate's, further than two machines may be apart."""
    found = []
    for precision, machines in prover.proofs.items():
        certified = certificate["precisions"][precision]["proofs"]
        for name, sets in machines.items():
            then: dict[str, Any] = next(
                (c for m, c in certified.items() if _engine(m) == _engine(name)), {}
            )
            for set_id in set(sets) & set(then) - set(later):
                here = f"{precision}, {name}, {set_id}"
                found += [f"{here}: {words}" for words in _apart(sets[set_id], then[set_id])]
    return sorted(found)


def _engine(machine: str) -> str:
    """Without its version: another onnxruntime is compared, too."""
    return "onnxruntime" if machine.startswith("onnxruntime ") else machine


def _apart(now: Found, then: Mapping[str, Any]) -> list[str]:
    rows = []
    for key, allowed in AGREE.items():
        a, b = now[key] or 0.0, then[key] or 0.0
        if not abs(a - b) <= max(allowed, SHARE * b):
            rows.append(f"{key} is {a:.2g}, the certificate says {b:.2g}")
    return rows


def refuse_broken(found: Verified) -> None:
    """ParityError, exit 5, with the first of the broken gates."""
    if found.broken:
        more = f" (and {len(found.broken) - 1} more)" if len(found.broken) > 1 else ""
        raise ParityError(
            f"parity broken on this machine, {found.broken[0]}{more}; do not score with this "
            "encoder here, and export the bundle again"
        )
