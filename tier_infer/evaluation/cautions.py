"""What a reader must know of the training behind the figures, said before they are computed."""

from __future__ import annotations

from typing import Any

from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.scores import Scorer
from tier_infer.files import sha256_of

TRAINING = ("", "train")  # splits that hold training images: all of the table, and its own


def cautions(scorer: Scorer, cohort: Cohort, protocol: str = "per_image") -> list[str]:
    found = [_overlap(row, cohort) for row in scorer.identity.get("training", ())]
    laterals = sum(case.view == "lateral" for case in cohort.cases)
    # other protocols leave them out
    if protocol == "per_image" and laterals and "lateral" not in scorer.presets.views:
        found.append(f"trained on frontal images; {laterals} images of the dataset are lateral")
    return [text for text in dict.fromkeys(found) if text]


def _overlap(trained_on: dict[str, Any], cohort: Cohort) -> str:
    """Why figures may be of training images; "" where nothing says so. A bundle knows the name of
    its training data, a checkpoint also the digest of their table ("" unknown)."""
    table = cohort.root / cohort.name.rpartition("/")[2]  # of a manifest, the file itself
    digest = sha256_of(table) if cohort.kind == "manifest" and table.is_file() else ""
    same = bool(digest) and trained_on["sha256"] == digest
    if not same and trained_on["data"] != cohort.name:
        return ""
    said = f"a checkpoint was trained on {trained_on['data']}, the table that is evaluated here"
    if not cohort.split:
        return f"{said}: all of it, training images included"
    if cohort.split in TRAINING:
        return f"{said}: split {cohort.split}, its training images"
    return f"{said}: split {cohort.split}; none of its images should have been trained on"
