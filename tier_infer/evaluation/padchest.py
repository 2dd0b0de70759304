"""PadChest: the physicians' labels, 39,053 images, and the 57 findings that TIER reports.

ROOT/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv[.gz]
ROOT/{ImageDir}/{ImageID}             or ROOT/{ImageID}; either also below images, images-224, …

A finding counts where it is a member of the row's list, so `laminar atelectasis` is no
`atelectasis`. All projections are kept, as in the paper. Ids are text: PatientID has 60 digits.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from tier_infer.big_tables import read_table, whole_table
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Case, Cohort, cohort_of
from tier_infer.evaluation.places import inside, lacks_split
from tier_infer.label_sets import load_label_set

NAME = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
SPLIT = "physician"
COLUMNS = (
    "ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "MethodLabel", "Labels",
)  # fmt: skip
VIEWS = {"PA": "frontal", "AP": "frontal", "AP_horizontal": "frontal", "L": "lateral"}
GROUPS = ("Projection", "PatientSex_DICOM", "Pediatric")
OTHERS, EMPTY = "not labelled by a physician", "Labels is empty"
NAN = ("", "nan", "NaN")  # as the table writes them, and as a spreadsheet or pandas does again
TRIED = 100  # rows whose images are looked for, and the first of each ImageDir
MAX_LABELS = 10_000  # characters of one list; the longest has 400


def read_padchest(place: Path, split: str | None) -> Cohort:
    """`place`: the root or the table. Raises UsageError for another table or split, for images in
    two places, and by line for a list that is none and an image outside the root."""
    if split not in (None, SPLIT):
        raise lacks_split("PadChest", str(split), (SPLIT,))
    table = place if place.is_file() else _table(place)
    columns, lines = read_table(table, COLUMNS, nameless=True)
    image, folder, study, patient, projection, method, labels = map(columns.index, COLUMNS)
    groups = {g: columns.index(g) for g in GROUPS if g in columns}
    findings = [label.name for label in load_label_set("padchest").labels]
    left_out: Counter[str] = Counter()
    cases, truth, kept = [], [], []
    for line, cells in lines:
        reason = OTHERS if cells[method].strip().casefold() != SPLIT else ""
        reason = reason or (EMPTY if cells[labels].strip() in NAN else "")
        if reason:
            left_out[reason] += 1
            continue
        found = _members(cells[labels])
        if found is None:
            raise UsageError(f"{table} line {line}: Labels is no list of names")
        path = inside(table, line, f"{cells[folder]}/{cells[image]}")
        who, when = (cells[i] if cells[i] not in NAN else "" for i in (patient, study))
        cases.append(Case(path, path, who, when, VIEWS.get(cells[projection], ""), line))
        truth.append([name in found for name in findings])
        kept.append([cells[i] for i in groups.values()])
    root, flat = _images(table.parent, cases)
    cases = [replace(case, place=_place(case, flat)) for case in cases]
    return cohort_of(
        "padchest", f"PadChest/{table.name}", root, SPLIT, cases, findings,
        np.array(truth, np.float32), left_out,
        groups={g: tuple(row[i] for row in kept) for i, g in enumerate(groups)}
        | {"view": tuple(case.view for case in cases)},
    )  # fmt: skip


@lru_cache(2**15)  # 22,000 different lists
def _members(cell: str) -> frozenset[str] | None:
    """The names of a list as Python writes it; None for anything else. A name may hold a comma or
    an apostrophe, so the list is parsed, not split."""
    try:
        found = ast.literal_eval(cell) if len(cell) <= MAX_LABELS else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return None
    return frozenset(name.strip() for name in found)


def _table(root: Path) -> Path:
    found = [p for p in (root / NAME, root / f"{NAME}.gz") if p.is_file()]
    if not found:
        raise UsageError(
            f"{root} holds no {NAME} or .csv.gz; the root of PadChest is the folder with this "
            "table and the folders 0 … 54 of images"
        )
    return whole_table(found)


def _images(root: Path, cases: list[Case]) -> tuple[Path, bool]:
    """The folder that the images lie below, and whether they lie in it without ImageDir. Where none
    is found the release's own layout is taken, and each image is missed by name.

    UsageError for two such folders: they may hold other sizes of the images, or parts of them.
    """
    first = {case.place.partition("/")[0]: case for case in reversed(cases)}
    tried = [*cases[:TRIED], *first.values()]
    found = [
        (base, flat)
        for base in (root, *sorted(d for d in root.glob("images*") if d.is_dir()))
        for flat in (False, True)
        if any(os.path.exists(base / _place(case, flat)) for case in tried)
    ]
    if len(found) > 1:
        layouts = [f"{base}{'' if flat else '/{ImageDir}'}" for base, flat in found]
        raise UsageError(
            f"images of PadChest lie in {' and in '.join(layouts)}; leave those that are meant, "
            "below one folder"
        )
    return found[0] if found else (root, False)


def _place(case: Case, flat: bool) -> str:
    return case.place.rpartition("/")[2] if flat else case.place
