"""parity.json held against the bundle: what it says of files, crops and gates is recomputed, and
its figures are compared with those of today. Needs no torch; facts about files need onnx.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tier_export.certificate import (
    JUDGED,
    SCHEMA,
    Found,
    Prover,
    crops_identity,
    machine,
    text_hashes,
    worst,
)
from tier_export.parity import Crops
from tier_infer.bundle import ENCODERS, Bundle, sha256
from tier_infer.errors import IntegrityError

AGREE = {"max_dz": 1e-5, "max_dcell": 1e-4, "flips": 1, "max_dauc": 5e-4}  # of two machines
SHARE = 0.25  # of a figure: where rounding to half or 8 bits falls the other way
TYPES = {
    "versions": dict, "machine": dict, "reference": str, "checkpoints": list, "label_sets": dict,
    "crops": dict, "precisions": dict, "text": dict, "compared": list,
}  # fmt: skip


def read_certificate(bundle: Bundle) -> dict[str, Any]:
    """parity.json, and nothing in it contradicts manifest.json; IntegrityError."""
    manifest = bundle.manifest
    try:
        table = _typed(bundle.certificate())
        encoders = {ENCODERS[p]: row["sha256"] for p, row in table["precisions"].items()}
        crops = {key: table["crops"][key] for key in ("source", "sha256")}
        stated = {p: worst(row["proofs"]) for p, row in table["precisions"].items()}
        judged = {key: table[key] for key in JUDGED}
        towers = text_hashes(manifest).get("files")
        pairs = (
            ("bundle_sha256", table["bundle_sha256"], manifest.bundle_sha256),
            ("the encoders", encoders, {f: row["sha256"] for f, row in manifest.files.items()}),
            ("checkpoints", table["checkpoints"], [row["sha256"] for row in manifest.checkpoint]),
            ("the text towers", table["text_sha256"], manifest.text_sha256),
            ("the text towers' files", table["text"].get("files"), towers),
            ("the summary", {"crops": crops} | stated, manifest.parity),
        )
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        raise IntegrityError(f"parity.json is not a table of {SCHEMA}; export again") from None
    for what, certified, found in pairs:
        if certified != found:
            raise IntegrityError(
                f"parity.json is not this bundle's certificate: {what} differ from manifest.json; "
                "export the bundle again"
            )
    if judged != JUDGED:
        raise IntegrityError(
            "parity.json was judged by other gates than this version has; export the bundle again"
        )
    return table


def _typed(data: bytes) -> dict[str, Any]:
    """TypeError, KeyError, OverflowError or ValueError for anything but tier-parity/1."""
    table: dict[str, Any] = json.loads(data)
    if table["schema"] != SCHEMA:
        raise ValueError
    texts = [table["bundle_sha256"], table["text_sha256"], *table["label_sets"].values()]
    crops = table["crops"]
    texts += [crops["source"], crops["sha256"], *crops["each"]]
    for row in table["precisions"].values():
        dict(row["facts"])
        texts.append(row["sha256"])
        for sets in row["proofs"].values():
            for found in sets.values():
                for key in AGREE:
                    if not (key == "max_dauc" and found[key] is None):
                        _check_number(found[key])
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong or not all(isinstance(table[key], kind) for key, kind in TYPES.items()):
        raise TypeError
    return table


def _check_number(value: object) -> None:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise TypeError


def check_crops(certificate: Mapping[str, Any], crops: Crops) -> bool:
    """Whether the certificate was measured on these; IntegrityError where it then says otherwise of
    a single one."""
    certified = certificate["crops"]
    if crops_identity(crops)["sha256"] != certified["sha256"]:
        return False
    if certified["each"] != [sha256(crop.tobytes()) for crop in crops.pixels]:
        raise IntegrityError(
            "parity.json lists other crops than those it names; export the bundle again"
        )
    return True


def check_facts(bundle: Bundle, certificate: Mapping[str, Any]) -> list[str]:
    """Remarks on what was not measured again; IntegrityError for facts that a file contradicts."""
    remarks = []
    if certificate["compared"]:
        remarks.append("the comparison of members, ensemble and average is not measured again")
    twins = [p for p in certificate["precisions"] if p != "fp32"]
    try:
        from tier_export.verify_facts import facts_of

        found = {precision: facts_of(bundle, precision) for precision in twins}
    except ModuleNotFoundError as error:  # at the edge
        return [*remarks, f"facts about the encoders not measured: no {error.name} is installed"]
    for precision, facts in found.items():
        said = certificate["precisions"][precision]["facts"]
        for key, value in facts.items():
            if said.get(key) != value:
                raise IntegrityError(
                    f"parity.json says {said.get(key)} for {key} of the {precision} encoder, its "
                    f"file has {value}; export the bundle again"
                )
    return remarks


def differences(
    certificate: Mapping[str, Any], prover: Prover, later: Sequence[str]
) -> tuple[list[str], int]:
    """Figures that are not the certificate's, further than two machines may be apart; and how many
    were compared."""
    found, count = [], 0
    for precision, machines in prover.proofs.items():
        certified = certificate["precisions"][precision]["proofs"]
        for name, sets in machines.items():
            then: dict[str, Any] = next(
                (c for m, c in certified.items() if _engine(m) == _engine(name)), {}
            )
            for set_id in set(sets) & set(then) - set(later):
                here = f"{precision}, {name}, {set_id}"
                found += [f"{here}: {words}" for words in _apart(sets[set_id], then[set_id])]
                count += sum(sets[set_id][key] is not None for key in AGREE)
    return sorted(found), count


def same_machine(certificate: Mapping[str, Any], reference: str | None) -> bool:
    """Whether other figures on the same crops are a contradiction: one onnxruntime, one kind of
    processor, and of PyTorch, where it is the reference, one version."""
    import onnxruntime

    return (
        certificate["versions"].get("onnxruntime") == onnxruntime.__version__
        and certificate["machine"] == machine()
        and reference in (None, certificate["reference"])
    )


def _engine(name: str) -> str:
    """Without its version: another onnxruntime is compared, too."""
    return "onnxruntime" if name.startswith("onnxruntime ") else name


def _apart(now: Found, then: Mapping[str, Any]) -> list[str]:
    rows = []
    for key, allowed in AGREE.items():
        a, b = now[key], then[key]
        if a is None or b is None:
            if a is not b:
                rows.append(f"{key} is {_said(a)}, the certificate says {_said(b)}")
        elif not abs(a - b) <= max(allowed, SHARE * b):
            rows.append(f"{key} is {_said(a)}, the certificate says {_said(b)}")
    return rows


def _said(figure: float | None) -> str:
    return "not gated" if figure is None else f"{figure:.2g}"
