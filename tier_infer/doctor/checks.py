"""tier-infer doctor: everything a score rests on, tried out rather than looked up, one line each.

Lines go from cause to consequence. The exit code is that of the first line that failed: 2 something
is missing or installed wrongly, 3 the decode child does not do its work, 4 the bundle is not what
was exported, 5 this machine computes other numbers than the export did, 6 the device that was asked
for is not there; 1, a bug of ours, only when nothing else failed. Warnings do not change it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tier_infer.doctor import decode_checks, engines, installation
from tier_infer.doctor.installation import Check, guarded
from tier_infer.doctor.patient import Patient
from tier_infer.guard import printable

SCHEMA = "tier-infer-doctor/1"


def run_doctor(bundle_dir: Path, device: str = "auto", precision: str = "auto") -> list[Check]:
    """Every check, whatever the others found; none raises."""
    patient = Patient(bundle_dir, device, precision)
    found: list[Check] = []
    for name, check in (
        ("packages", installation.packages),
        ("imagecodecs", installation.jpeg_lossless),
        ("onnxruntime", installation.runtime),
        ("processor", installation.processor),
        ("memory", installation.memory),
        ("disk", installation.disk),
        ("decoders", decode_checks.decoders),
        ("decode child", decode_checks.decode_child),
        ("tensorrt", engines.libraries),
        ("cache", patient.cache_state),
        ("bundle", patient.bundle_integrity),
        ("engines", patient.engines),
        ("device", patient.device_used),
        ("gpu", patient.gpu),
        ("golden vectors", patient.golden_vectors),
    ):
        found += guarded(name, check)
    return found


def exit_code(found: Iterable[Check]) -> int:
    codes = [check.code for check in found if check.status == "fail"]
    return next((code for code in codes if code != 1), 1 if codes else 0)


def to_lines(found: Iterable[Check]) -> str:
    """One line each: status, name, sentence."""
    return "\n".join(
        f"{check.status:<4}  {check.name:<22}  {printable(check.sentence)}" for check in found
    )


def to_json(found: list[Check]) -> str:
    rows = [{k: v for k, v in asdict(check).items() if k != "code"} for check in found]
    report = {"schema": SCHEMA, "exit_code": exit_code(found), "checks": rows}
    return json.dumps(report, indent=1, allow_nan=False)
