"""What a run prints: a table for people, one JSON object or CSV rows for machines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tier_infer.bundle import NOTICE, Bundle
from tier_infer.engine import Engine
from tier_infer.guard import printable
from tier_infer.pooling import Pool, described
from tier_infer.pooling import shown as pool_text
from tier_infer.scoring import ImageResult, Selection
from tier_infer.studies import OTHERS, StudyResult, is_counted
from tier_infer.tables import csv_text
from tier_infer.words import CAUTION, FLAG_WORDS

SCHEMA = "tier-infer/1"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
# Sentences of --query and of --against, as typed, and what to know of their score.
Asked = tuple[Sequence[str], Sequence[str], Sequence[str]]
NOTHING: Asked = ((), (), ())
IDS: Mapping[str, str] = {}
NO_POOLS: Mapping[str, Pool] = {}
CSV_COLUMNS = ("study", "path", "view", "status", "reason", "label", "score")


def exit_code(studies: list[StudyResult]) -> int:
    """0 scored, nothing failed · 1 a bug · 3 nothing scored · 8 scored and failed side by side."""
    if any(image.reason == "bug" for study in studies for image in study.images):
        return 1
    statuses = [image.status for study in studies for image in study.images]
    if "scored" not in statuses:
        return 3
    return 8 if "failed" in statuses else 0


def to_json(
    studies: list[StudyResult],
    bundle: Bundle,
    engine: Engine,
    with_uids: bool = False,
    with_heat: bool = False,
    asked: Asked = NOTHING,
    pools: Mapping[str, Pool] = NO_POOLS,
) -> str:
    """`pools`: of the sets that were asked, those that pool scores of patches."""
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "bundle": {"name": bundle.manifest.name, "sha256": bundle.manifest.bundle_sha256},
        "device": engine.device,
        "precision": engine.precision,
    }
    if engine.asked == "auto":
        table["device_choice"] = {"asked": engine.asked, "passed_over": dict(engine.passed_over)}
    if pools:
        table["pools"] = {set_id: described(pool) for set_id, pool in pools.items()}
    if asked[0]:
        keys = ("positive", "negative", "warnings")
        table["query"] = {key: list(part) for key, part in zip(keys, asked, strict=True)}
    table["studies"] = [_study(study, with_uids, with_heat) for study in studies]
    return json.dumps(table, indent=1, allow_nan=False)


def _study(study: StudyResult, with_uids: bool, with_heat: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": study.id}
    if with_uids:
        row["study_instance_uid"] = uid(study.images[0].study_key)
    images = [_image(image, with_uids, with_heat) for image in study.images]
    return row | {"scores": dict(study.scores.items()), "images": images}


def _image(image: ImageResult, with_uids: bool, with_heat: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": image.path,
        "status": image.status,
        "reason": image.reason,
        "message": image.message,
        "flags": image.flags,
        "view": image.view,
        "scores": dict(image.scores.items()),
        "counted": is_counted(image),
    }
    if with_uids:
        row["sop_instance_uid"] = uid(image.instance_key)
    if with_heat and image.heat is not None:
        row["heatmaps"] = {
            name: [[float(z) for z in line] for line in cells]
            for name, cells in zip(image.scores, image.heat, strict=True)
        }
    return row


def uid(value: str | None) -> str | None:
    """A UID (PS3.5 9.1), or nothing: somebody may have typed a name into its place."""
    return value if value and len(value) <= 64 and UID.fullmatch(value) else None


def to_csv(studies: list[StudyResult]) -> str:
    """One row per image and label; a refused image has one row with an empty label and score.

    `reason` says why an image has no score; where it has one, its flags, joined by spaces.
    """
    rows: list[tuple[str, ...]] = [CSV_COLUMNS]
    for study in studies:
        for image in study.images:
            reason = image.reason or " ".join(image.flags)
            head = (study.id, image.path, image.view, image.status, reason)
            rows += [(*head, name, repr(score)) for name, score in image.scores.items()]
            rows += [] if image.scores else [(*head, "", "")]
    return csv_text(rows)


def to_table(
    studies: list[StudyResult],
    bundle: Bundle,
    engine: Engine,
    selection: Selection,
    asked: Asked = NOTHING,
    shown: Mapping[str, str] = IDS,
) -> str:
    """Study scores, what was counted, every refused image with its sentence, flags explained.

    `shown`: what a label is called in the reader's language; where it is empty, by its id.
    """
    lines = [f"{NOTICE}  Scores are zero-shot margins Z in [-2, 2], not probabilities."]
    called = {name: printable(shown.get(name, name)) for name in selection.names}
    width = max(len(name) for name in called.values())
    for study in studies:
        scored = [i for i in study.images if i.status == "scored"]
        told = f"{len(scored)} of {len(study.images)} images scored"
        lines += ["", f"{study.id}: {told}" if study.id != OTHERS else "files of no study:"]
        lines += [f"  {called[n]:<{width}}  {score:+.4f}" for n, score in study.scores.items()]
        for image in study.images:
            lines.append(f"  {printable(image.path)}  {_remark(image)}")
            if scored and not study.scores and image.status == "scored":
                each = ", ".join(f"{called[n]} {z:+.4f}" for n, z in image.scores.items())
                lines.append(f"    not counted for the study: {each}")
    every = [i for study in studies for i in study.images if i.status == "scored"]
    lines += _explained({flag for image in every for flag in image.flags})
    identity = bundle.manifest.bundle_sha256[:12]
    query, against = (" ".join(f'"{printable(text)}"' for text in texts) for texts in asked[:2])
    lines += ["", f"query: {query}" + (f" against {against}" if against else "")] if query else []
    for set_id, pool in selection.pools.items():
        lines += ["", f"set {set_id}: scores of patches, pooled by {pool_text(pool)}"]
    lines += [
        "",
        f"bundle {identity} ({bundle.manifest.name}), {engine.device} {engine.precision}",
    ]
    return "\n".join(lines)


def _explained(flags: set[str]) -> list[str]:
    """One line per flag that occurs, those that may void a score first and marked."""
    order = sorted(flags, key=lambda flag: (flag not in CAUTION, flag))
    lines = [f"  {'!' if f in CAUTION else ' '} {f}: {FLAG_WORDS.get(f, '')}" for f in order]
    caution = ["flags (! may void the score):"] if CAUTION & flags else ["flags:"]
    return ["", *caution, *lines] if lines else []


def _remark(image: ImageResult) -> str:
    if image.status != "scored":
        return f"{image.status.replace('_', ' ')}: {image.message}"
    counted = "" if is_counted(image) else " (not counted)"
    flags = f" [{', '.join(image.flags)}]" if image.flags else ""
    return f"{image.view}{counted}{flags}"
