"""The certificate: what each graph of a bundle gave against PyTorch, and on which machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tier_export.parity import Crops, Encode, Score, check, compare, onnx_query, scored
from tier_infer.bundle import canonical, sha256

SCHEMA = "tier-parity/1"
Found = dict[str, Any]


class Prover:
    """PyTorch's answers on some crops; every exported encoder is held against them.

    `encode` and `score` are the reference; `queries` the exported query graphs; `labels` the ids of
    each set, in the order of its columns.
    """

    def __init__(
        self,
        reference: str,
        encode: Encode,
        score: Mapping[str, Score],
        queries: Mapping[str, bytes],
        labels: Mapping[str, Sequence[str]],
        crops: Crops,
    ) -> None:
        self.reference, self.crops, self.labels = reference, crops, labels
        self.proofs: dict[str, dict[str, dict[str, Found]]] = {}  # precision → machine → set
        self.facts: dict[str, dict[str, Any]] = {}  # precision → what the file is made of
        exact = encode(crops.pixels)
        self._exact = {set_id: scored(*exact, score[set_id]) for set_id in queries}
        self._score = {set_id: onnx_query(graph) for set_id, graph in queries.items()}

    def measure(self, encode: Encode) -> dict[str, Found]:
        """set → differences; nothing is judged."""
        encoded = encode(self.crops.pixels)
        return {
            set_id: compare(exact, scored(*encoded, self._score[set_id]), self.labels[set_id],
                            self.crops)
            for set_id, exact in self._exact.items()
        }  # fmt: skip

    def prove(self, precision: str, machine: str, encode: Encode) -> None:
        """Raises ParityError where a gate of the precision is broken; keeps what it found."""
        found = self.measure(encode)
        for set_id, row in found.items():
            check(precision, f"{machine}, {set_id}", row)
        self.proofs.setdefault(precision, {})[machine] = found


def summary(prover: Prover) -> dict[str, Any]:
    """For the manifest: precision → the worst of all proofs."""
    report: dict[str, Any] = {"crops": crops_identity(prover.crops)}
    for precision, machines in prover.proofs.items():
        rows = [row for sets in machines.values() for row in sets.values()]
        areas = [row["max_dauc"] for row in rows if row["max_dauc"] is not None]
        worst = {key: max(row[key] for row in rows) for key in ("max_dz", "max_dcell", "flips")}
        report[precision] = worst | {"max_dauc": max(areas) if areas else None}
    return report


def crops_identity(crops: Crops) -> dict[str, str]:
    return {"source": crops.source, "sha256": hashlib.sha256(crops.pixels.tobytes()).hexdigest()}


def certificate_file(prover: Prover, files: Mapping[str, bytes]) -> bytes:
    """parity.json: canonical, so that equal proofs are equal bytes."""
    table = {
        "schema": SCHEMA,
        "reference": prover.reference,
        "crops": crops_identity(prover.crops)
        | {"each": [sha256(crop.tobytes()) for crop in prover.crops.pixels]},
        "files": {name: sha256(data) for name, data in files.items()},
        "facts": prover.facts,
        "proofs": prover.proofs,
    }
    return canonical(json.loads(json.dumps(table))).encode()


def table(prover: Prover) -> str:
    """One line per precision, machine and set, for the screen."""
    columns = f"{'max |dZ|':>9} {'cells':>9} {'|dAUC|':>9} {'flips':>6}"
    lines = [f"{'against ' + prover.reference:<44} {columns}"]
    for precision, machines in prover.proofs.items():
        for machine, sets in machines.items():
            for set_id, found in sets.items():
                name = f"{precision}, {machine}" + (f", {set_id}" if len(sets) > 1 else "")
                dauc = "not gated" if found["max_dauc"] is None else f"{found['max_dauc']:.1e}"
                lines.append(
                    f"{name:<44} {found['max_dz']:9.1e} {found['max_dcell']:9.1e} "
                    f"{dauc:>9} {found['flips']:6d}"
                )
    return "\n".join(lines)
