"""The certificate: what each graph of a bundle gave against PyTorch, on which crops and machine.

`parity.json`, schema tier-parity/1, holds (files and crops by SHA-256, no path, no user, no host):

    versions      of tier-cxr, torch, onnx, onnxruntime, numpy, python
    machine       system, architecture, and the instruction sets that change how sums are rounded
    reference     what everything was held against
    checkpoints, bundle_sha256, text_sha256, label_sets {set: of its query graph}
    crops         source, count, sha256 of all pixels, `each` of one crop
    gates         precision → figure → largest allowed; `norm`, `ranking`, `few_crops` and `auc`:
                  the other limits, and where they apply
    precisions    precision → file, sha256, bytes, facts, proofs {machine: {set: figures}}
    text          what the exported text towers gave, where there are some; `files` by SHA-256
    compared      ensembles: a row per member, for the ensemble and for the average

Facts say what a file is made of (`fp16.half_facts`, `int8.fit_int8`). Figures, absolute:

    max_, p99_ of dembedding, dpatch (the two outputs), dz (scores), dcell (heatmap cells)
    max_dnorm     of the length of any embedding from 1
    min_cell_rank least Spearman ρ of a label's heatmap cells (its own: cell_rank)
    flips         decisions that changed, over all labels
    max_dauc      largest |ΔAUC| of a gated label; null where none is
    min_rank      least Spearman ρ of a label; null on few crops
    labels        label → max_dz, p99_dz, max_dcell, threshold and flips of its decisions,
                  spread of its Z, pairs (positives × negatives), auc [reference, graph] and
                  dauc where pairs suffice to gate, else null; rank (Spearman's ρ)
"""

from __future__ import annotations

import hashlib
import json
import platform
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

from tier_export.heads import GraphScore, Score
from tier_export.parity import (
    GATES,
    MAX_DNORM,
    MAX_SHARE,
    MIN_CELL_RANK,
    MIN_PAIRS,
    MIN_RANK,
    MIN_RANKED,
    Crops,
    Encode,
    Outputs,
    check,
    compare,
    scored,
)
from tier_infer.bundle import ENCODERS, Manifest, canonical, sha256
from tier_infer.doctor.machine import cpu_flags
from tier_infer.errors import ParityError

SCHEMA = "tier-parity/1"
WORST = ("max_dz", "max_dcell", "flips")
JUDGED: dict[str, Any] = {  # what proofs were judged by
    "gates": GATES,
    "norm": {"max_dnorm": MAX_DNORM},
    "ranking": {"min_rank": MIN_RANK, "min_crops": MIN_RANKED, "min_cell_rank": MIN_CELL_RANK},
    "few_crops": {"max_share": MAX_SHARE},
    "auc": {"min_pairs": MIN_PAIRS},
}
WIDTH = 100
COLUMNS = ("max |dZ|", "p99 |dZ|", "cells", "|dAUC|", "rank", "flips")
Found = dict[str, Any]
Proofs = dict[str, dict[str, dict[str, Found]]]  # precision → machine → set


class Prover:
    """A reference's answers on some crops; every encoder is held against them.

    `encode` and `score` are the reference; `queries` the exported query graphs; `labels` the ids of
    each set, in the order of its columns; `thresholds` of decisions, by set and label.
    """

    def __init__(
        self,
        reference: str,
        encode: Encode,
        score: Mapping[str, Score],
        queries: Mapping[str, bytes],
        labels: Mapping[str, Sequence[str]],
        crops: Crops,
        thresholds: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.reference, self.crops, self.labels = reference, crops, labels
        self.thresholds = thresholds or {}
        self.proofs: Proofs = {}
        self.facts: dict[str, dict[str, Any]] = {}  # precision → what the file is made of
        self.compared: list[dict[str, Any]] = []  # members, ensemble and average, side by side
        self._encode, self._exact_score = encode, score
        self._score = {set_id: GraphScore(graph) for set_id, graph in queries.items()}

    @cached_property
    def exact(self) -> dict[str, Outputs]:
        """set → what the reference gives."""
        encoded = self._encode(self.crops.pixels)
        return {set_id: scored(*encoded, self._exact_score[set_id]) for set_id in self._score}

    def answers(self, encode: Encode) -> dict[str, Outputs]:
        """set → what an encoder and the exported query graphs give."""
        encoded = encode(self.crops.pixels)
        return {set_id: scored(*encoded, score) for set_id, score in self._score.items()}

    def held(self, answers: Mapping[str, Outputs], where: str) -> dict[str, Found]:
        """set → differences; nothing is judged. ParityError for outputs that can't be compared,
        which says `where`."""
        try:
            return {
                set_id: compare(exact, answers[set_id], self.labels[set_id],
                                self.crops, self.thresholds.get(set_id))
                for set_id, exact in self.exact.items()
            }  # fmt: skip
        except ParityError as error:
            raise ParityError(f"{where}: {error}") from None

    def prove(self, precision: str, machine: str, encode: Encode) -> None:
        """Raises ParityError where a gate of the precision is broken; keeps what it found."""
        found = self.held(self.answers(encode), f"parity broken, {precision} ({machine})")
        for set_id, row in found.items():
            check(precision, f"{machine}, set {set_id}, {self.crops.source}", row)
        self.proofs.setdefault(precision, {})[machine] = found


def cpu() -> str:
    """What the proofs of graphs are listed under."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__} cpu"


def summary(prover: Prover) -> dict[str, Any]:
    """For the manifest: precision → the worst of all proofs."""
    return {"crops": crops_identity(prover.crops)} | {
        precision: worst(machines) for precision, machines in prover.proofs.items()
    }


def worst(machines: Mapping[str, Mapping[str, Found]]) -> dict[str, float | None]:
    """Of all proofs of one precision."""
    rows = [row for sets in machines.values() for row in sets.values()]
    areas = [row["max_dauc"] for row in rows if row["max_dauc"] is not None]
    return {key: max(row[key] for row in rows) for key in WORST} | {
        "max_dauc": max(areas) if areas else None
    }


def crops_identity(crops: Crops) -> dict[str, str]:
    return {"source": crops.source, "sha256": hashlib.sha256(crops.pixels.tobytes()).hexdigest()}


def certificate_file(prover: Prover, files: Mapping[str, bytes], manifest: Manifest) -> bytes:
    """parity.json: canonical, so that equal proofs are equal bytes.

    `files` are the encoders as they are written; `manifest` may lack its certificate.
    """
    crops = prover.crops.pixels
    table = {
        "schema": SCHEMA,
        "versions": versions(),
        "machine": machine(),
        "reference": prover.reference,
        "checkpoints": [row["sha256"] for row in manifest.checkpoint],
        "bundle_sha256": manifest.bundle_sha256,
        "text_sha256": manifest.text_sha256,
        "label_sets": {set_id: row["sha256"] for set_id, row in manifest.label_sets.items()},
        "crops": crops_identity(prover.crops)
        | {"count": len(crops), "each": [sha256(crop.tobytes()) for crop in crops]},
        **JUDGED,
        "precisions": {
            precision: {
                "file": ENCODERS[precision],
                "sha256": sha256(files[ENCODERS[precision]]),
                "bytes": len(files[ENCODERS[precision]]),
                "facts": prover.facts.get(precision, {}),
                "proofs": machines,
            }
            for precision, machines in prover.proofs.items()
        },
        "text": prover.facts.get("text", {}) | text_hashes(manifest),
        "compared": prover.compared,
    }
    return canonical(json.loads(json.dumps(table))).encode()


def text_hashes(manifest: Manifest) -> dict[str, dict[str, str]]:
    """`files`: path → SHA-256; empty without towers."""
    hashes = {path: str(row["sha256"]) for path, row in manifest.text_files.items()}
    return {"files": hashes} if hashes else {}


def versions() -> dict[str, str]:
    """Of what computes the figures; onnxruntime's distribution may have another name (-gpu)."""
    import onnxruntime

    names = ("tier-cxr", "torch", "onnx", "numpy")
    return {name: metadata.version(name) for name in names} | {
        "onnxruntime": str(onnxruntime.__version__),
        "python": platform.python_version(),
    }


def machine() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "instruction_sets": cpu_flags(),
    }


def table(prover: Prover) -> str:
    """One line per precision, machine and set, for the screen; then what the files are made of."""
    lines = [_line(f"against {prover.reference}", COLUMNS)]
    for set_id, labels in prover.labels.items():
        if len(prover.labels) > 1:
            lines.append(f"set {set_id}")
        for precision, machines in prover.proofs.items():
            lines += [
                _line(f"{precision}, {name}", _cells(sets[set_id], len(labels)))
                for name, sets in machines.items()
            ]
    for precision, facts in prover.facts.items():
        if "summary" in facts:
            words = f"{precision}: {facts['summary']}"
            lines.append(textwrap.fill(words, WIDTH, subsequent_indent="  "))
    return "\n".join([*lines, *_compared(prover.compared)])


def _line(name: str, cells: Sequence[str]) -> str:
    widths = (9, 9, 9, 16, 8, 6)
    return f"{name:<38}" + " ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))


def _cells(found: Found, labels: int) -> tuple[str, ...]:
    gated = sum(row["auc"] is not None for row in found["labels"].values())
    pairs = max(row["pairs"] for row in found["labels"].values())
    dauc = f"not gated ({pairs})"
    if gated:
        dauc = f"{found['max_dauc']:.1e}" + (f" ({gated}/{labels})" if gated < labels else "")
    rank = "-" if found["min_rank"] is None else f"{found['min_rank']:.5f}"
    errors = (f"{found[key]:.1e}" for key in ("max_dz", "p99_dz", "max_dcell"))
    return (*errors, dauc, rank, str(found["flips"]))


def _compared(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Members, their ensemble and their average: what each is worth and costs."""
    for row in rows:
        name = row["what"] if len(row["checkpoints"]) > 1 else f"member {row['checkpoints'][0]:.12}"
        auc = "AUC not measured"
        if row["auc"]:
            auc = f"mean AUC {row['mean_auc']:.3f} ({len(row['auc'])} labels)"
        rank = min(row["rank"].values())
        cost = row["bytes"] / rows[0]["bytes"]
        yield f"{name:<22} {auc:<27} rank with the ensemble {rank:6.3f}  weights {cost:.1f} x"
