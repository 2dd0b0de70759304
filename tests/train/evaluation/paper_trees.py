"""Datasets of the paper in their stock layouts; every finding has both classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.infer.evaluation.trees import CHEXPERT_HEAD, PADCHEST_HEAD, PADCHEST_TABLE, table
from tier_infer.label_sets import load_label_set

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
READERS = ("bc4", "bc6", "bc8")
Row = list[object]


def film(path: Path, number: int) -> None:
    """A ramp with a blob; every number makes another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:130, :130]
    far = (x - 20 - 7 * number % 90) ** 2 + (y - 20 - 31 * number % 90) ** 2
    grey = 50 + x // 3 + y // 2 + np.maximum(0, 60 - far // (8 + number % 5))
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(path)


def truth(number: int, column: int) -> int:
    return (number * 7 + column * 3) % 5 % 2


def write_chexpert(root: Path, test: int = 16, valid: int = 12) -> Path:
    """ROOT/CheXpert-v1.0/{test,valid}.csv and images: two to a study, the second a lateral; and
    ROOT/readers/bc4.csv, …, each of whom errs in another study; the last did not read the last."""
    release = root / "CheXpert-v1.0"
    for split, images in (("test", test), ("valid", valid)):
        rows: list[Row] = [[*CHEXPERT_HEAD]]
        for i in range(images):
            study, second = divmod(i, 2)
            view = "view2_lateral" if second else "view1_frontal"
            place = f"{split}/patient{study + 100 * (split == 'valid'):05d}/study1/{view}.png"
            film(release / place, i + 50 * (split == "valid"))
            known = {name: truth(study, k) for k, name in enumerate(FIVE)}
            cells = [known.get(name, "") for name in CHEXPERT_HEAD[5:]]
            side = "Lateral" if second else "Frontal"
            rows.append(
                [f"CheXpert-v1.0/{place}", "Male", 50, side, "" if second else "AP", *cells]
            )
        table(release / f"{split}.csv", rows)
    for k, name in enumerate(READERS):
        rows = [["Study", *FIVE]]
        for study in range(test // 2 - (k == len(READERS) - 1)):
            wrong = study == k
            cells = [abs(truth(study, c) - wrong) for c in range(len(FIVE))]
            rows.append([f"CheXpert-v1.0/test/patient{study:05d}/study1", *cells])
        table(root / "readers" / f"{name}.csv", rows)
    return root


def write_padchest(root: Path, images: int = 8) -> Path:
    """Every finding in some films of physicians and not in others."""
    findings = [label.name for label in load_label_set("padchest").labels]
    rows: list[Row] = [[*PADCHEST_HEAD]]
    for i in range(images):
        film(root / "0" / f"{i}.png", i)
        found = [name for k, name in enumerate(findings) if truth(i, k)]
        rows.append([i, f"{i}.png", 0, f"s{i}", f"p{i}", "F", "PA", "Physician", str(found)])
    return table(root / PADCHEST_TABLE, rows).parent


def write_covid(root: Path, images: int = 4) -> Path:
    for k, kind in enumerate(("COVID-19", "Non-COVID")):
        for i in range(images):
            film(root / "Infection Segmentation Data/Test" / kind / "images" / f"{i}.png",
                 i + 20 * k)  # fmt: skip
    return root
