"""What a run prints: a table for people, one JSON object or CSV rows for machines."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from tier_infer.bundle import NOTICE, Bundle
from tier_infer.engine import Engine
from tier_infer.guard import printable
from tier_infer.scoring import ImageResult, Selection, StudyResult

SCHEMA = "tier-infer/1"
CSV_COLUMNS = ("study", "path", "view", "status", "reason", "label", "score")


def exit_code(studies: list[StudyResult]) -> int:
    """0 scored, nothing failed · 3 nothing scored · 8 scored and failed side by side."""
    statuses = [image.status for study in studies for image in study.images]
    if "scored" not in statuses:
        return 3
    return 8 if "failed" in statuses else 0


def to_json(studies: list[StudyResult], bundle: Bundle, engine: Engine) -> str:
    table = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "bundle": {"name": bundle.manifest.name, "sha256": bundle.manifest.bundle_sha256},
        "device": engine.device,
        "precision": engine.precision,
        "studies": [
            {"id": s.id, "scores": s.scores, "images": [_image(i) for i in s.images]}
            for s in studies
        ],
    }
    return json.dumps(table, indent=1, allow_nan=False)


def _image(image: ImageResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": image.path,
        "status": image.status,
        "reason": image.reason,
        "message": image.message,
        "flags": image.flags,
        "view": image.view,
        "scores": image.scores,
    }
    if image.heat is not None:
        row["heatmaps"] = {
            name: [[float(z) for z in line] for line in cells]
            for name, cells in zip(image.scores, image.heat, strict=True)
        }
    return row


def to_csv(studies: list[StudyResult]) -> str:
    """One row per image and label; a refused image has one row with an empty label and score."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for study in studies:
        for image in study.images:
            head = (study.id, image.path, image.view, image.status, image.reason or "")
            for name, score in image.scores.items():
                writer.writerow((*head, name, repr(score)))
            if not image.scores:
                writer.writerow((*head, "", ""))
    return buffer.getvalue()


def to_table(
    studies: list[StudyResult], bundle: Bundle, engine: Engine, selection: Selection
) -> str:
    """Study scores, what was counted, and every image that was refused with its sentence."""
    lines = [f"{NOTICE}  Scores are zero-shot margins Z in [-2, 2], not probabilities."]
    width = max(len(name) for name in selection.names)
    for study in studies:
        scored = [i for i in study.images if i.status == "scored"]
        lines += ["", f"{study.id}: {len(scored)} of {len(study.images)} images scored"]
        lines += [f"  {name:<{width}}  {score:+.4f}" for name, score in study.scores.items()]
        for image in study.images:
            lines.append(f"  {printable(image.path)}  {_remark(image)}")
    identity = bundle.manifest.bundle_sha256[:12]
    lines += [
        "",
        f"bundle {bundle.manifest.name} {identity}, {engine.device} {engine.precision}",
    ]
    return "\n".join(lines)


def _remark(image: ImageResult) -> str:
    if image.status != "scored":
        return f"{image.status.replace('_', ' ')}: {image.message}"
    counted = " (not counted)" if image.view == "lateral" or "duplicate" in image.flags else ""
    flags = f" [{', '.join(image.flags)}]" if image.flags else ""
    return f"{image.view}{counted}{flags}"
