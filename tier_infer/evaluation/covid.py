"""COVID-QU-Ex: COVID-19 against other pneumonia, as TIER compares them.

ROOT/Infection Segmentation Data/Infection Segmentation Data/{Train,Val,Test}/
    {COVID-19,Non-COVID,Normal}/{images,lung masks,infection masks}/*.png

The inner folder may be missing, and ROOT may be any folder of the chain. Of the two trees the
infection tree is the one of the paper; the other is read where ROOT names it. All three splits
count. Normal films are left out, as the released script leaves them out, unless classes=all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Case, Cohort, cohort_of
from tier_infer.evaluation.places import lacks_split, pictures_in

TREE, OTHER_TREE = "Infection Segmentation Data", "Lung Segmentation Data"
SPLITS = {"train": "Train", "val": "Val", "test": "Test"}
CLASSES = {"COVID-19": "COVID-19", "Non-COVID": "other pneumonia", "Normal": "No Finding"}
NORMAL = "normal film: the comparison is of COVID-19 with other pneumonia"
MASKS = "infection masks"


def read_covid(place: Path, split: str | None, normal: bool = False) -> Cohort:
    """split: train, val, test or None for all; normal: keep the normal films, label `no_finding`.

    Raises UsageError for a folder without the tree, for a split that it lacks, and for one that
    lacks a class.
    """
    root = _tree(place)
    name = f"COVID-QU-Ex/{root.resolve().name}"
    present = [s for s, folder in SPLITS.items() if (root / folder).is_dir()]
    if split not in (None, *present):
        raise lacks_split(name, str(split), present)
    asked = {c: column for c, column in CLASSES.items() if normal or c != "Normal"}
    splits = present if split is None else [split]
    found = list(_images(root, splits))
    _refuse_gaps(name, splits, list(asked), {(s, c) for s, c, _, _ in found})
    gone = [folder for s, folder in SPLITS.items() if split is None and s not in present]
    notes = [f"{name} has no folder {' nor '.join(gone)}: its images are missing here"]
    kept = [image for image in found if image[1] in asked]
    cases = [Case(path, path, "", "", "", n) for n, (_, _, path, _) in enumerate(kept, 1)]
    truth = [[column == CLASSES[kind] for column in asked.values()] for _, kind, _, _ in kept]
    masks = tuple(mask if kind == "COVID-19" else "" for _, kind, _, mask in kept)
    return cohort_of(
        "covid", name, root, split or "", cases, [*asked.values()],
        np.array(truth, np.float32),
        {NORMAL: len(found) - len(kept)} if len(found) > len(kept) else {}, notes if gone else (),
        {"split": tuple(s for s, _, _, _ in kept), "class": tuple(c for _, c, _, _ in kept)},
        masks={"covid_19": masks} if any(masks) else {},
    )  # fmt: skip


def _refuse_gaps(
    name: str, splits: list[str], classes: list[str], found: set[tuple[str, str]]
) -> None:
    """A class that was renamed or not fetched would change every figure, or leave none."""
    for split in splits:
        for kind in classes:
            if (split, kind) not in found:
                raise UsageError(
                    f"{name} has no images in {SPLITS[split]}/{kind}/images; fetch the split "
                    "again, or name another with --split"
                )


def _images(root: Path, splits: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """split, class, image and its infection mask ("" for none), both below the root."""
    for split in splits:
        for kind in CLASSES:
            folder = f"{SPLITS[split]}/{kind}"
            masks = set(pictures_in(root / folder / MASKS))
            for name in pictures_in(root / folder / "images"):
                mask = f"{folder}/{MASKS}/{name}" if name in masks else ""
                yield split, kind, f"{folder}/images/{name}", mask


def _tree(place: Path) -> Path:
    """The folder that holds Train, Val and Test."""
    chain = ("", TREE, f"{TREE}/{TREE}", OTHER_TREE if place.resolve().name == OTHER_TREE else TREE)
    for inner in chain:
        if any((place / inner / folder).is_dir() for folder in SPLITS.values()):
            return place / inner
    sentence = f"{place} holds no {TREE}/{TREE}/Train/COVID-19/images"
    if (place / OTHER_TREE).is_dir():
        sentence += f"; to evaluate the other tree name it: covid:{place / OTHER_TREE}"
    raise UsageError(sentence)
