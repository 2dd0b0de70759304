"""The manifest dataset: one CSV, one row per image.

image_path   relative to the CSV's folder; DICOM, PNG or JPEG
patient_id   any text; a patient stands in one split only
split        train, val or test
text         optional: the impression; without it a caption is made of the labels
view         optional: AP, PA or frontal, LL, RL or lateral, and such words; empty means unknown
intensity    optional: how DICOM pixels became the 8 bits of these images (tier_infer.intensity)
any other    a label column if its cells are 1, 0 or empty; empty means unknown, not negative
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from pathlib import Path

from tier_infer.errors import RefusedImage, UsageError
from tier_infer.evaluation.places import same_patient, view_name
from tier_infer.images import load_image
from tier_infer.intensity import PRESETS, looks_equalised
from tier_infer.label_sets import column_id
from tier_infer.tables import Lines, read_csv
from tier_train.data.dataset import Dataset, Row

REQUIRED = ("image_path", "patient_id", "split")
OPTIONAL = ("text", "view", "intensity")
SPLITS = ("train", "val", "test")


def read_manifest(path: Path, skip_bad: bool = False) -> Dataset:
    """Raises UsageError for anything that would train on other pairs than the user meant."""
    raw, columns, table = read_csv(path, REQUIRED)
    _check_splits(table)
    _check_images(table)
    views = {number: _view(number, cells) for number, cells in table}
    labels = [c for c in columns if c not in REQUIRED + OPTIONAL and _is_label(c, table)]
    _check_label_names(labels)
    present = _drop_missing(path, table, skip_bad)
    gone = len(table) - len(present)
    notes = [f"{gone} of {len(table)} rows left out: no image at their path"] if gone else []
    table = present
    rows = tuple(_row(number, cells, labels, views[number]) for number, cells in table)
    empty = [row.number for row in rows if not row.caption(0, 0)]
    if empty:
        raise UsageError(
            f"{len(empty)} manifest rows have neither text nor label, the first is line {empty[0]}"
        )
    mute = sum(not row.text for row in rows)
    if mute:
        notes.append(f"{mute} of {len(rows)} rows have no text: captions are made of their labels")
    unused = [c for c in columns if c and c not in (*REQUIRED, *OPTIONAL, *labels)]
    if unused:
        notes.append(f"columns not used: {', '.join(unused)}")
    sides = ("frontal", "lateral") if any(r.view == "lateral" for r in rows) else ("frontal",)
    digest = hashlib.sha256(raw).hexdigest()
    name = f"{path.parent.resolve().name}/{path.name}"
    return Dataset(
        path, name, rows, tuple(labels), _intensity(table), sides, digest, notes=tuple(notes)
    )


def resolve_intensity(manifest: Dataset, named: str) -> tuple[str, str]:
    """The preset that DICOM files will get at inference, and the words that say why.

    8-bit files are taken as they are, so the choice can't change training; it decides what a DICOM
    looks like to this network later. Files that were equalised are recognised by their histograms.
    """
    if named:
        return named, "named by the recipe"
    if manifest.intensity:
        return manifest.intensity, "named by the dataset"
    if not all(Path(r.image_path).suffix.lower() in (".jpg", ".jpeg") for r in manifest.rows):
        raise UsageError(
            "the manifest names no intensity preset and its files are not all 8-bit JPEG; add a "
            f"column `intensity` or --set intensity=… ({', '.join(PRESETS)})"
        )
    flat = []
    for row in manifest.rows[:: max(1, len(manifest.rows) // 64)]:
        with contextlib.suppress(RefusedImage):  # load_pictures will name it
            flat.append(
                looks_equalised(load_image(manifest.folder / row.image_path, "minmax").grey)
            )
    preset = "mimic-jpg" if sum(flat) > len(flat) / 2 else "minmax"
    return preset, (
        f"the manifest names none; {sum(flat)} of {len(flat)} sampled JPEGs are equalised"
    )


def _check_splits(table: Lines) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for number, cells in table:
        split, patient = cells["split"].strip(), cells["patient_id"].strip()
        if split not in SPLITS:
            raise UsageError(
                f"manifest line {number}: split is {split!r}, allowed: {', '.join(SPLITS)}"
            )
        if not patient:
            raise UsageError(f"manifest line {number}: patient_id is empty")
        first_split, first_line = seen.setdefault(same_patient(patient), (split, number))
        if first_split != split:  # the id itself is not printed
            raise UsageError(
                f"one patient stands in two splits: {first_split} in line {first_line}, "
                f"{split} in line {number}; scores on such a split would be too good (ids that "
                "differ only in case, leading zeros or .0 are one patient's)"
            )


def _check_images(table: Lines) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for number, cells in table:
        split, path = cells["split"].strip(), posixpath.normpath(cells["image_path"].strip())
        first_split, first_line = seen.setdefault(path, (split, number))
        if first_split != split:
            raise UsageError(
                f"one image stands in two splits: {first_split} in line {first_line}, {split} in "
                f"line {number}; scores on such a split would be too good"
            )


def _is_label(column: str, table: Lines) -> bool:
    """All filled cells are 1 or 0; when only most of them are, the odd one is an error."""
    if not column_id(column):  # no letter in it: a row counter
        return False
    filled = [(n, cells[column].strip()) for n, cells in table if cells[column].strip()]
    odd = [(n, v) for n, v in filled if v not in ("0", "1", "0.0", "1.0")]
    if odd and len(odd) < 0.5 * len(filled):
        raise UsageError(
            f"manifest line {odd[0][0]}: column {column!r} must be 1, 0 or empty, as elsewhere"
        )
    return bool(filled) and not odd


def _check_label_names(columns: list[str]) -> None:
    ids = [column_id(c) for c in columns]
    twice = [c for c, i in zip(columns, ids, strict=True) if ids.count(i) > 1]
    if twice:
        raise UsageError(f"label columns {', '.join(map(repr, twice))} are no distinct names")


def _drop_missing(path: Path, table: Lines, skip: bool) -> Lines:
    found = [_is_file(path.parent / cells["image_path"].strip()) for _, cells in table]
    present = [row for row, there in zip(table, found, strict=True) if there]
    if not all(found) and not skip:
        number, cells = table[found.index(False)]
        raise UsageError(
            f"{len(table) - len(present)} of {len(table)} images of the manifest do not exist, the "
            f"first is {cells['image_path']} (line {number}); mend the paths, or leave the "
            "rows out with --skip-bad"
        )
    if not present:
        raise UsageError(f"no image of the {len(table)} rows of {path} exists")
    return present


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name the file system can't even ask for
        return False


def _row(number: int, cells: dict[str, str], labels: list[str], view: str) -> Row:
    known = {c: int(float(cells[c])) for c in labels if cells[c].strip()}
    return Row(
        image_path=cells["image_path"].strip(),
        split=cells["split"].strip(),
        text=cells.get("text", "").strip(),
        labels=known,
        number=number,
        patient=cells["patient_id"].strip(),
        view=view,
    )


def _view(number: int, cells: dict[str, str]) -> str:
    name = view_name(cells.get("view") or "")
    if name is not None:
        return name
    raise UsageError(
        f"manifest line {number}: view is no word for frontal (AP, PA, frontal, AP supine, …) or "
        "lateral (LL, RL, lateral, …); leave it empty where it is not known"
    )


def _intensity(table: Lines) -> str:
    names = {cells.get("intensity", "").strip() for _, cells in table}
    if names <= {""}:
        return ""
    if len(names) > 1 or not names <= set(PRESETS):
        raise UsageError(f"the manifest's intensity column must hold one of {', '.join(PRESETS)}")
    return names.pop()
