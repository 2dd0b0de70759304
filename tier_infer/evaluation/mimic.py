"""MIMIC-CXR-JPG: the labels that CheXpert's labeler read from the reports, image by image.

ROOT/mimic-cxr-2.0.0-metadata.csv[.gz], …-split.csv[.gz], …-chexpert.csv[.gz]
ROOT/files/p10/p10000032/s50414267/….jpg      `files/` may be missing

An image is called by its dicom_id: folder names hold the patient's. 1 and 0 count, -1 and blank are
unknown. Frontal is ViewPosition AP or PA, anything else lateral.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from tier_infer.evaluation.cohort import Case, Cohort, cohort_of
from tier_infer.evaluation.mimic_tables import (
    find_table,
    official_splits,
    read_images,
    read_labels,
)
from tier_infer.evaluation.places import lacks_split

NO_LABELS, NO_SPLIT = "no row in the chexpert table", "no row in the split table"


def read_mimic(root: Path, split: str | None) -> Cohort:
    """split: train, val or test (the default), the publisher's. UsageError as the tables raise."""
    split = split or "test"
    tables = {name: find_table(root, name) for name in ("chexpert", "metadata", "split")}
    names, labels = read_labels(tables["chexpert"])
    images = list(read_images(tables["metadata"]))
    splits = official_splits(tables["split"], images)
    left_out: Counter[str] = Counter()
    inner = "files/" if (root / "files").is_dir() else ""
    cases, truth = [], []
    for line, dicom, subject, study, view in images:
        if dicom not in splits:
            left_out[NO_SPLIT] += 1
        elif splits[dicom] == split:
            known = labels.get((subject, study))
            if known is None:
                left_out[NO_LABELS] += 1
                continue
            place = f"{inner}p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"
            cases.append(Case(f"{dicom}.jpg", place, subject, study, view, line))
            truth.append([known.get(name, np.nan) for name in names])
    name = f"{root.resolve().name}/{tables['metadata'].name}"
    if not cases and not left_out[NO_LABELS]:
        raise lacks_split(name, split, splits.values())
    return cohort_of(
        "mimic", name, root, split, cases, names,
        np.array(truth, np.float32).reshape(len(cases), len(names)), left_out,
        [f"labels: {tables['chexpert'].name}"],
        {"view": tuple(case.view for case in cases)},
    )  # fmt: skip
