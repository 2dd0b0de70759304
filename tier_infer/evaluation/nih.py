"""NIH ChestX-ray14: findings mined from reports, 112,120 frontal images.

ROOT/Data_Entry_2017.csv or Data_Entry_2017_v2020.csv     Finding Labels are separated by |
ROOT/images/….png, or ROOT/images_001/….png …, or ROOT/images_001/images/….png …
ROOT/test_list.txt, ROOT/train_val_list.txt

A finding that a row does not name is absent. `Effusion` is asked as pleural effusion, which it is.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tier_infer.big_tables import read_table
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Case, Cohort, cohort_of
from tier_infer.evaluation.places import inside, lacks_split, pictures_in, same_patient

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"test": "test_list.txt", "train_val": "train_val_list.txt"}
COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position")
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia", "No Finding",
)  # fmt: skip
NAMES = {"Effusion": "Pleural Effusion"}  # what prompt sets call it
GROUPS = ("View Position", "Patient Gender", "Patient Sex")
FOLDER = re.compile(r"images(_0\d\d)?")  # another, as images_small, holds other pictures
NO_LIST = "no test_list.txt: all rows are evaluated, those that others train on among them"


def read_nih(root: Path, split: str | None) -> Cohort:
    """split: test (the default where its list is present) or train_val. UsageError by line for a
    word that is no finding of the dataset, for an image in both lists or in two folders."""
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    if table is None:
        raise UsageError(f"{root} holds neither {' nor '.join(TABLES)}")
    present = [s for s, name in LISTS.items() if (root / name).is_file()]
    if split not in (None, *present):
        raise lacks_split(f"NIH/{table.name}", str(split), present)
    split = split or ("test" if "test" in present else None)
    lists = {s: _listed(root / LISTS[s]) for s in present}
    both = set.intersection(*lists.values()) if len(lists) == len(LISTS) else ()
    if both:
        raise UsageError(
            f"{root}: {len(both)} images stand in both {' and '.join(LISTS.values())}; scores on "
            "such a split would be too good, fetch both lists again"
        )
    listed = lists[split] if split else None
    columns, lines = read_table(table, COLUMNS, nameless=True)
    image, labels, follow_up, patient, view = map(columns.index, COLUMNS)
    groups = {g: columns.index(g) for g in GROUPS if g in columns}
    at = _folders(root)
    cases, truth, kept = [], [], []
    for line, cells in lines:
        name = inside(table, line, cells[image].strip())
        if listed is not None and name not in listed:
            continue
        found = {word.strip() for word in cells[labels].split("|")}
        if not found <= set(FINDINGS) or ("No Finding" in found and len(found) > 1):
            raise UsageError(
                f"{table} line {line}: Finding Labels must be names of {', '.join(FINDINGS)} "
                "separated by |, or No Finding alone"
            )
        who = same_patient(cells[patient].strip())
        study = f"{who}/{cells[follow_up].strip()}" if who else ""
        side = "frontal" if cells[view].strip() in ("PA", "AP") else ""
        place = f"{at.get(name, 'images')}/{name}"
        cases.append(Case(name, place, who, study, side, line))
        truth.append([finding in found for finding in FINDINGS])
        kept.append([cells[i] for i in groups.values()])
    notes = [] if split else [NO_LIST]
    if listed is not None and len(listed) > len(cases):
        notes.append(f"{len(listed) - len(cases)} images of {LISTS[str(split)]} are in no row")
    return cohort_of(
        "nih", f"NIH/{table.name}", root, split or "", cases, [NAMES.get(f, f) for f in FINDINGS],
        np.array(truth, np.float32).reshape(len(cases), len(FINDINGS)), notes=notes,
        groups={g: tuple(row[i] for row in kept) for i, g in enumerate(groups)},
    )  # fmt: skip


def _listed(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path} can't be read as a list of image names") from None
    return {line.strip().rpartition("/")[2] for line in lines} - {""}


def _folders(root: Path) -> dict[str, str]:
    """Image name → its folder; the twelve archives unpack to as many folders, or into one."""
    found: dict[str, str] = {}
    for outer in sorted(d.name for d in root.glob("images*") if FOLDER.fullmatch(d.name)):
        inner = [f"{outer}/images"] if outer != "images" else []
        for folder in (outer, *inner):
            for name in pictures_in(root / folder):
                if found.setdefault(name, folder) != folder:
                    raise UsageError(
                        f"{root}: an image lies in {found[name]} and in {folder}; leave one of "
                        "the two"
                    )
    return found
