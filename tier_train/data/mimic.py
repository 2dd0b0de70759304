"""MIMIC-CXR-JPG 2.0 and 2.1 from its stock root, nothing reformatted.

ROOT/mimic-cxr-2.0.0-metadata.csv[.gz]   one row per image; the pairs come in its order
ROOT/mimic-cxr-2.0.0-chexpert.csv[.gz]   14 labels per study: 1 and 0 count, -1 and blank do not
ROOT/mimic-cxr-2.0.0-split.csv[.gz]      read for split_by = "official" only
ROOT/files/p10/p10000032/s50414267/….jpg
ROOT/files/p10/p10000032/s50414267.txt   or in the study's folder, or under a second root

`files/` may be missing, as in the released code's own tree. An image whose study has no labels is
no pair: the paper's 377,095 images are those that have them. Nor is one without an impression
(319,446 remain there). Frontal is ViewPosition AP or PA, anything else lateral, as in that code.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tier_infer.errors import UsageError
from tier_infer.evaluation.mimic_tables import (
    Image,
    Study,
    find_table,
    official_splits,
    read_images,
    read_labels,
)
from tier_train.data.dataset import Dataset, Row, rows_digest
from tier_train.data.reports import impression
from tier_train.recipe import Recipe

HELD_OUT = 0.1  # of the patients; paper, section 3.1
RELEASED_SEED = 1  # of the released code's GroupShuffleSplit
READERS, BATCH = 16, 256  # threads and reports per turn: a network file system answers slowly

NO_LABELS, NO_REPORT = "no row in the chexpert table", "no report"
EMPTY, NO_SPLIT, LATERAL = "empty impression", "no row in the split table", "lateral view"
NO_TEXT, TOO_LONG = "report is no text", "report or impression too long"
NOT_UTF8, TWO_REPORTS = "report is not UTF-8, read as Latin-1", "two reports that differ"

MAX_REPORT = 2**20  # bytes; MIMIC-CXR's longest has 10 thousand
MAX_IMPRESSION = 131_071  # characters, as much as a cell of a CSV table may hold
ABSENT = (errno.ENOENT, errno.ENOTDIR)


@dataclass
class Tally:
    """What is no pair, and why; what is one, but worth a word."""

    counts: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)  # reason → line in the metadata table

    def keep(self, good: bool, reason: str, line: int) -> bool:
        if not good:
            self.counts[reason] += 1
            self.first.setdefault(reason, line)
        return good

    def note(self, reason: str, line: int) -> None:
        self.kept[reason] += 1
        self.first.setdefault(reason, line)

    def notes(self) -> tuple[str, ...]:
        told = [(f"left out, {reason}", reason, n) for reason, n in self.counts.items()]
        told += [(reason, reason, n) for reason, n in self.kept.items()]
        return tuple(f"{words}: {n} (first: line {self.first[r]})" for words, r, n in told)


class Report(NamedTuple):
    """A study's text, or why it has none."""

    text: str
    reason: str = ""  # NO_REPORT, NO_TEXT, TOO_LONG or EMPTY; "" for a text
    words: tuple[str, ...] = ()  # NOT_UTF8, TWO_REPORTS


def read_mimic(root: Path, recipe: Recipe, reports: Path | None = None) -> tuple[Dataset, Tally]:
    """The pairs under `root` by the recipe's impressions, split_by, split_seed and views.

    Raises UsageError for a missing or damaged table and where no pair remains. Whether each image
    exists is not looked at: data check and data cache do that.
    """
    tally = Tally()
    names = ("chexpert", "metadata", *(("split",) if recipe.split_by == "official" else ()))
    tables = {name: find_table(root, name) for name in names}
    columns, labels = read_labels(tables["chexpert"])
    images = [
        image
        for image in read_images(tables["metadata"])
        if tally.keep((image.subject, image.study) in labels, NO_LABELS, image.line)
    ]
    splits = _splits(tables, images, recipe)
    images = [
        image
        for image in images
        if tally.keep(_is_seen(image, recipe), LATERAL, image.line)
        and tally.keep(image.dicom in splits, NO_SPLIT, image.line)
    ]
    texts = _texts(images, report_folders(root, reports), recipe.impressions)
    rows = []
    prefix = "files/" if (root / "files").is_dir() else ""
    for line, dicom, subject, study, view in images:
        found = texts[subject, study]
        if tally.keep(not found.reason, found.reason, line):
            for word in found.words:
                tally.note(word, line)
            path = f"{prefix}{_folder(subject)}/s{study}/{dicom}.jpg"
            known = labels[subject, study]
            rows.append(Row(path, splits[dicom], found.text, known, line, subject, view))
    if not rows:
        raise UsageError(_nothing(root, reports, tally))
    views = ("frontal", "lateral") if any(r.view == "lateral" for r in rows) else ("frontal",)
    dataset = Dataset(
        path=root,
        name=root.resolve().name,
        rows=tuple(rows),
        label_columns=columns,
        intensity="mimic-jpg",
        views=views,
        sha256=rows_digest(rows),
        kind="mimic",
        notes=(*tally.notes(), "tables: " + ", ".join(t.name for t in tables.values())),
    )
    return dataset, tally


def report_folders(root: Path, reports: Path | None) -> list[Path]:
    """Folders that hold p10 … p19 and may hold reports."""
    roots = [reports, root] if reports else [root]
    return [r / "files" if (r / "files").is_dir() else r for r in roots]


def _is_seen(image: Image, recipe: Recipe) -> bool:
    return recipe.views == "all" or image.view == "frontal"


def _splits(tables: dict[str, Path], images: list[Image], recipe: Recipe) -> dict[str, str]:
    """dicom_id → train, val or test."""
    if recipe.split_by == "official":
        return official_splits(tables["split"], images)
    if recipe.split_by == "released_code":  # leaves laterals out before it splits
        images = [image for image in images if _is_seen(image, recipe)]
        order = np.random.RandomState(RELEASED_SEED).permutation
    else:
        order = np.random.default_rng(recipe.split_seed).permutation
    patients = sorted({image.subject for image in images}, key=lambda s: (len(s), s))  # as numbers
    # The first of a permutation, rounded up: with RandomState(1) those are the patients that
    # scikit-learn's GroupShuffleSplit(test_size=0.1, random_state=1) holds out.
    count = math.ceil(HELD_OUT * len(patients))
    val = {patients[i] for i in order(len(patients))[:count]}
    return {image.dicom: "val" if image.subject in val else "train" for image in images}


def _texts(images: list[Image], folders: list[Path], rules: str) -> dict[Study, Report]:
    lines: dict[Study, int] = {}  # where each study stands first
    for image in images:
        lines.setdefault((image.subject, image.study), image.line)
    studies = list(lines)
    batches = [studies[i : i + BATCH] for i in range(0, len(studies), BATCH)]
    places = [str(folder) for folder in folders]

    def read(batch: list[Study]) -> list[tuple[Study, Report]]:
        return [(study, _report(places, study, lines[study], rules)) for study in batch]

    with ThreadPoolExecutor(READERS) as pool:
        return dict(pair for batch in pool.map(read, batches) for pair in batch)


def _report(folders: list[str], study: Study, line: int, rules: str) -> Report:
    """The first place's; all are opened, since of two that differ one is wrong."""
    subject, number = study
    names = (f"s{number}.txt", f"s{number}/s{number}.txt")
    found = [
        _bytes(f"{root}/{_folder(subject)}/{name}", line) for root in folders for name in names
    ]
    raw = [data for data in found if data is not None]
    if not raw:
        return Report("", NO_REPORT)
    words = (TWO_REPORTS,) if len(set(raw)) > 1 else ()
    if len(raw[0]) > MAX_REPORT:
        return Report("", TOO_LONG)
    try:
        text = raw[0].decode()
    except UnicodeDecodeError:
        text, words = raw[0].decode("latin-1"), (*words, NOT_UTF8)
    if "\0" in text or "\ufffd" in text:  # UTF-16, or damaged where it was converted
        return Report("", NO_TEXT)
    text = impression(text.replace("\r\n", "\n").replace("\r", "\n"), rules, number)
    if len(text) > MAX_IMPRESSION:
        return Report("", TOO_LONG)
    return Report(text, "" if text else EMPTY, words)


def _bytes(path: str, line: int) -> bytes | None:
    """None only where there is no such file: a report that can't be read would be a pair less."""
    try:
        with open(path, "rb", buffering=0, opener=_no_wait) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "no regular file")
            return file.read(MAX_REPORT + 1)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise UsageError(
            f"the report of line {line} of the metadata table can't be read ({error.strerror}); "
            "mend it, or take it away to leave its images out"
        ) from None


def _no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would be waited for


def _folder(subject: str) -> str:
    return f"p{subject[:2]}/p{subject}"


def _nothing(root: Path, reports: Path | None, tally: Tally) -> str:
    why = ", ".join(f"{count} have {reason}" for reason, count in tally.counts.items())
    sentence = f"no image under {root} makes a pair ({why or 'the metadata table is empty'})"
    if not tally.counts[NO_REPORT]:
        return sentence
    looked = " and ".join(str(folder) for folder in report_folders(root, reports))
    return (
        f"{sentence}; reports were looked for as p10/p10000032/s50414267.txt and "
        f"p10/p10000032/s50414267/s50414267.txt in {looked}. They are a project of their own: "
        "unpack mimic-cxr-reports.zip there, or name their root with mimic:ROOT,reports=DIR"
    )
