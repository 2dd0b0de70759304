"""Crops of a cohort of the evaluation, through the same reader and rules as scoring."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from tier_export.crops import MAX_CROPS, evenly
from tier_export.parity import Crops
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import NO_PATIENTS, Cohort
from tier_infer.reader import Reader
from tier_infer.scoring import Presets, crops_of


def crops_from(
    source: str, split: str | None, presets: Presets, limit: int = MAX_CROPS
) -> tuple[Crops, list[str]]:
    """`source` is a dataset as the evaluation names it, KIND:PATH; FILE.csv is manifest:FILE.csv.
    The second part says which images were not used, and why.

    Of a manifest without `split` the rows that the export takes (see `crops.manifest_crops`).
    UsageError where nothing is left, and for another word.
    """
    from tier_infer.evaluation.datasets import held_out

    if Path(source).is_file():
        source = f"manifest:{source}"
    elif ":" not in source:
        raise UsageError(
            f"--dataset {source} does not exist; name a manifest, FILE.csv, or a dataset, KIND:PATH"
        )
    return cohort_crops(held_out(source, split), presets, limit)


def cohort_crops(cohort: Cohort, presets: Presets, limit: int) -> tuple[Crops, list[str]]:
    """At most `limit` images, evenly taken of those whose view the network was trained on."""
    named = set(cohort.groups.get("intensity", ())) - {"", presets.intensity}
    if named:
        raise UsageError(f"{cohort.name} names intensity {min(named)}, the bundle "
                         f"{presets.intensity}")  # fmt: skip
    left_out = Counter(cohort.left_out)
    sideways = [c.view == "lateral" and "lateral" not in presets.views for c in cohort.cases]
    left_out["laterals, which the network was not trained on"] += sum(sideways)
    kept = evenly(np.flatnonzero(~np.array(sideways, bool)).tolist(), limit)
    places = [str(cohort.root / cohort.cases[i].place) for i in kept]
    crops, rows = [], []
    with Reader() as reader:
        found = (pair for block in crops_of(places, presets, reader) for pair in block)
        for row, (result, crop) in zip(kept, found, strict=True):
            if crop is None:
                left_out[f"{result.status}: {result.reason}"] += 1
            else:
                crops.append(crop)
                rows.append(row)
    notes = [f"left out: {count} {why}" for why, count in left_out.items() if count]
    if not crops:
        raise UsageError(f"no image of {cohort.name} can be used; {'; '.join(notes)}")
    truth = {label: cohort.truth[rows, column] for column, label in enumerate(cohort.labels)}
    source = f"{len(crops)} of {len(cohort)} images of {cohort.name}"
    source += f", split {cohort.split}" if cohort.split else ""
    notes += [note for note in cohort.notes if note != NO_PATIENTS]  # here are no intervals
    return Crops(np.stack(crops), truth, source), notes
