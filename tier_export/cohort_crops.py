"""Crops of a cohort of the evaluation, through the same reader and rules as scoring."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from tier_export.crops import MAX_CROPS, manifest_crops
from tier_export.parity import Crops
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.reader import Reader
from tier_infer.scoring import Presets, crops_of


def crops_from(
    source: str, split: str | None, presets: Presets, limit: int = MAX_CROPS
) -> tuple[Crops, list[str]]:
    """`source` is a manifest of the training side, FILE.csv, or a dataset as the evaluation names
    it, KIND:PATH; the second part says which images were not used, and why.

    UsageError where nothing is left, and for another word.
    """
    path = Path(source)
    if path.is_file():
        crops = manifest_crops(path, presets.geometry, presets.intensity, limit, split)
        return crops, []
    if ":" not in source:
        raise UsageError(
            f"--dataset {source} does not exist; name a manifest, FILE.csv, or a dataset, KIND:PATH"
        )
    from tier_infer.evaluation.datasets import open_cohort

    return cohort_crops(open_cohort(source, split), presets, limit)


def cohort_crops(cohort: Cohort, presets: Presets, limit: int) -> tuple[Crops, list[str]]:
    """At most `limit` images, evenly taken of those whose view the network was trained on."""
    sideways = [c.view == "lateral" and "lateral" not in presets.views for c in cohort.cases]
    left_out = Counter({"laterals, which the network was not trained on": sum(sideways)})
    kept = np.flatnonzero(~np.array(sideways, bool))
    if len(kept) > limit:
        kept = kept[np.linspace(0, len(kept) - 1, limit).astype(np.int64)]
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
    return Crops(np.stack(crops), truth, source), notes
