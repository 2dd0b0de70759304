"""--dataset KIND:PATH → a cohort. docs/evaluation-data.md says what each kind expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tier_infer.errors import UsageError
from tier_infer.evaluation.chexpert import read_chexpert
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.covid import read_covid
from tier_infer.evaluation.manifest import read_manifest
from tier_infer.evaluation.mimic import read_mimic
from tier_infer.evaluation.nih import read_nih
from tier_infer.evaluation.padchest import read_padchest
from tier_infer.evaluation.places import split_name

KINDS = (
    "chexpert:ROOT or chexpert:FILE.csv, padchest:ROOT or padchest:FILE.csv, "
    "covid:ROOT[,classes=all], mimic:ROOT, nih:ROOT or manifest:FILE.csv"
)
READERS: dict[str, Callable[[Path, str | None], Cohort]] = {
    "chexpert": read_chexpert,
    "padchest": read_padchest,
    "covid": read_covid,
    "mimic": read_mimic,
    "nih": read_nih,
    "manifest": read_manifest,
}
FOLDERS, FILES = ("covid", "mimic", "nih"), ("manifest",)  # the others take both
ALL_CLASSES = ",classes=all"
HELD_OUT = ("test", "val")  # splits of a manifest, by what they prove


def open_cohort(spec: str, split: str | None = None) -> Cohort:
    """The images of `spec` (as KINDS) and `split`; None is the split that the papers report.

    Raises UsageError for another kind, a path that is not there, a split that the data lack, and
    what the kind raises for its tables.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in READERS or not colon or not rest:
        raise UsageError(f"--dataset takes {KINDS}, got {spec!r}")
    read = READERS[kind]
    if kind == "covid" and rest.endswith(ALL_CLASSES):
        rest, read = rest.removesuffix(ALL_CLASSES), partial(read_covid, normal=True)
    place = Path(rest)
    is_there = place.is_dir() if kind in FOLDERS else place.is_file()
    if not is_there and not (kind not in (*FOLDERS, *FILES) and place.is_dir()):
        what = "folder" if kind in FOLDERS else "file" if kind in FILES else "folder or file"
        raise UsageError(f"--dataset {spec}: no {what} {rest}")
    return read(place, split_name(split) if split is not None else None)


def held_out(spec: str, split: str | None) -> Cohort:
    """The split asked for, else the one that the dataset's papers report; of a manifest test, or
    val where nothing is held out, else all of it."""
    cohort = open_cohort(spec, split)
    if split is not None or cohort.kind != "manifest":
        return cohort
    words = [split_name(word) for word in cohort.groups.get("split", ())]
    found = next((name for name in HELD_OUT if name in words), None)
    if found is None:
        return cohort
    return replace(cohort.part(np.array([word == found for word in words])), split=found)
