"""A bundle measured anew, on this machine: is it what its certificate says?

Without checkpoints the golden vectors hold the fp32 encoder, which PyTorch made, the fp32 encoder
holds its twins, and the bundle's text towers hold its label sets; no torch is needed. With the
bundle's own checkpoints PyTorch holds everything, label sets that were added later too. What is not
held is said. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tier_export.certificate import Prover, cpu
from tier_export.cohort_crops import crops_from
from tier_export.crops import phantom_crops
from tier_export.heads import GraphScore
from tier_export.parity import Crops, Encode, Outputs, breaches, onnx_encoder
from tier_export.verify_areas import Areas, areas
from tier_export.verify_certificate import (
    check_crops,
    check_facts,
    differences,
    read_certificate,
    same_machine,
)
from tier_export.verify_sets import label_set, prove_sets, prove_towers
from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError, ParityError, UsageError
from tier_infer.golden import Golden, Replay, read_golden, replay
from tier_infer.label_sets import LabelSet
from tier_infer.scoring import presets_of

if TYPE_CHECKING:
    from tier_export.members import Members

Encodes = dict[str, dict[str, Encode]]  # precision → machine → what computes it there


@dataclass(frozen=True)
class Verified:
    """What was found; `broken` is empty for a bundle that keeps its promise on this machine."""

    prover: Prover
    golden: dict[str, Replay]  # precision → what its encoder made of the vectors
    broken: list[str]
    differences: list[str] | None  # to the certificate's figures; None: of other crops
    compared: int  # figures that the certificate has, too
    remarks: list[str]
    areas: Areas  # of the dataset's labels; empty for phantoms


def verify(
    bundle: Bundle, against: Sequence[Path], dataset: str | None, split: str | None = None
) -> Verified:
    """`dataset` and `split` as `cohort_crops.crops_from` takes them. Raises IntegrityError for a
    certificate or checkpoints of another bundle."""
    certificate = read_certificate(bundle)
    sets = {set_id: label_set(bundle, set_id) for set_id in bundle.manifest.label_sets}
    crops, same, remarks = _crops(bundle, certificate, dataset, split)
    remarks += check_facts(bundle, certificate)
    vectors = read_golden(bundle)
    if vectors is None:
        raise UsageError("the bundle has no golden vectors; export it again with tier-export")
    golden = _golden(bundle, vectors)
    broken = [
        f"{p} (golden vectors): {words}" for p, row in golden.items() for words in row.breaches
    ]
    if against:
        members = _members(bundle, against)
        broken += prove_towers(bundle, members, sets)
        prover, encodes = _pytorch(bundle, sets, crops, members)
    else:
        wrong, unproven = prove_sets(bundle, sets, vectors)
        broken, remarks = broken + wrong, remarks + unproven
        prover, encodes = _fp32(bundle, sets, crops)
    scores = {"PyTorch" if against else "fp32": {s: o.scores for s, o in prover.exact.items()}}
    for precision, machines in encodes.items():
        for name, encode in machines.items():
            answers = prover.answers(encode)
            wrong, unproven = _measure(prover, precision, name, answers)
            if name == cpu() and precision in prover.proofs:
                scores[precision] = {set_id: found.scores for set_id, found in answers.items()}
            broken, remarks = broken + wrong, remarks + unproven
    later = [
        set_id for set_id, entry in bundle.manifest.label_sets.items()
        if certificate["label_sets"].get(set_id) != entry["sha256"]
    ]  # fmt: skip
    if later:
        remarks.append(f"not in the certificate, added or replaced later: {', '.join(later)}")
    found, compared = differences(certificate, prover, later) if same else (None, 0)
    if found and same_machine(certificate, prover.reference if against else None):
        broken += [f"{words}, measured on the same crops by the same versions" for words in found]
    figures = {p: prover.proofs[p][cpu()] for p in scores if p in prover.proofs}
    table = areas(prover.labels, scores, figures, crops) if dataset else {}
    return Verified(prover, golden, broken, found, compared, remarks, table)


def _crops(
    bundle: Bundle, certificate: Mapping[str, Any], dataset: str | None, split: str | None
) -> tuple[Crops, bool, list[str]]:
    """What to measure on, whether the certificate was measured on the same, and what to say."""
    presets = presets_of(bundle)
    said: list[str] = []
    if dataset:
        crops, said = crops_from(dataset, split, presets)
    else:
        crops = phantom_crops(presets.geometry, presets.intensity)
    certified = certificate["crops"]
    if check_crops(certificate, crops):
        return crops, True, said
    if dataset:
        words = f"the certificate was measured on other crops, {certified['source']}"
    elif certified["source"] == crops.source:
        words = "this version, or this machine, draws other phantoms than those of the certificate"
    else:
        words = f"the certificate was measured on {certified['source']}: name them with --dataset"
    return crops, False, [*said, words]


def _golden(bundle: Bundle, golden: Golden) -> dict[str, Replay]:
    """precision → what its encoder makes of the vectors."""
    engines = {p: Engine(bundle, "cpu", p, unproven=True) for p in encoders(bundle)}
    return {p: replay(bundle, engine, golden) for p, engine in engines.items()}


def encoders(bundle: Bundle) -> list[str]:
    """Precisions in the order of ENCODERS."""
    return [precision for precision, file in ENCODERS.items() if file in bundle.manifest.files]


def _fp32(bundle: Bundle, sets: Mapping[str, LabelSet], crops: Crops) -> tuple[Prover, Encodes]:
    """The fp32 encoder as reference, and its twins; all by onnxruntime."""
    queries = {set_id: bundle.query_graph(set_id) for set_id in sets}
    score = {set_id: GraphScore(graph) for set_id, graph in queries.items()}
    labels = {set_id: [label.id for label in s.labels] for set_id, s in sets.items()}
    exact = onnx_encoder(bundle.encoder("fp32"))
    prover = Prover(f"{cpu()} fp32", exact, score, queries, labels, crops)
    return prover, {p: {cpu(): onnx_encoder(bundle.encoder(p))} for p in encoders(bundle)[1:]}


def _members(bundle: Bundle, against: Sequence[Path]) -> Members:
    """IntegrityError for checkpoints of another bundle."""
    from tier_export.average import members_for
    from tier_train.checkpoint import load_checkpoint

    checkpoints = [load_checkpoint(path) for path in against]
    members = members_for(bundle.manifest.checkpoint, checkpoints, [str(path) for path in against])
    if members.text_sha256 != bundle.manifest.text_sha256:
        raise IntegrityError(
            "the checkpoints' text towers are not those of the bundle's label sets"
        )
    return members


def _pytorch(
    bundle: Bundle, sets: Mapping[str, LabelSet], crops: Crops, members: Members
) -> tuple[Prover, Encodes]:
    """PyTorch as reference, and every encoder."""
    from tier_export.export import HALF, half_encoder, prover_of

    tables = {set_id: members.table(labels) for set_id, labels in sets.items()}
    queries = {set_id: bundle.query_graph(set_id) for set_id in sets}
    prover = prover_of(members, list(sets.values()), tables, queries, crops)
    encodes = {p: {cpu(): onnx_encoder(bundle.encoder(p))} for p in encoders(bundle)}
    if "fp16" in encodes:
        encodes["fp16"][HALF] = half_encoder(members)
    return prover, encodes


def _measure(
    prover: Prover, precision: str, machine: str, answers: Mapping[str, Outputs]
) -> tuple[list[str], list[str]]:
    """Keeps the figures in the prover's proofs; what is broken, and what these crops can't prove,
    set by set."""
    try:
        found = prover.held(answers, f"{precision} ({machine})")
    except ParityError as error:
        return [str(error)], []
    prover.proofs.setdefault(precision, {})[machine] = found
    broken, unproven = [], []
    for set_id, row in found.items():
        where = f"{precision} ({machine}, set {set_id})"
        try:
            broken += [f"{where}: {words}" for words in breaches(precision, row)]
        except UsageError as error:  # no reason to keep back what else is broken
            unproven.append(f"{where} not proven on {row['crops']} images: {error}")
    return broken, unproven


def refuse_broken(found: Verified) -> None:
    """ParityError, exit 5, with the first of the broken gates."""
    if found.broken:
        more = f" (and {len(found.broken) - 1} more)" if len(found.broken) > 1 else ""
        raise ParityError(
            f"parity broken on this machine, {found.broken[0]}{more}; do not score with this "
            "encoder here, and export the bundle again"
        )
