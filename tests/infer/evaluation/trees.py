"""Datasets in their stock layouts, small, invented, every trap in them once: `python -m
tests.infer.evaluation.trees DIR` writes them all. What a reader must give stands in its tests.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Rows = Sequence[Sequence[object]]


def picture(path: Path, seed: int = 0, bits: int = 8) -> Path:
    """A grey ramp, its direction by the seed; PNG of 8 or 16 bits, or JPEG by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 1, 80)[:, None] * np.linspace(0.3, 1, 96)[None]
    ramp = np.rot90(ramp, seed % 4)
    grey = (ramp * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    Image.fromarray(grey).save(path)
    return path


def table(path: Path, rows: Rows) -> Path:
    """A CSV, packed where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


# CheXpert

CHEXPERT_LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
CHEXPERT_HEAD = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS)
CHEXPERT_IMAGES = (  # folder of the patient, image, Sex, view, AP/PA, labels that are filled
    ("patient64541/study1/view1_frontal.jpg", "Female", "Frontal", "AP",
     {"Edema": "1.0", "Cardiomegaly": "0.0", "Pneumonia": "-1.0"}),
    ("patient64541/study1/view2_lateral.jpg", "Female", "Lateral", "",
     {"Edema": "1.0", "Cardiomegaly": "0.0"}),
    ("patient64542/study1/view1_frontal.jpg", "Male", "Frontal", "PA",
     {"Edema": "0.0", "Cardiomegaly": "1.0", "Lung Lesion": "1.0"}),
    ("patient64543/study2/view1_frontal.jpg", "Unknown", "Frontal", "PA", {"Edema": "0.0"}),
)  # fmt: skip


def chexpert(
    root: Path, prefix: str = "CheXpert-v1.0/", name: str = "test.csv", folder: str = "test",
    written: str = "test", images: Path | None = None,
) -> Path:  # fmt: skip
    """ROOT/{name} whose Path is {prefix}{written}/patient…, and the images in {folder}. Tables
    called …_labels.csv are CheXlocalize's and have no columns of the view."""
    short = name.endswith("_labels.csv")
    rows: list[Sequence[object]] = [("Path", *CHEXPERT_LABELS) if short else CHEXPERT_HEAD]
    for seed, (image, sex, view, side, filled) in enumerate(CHEXPERT_IMAGES):
        picture((images or root) / folder / image, seed)
        labels = [filled.get(label, "") for label in CHEXPERT_LABELS]
        rows.append([f"{prefix}{written}/{image}", *(() if short else (sex, 60, view, side)),
                     *labels])  # fmt: skip
    return table(root / name, rows)


def chexpert_studies(root: Path, release: str = "CheXpert-v1.0") -> Path:
    """The label repository's groundtruth.csv beside a release: a row per study, one of three has
    no image, one has two beside what no image is."""
    for seed, (image, *_) in enumerate(CHEXPERT_IMAGES[:3]):
        picture(root / release / "test" / image, seed)
    folder = root / release / "test/patient64541/study1"
    (folder / "._view1_frontal.jpg").write_bytes(b"left by a file manager")
    (folder / "notes.txt").write_text("no image")
    gone = "patient64549/study1"
    studies = (("patient64542/study1", 0, 1), (gone, 1, 1), ("patient64541/study1", 1, 0))
    rows: list[Sequence[object]] = [("Study", "Edema", "Cardiomegaly")]
    rows += [(f"CheXpert-v1.0/test/{study}", edema, heart) for study, edema, heart in studies]
    return table(root / "groundtruth.csv", rows)


# PadChest

PADCHEST_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
PADCHEST_HEAD = (
    "", "ImageID", "ImageDir", "StudyID", "PatientID", "PatientSex_DICOM", "Projection",
    "MethodLabel", "Labels",
)  # fmt: skip
LONG_ID = "123456789012345678901234567890123456789012345678901234567890"  # 60 digits
PADCHEST_ROWS = (
    ("0", "a1.png", "0", "s1", LONG_ID, "F", "PA", "Physician",
     "['laminar atelectasis', 'COPD signs']"),
    ("1", "a2.png", "0", "s1", LONG_ID[:-1] + "1", "F", "L", "Physician",
     "['atelectasis', 'Cardiomegaly', ' pleural effusion']"),
    ("2", "b1.png", "54", "s2", "7", "M", "AP_horizontal", "RNN_model", "['cardiomegaly']"),
    ("3", "b2.png", "54", "s3", "", "M", "COSTAL", "Physician",
     """["Chilaiditi's sign", 'surgery, breast', 'cardiomegaly']"""),
    ("4", "b3.png", "54", "s4", "8", "M", "PA", "Physician", "nan"),
    ("5", "b4.png", "54", "s5", "9", "M", "PA", "Physician", ""),
    ("6", "gone.png", "54", "s6", "9", "M", "AP", "Physician", "['normal', 'normal']"),
    ("7", "b5.png", "54", "s7", "9", "M", "PA", "Physician", "[]"),
)  # fmt: skip


def padchest(root: Path, packed: bool = True, folder: str = "{ImageDir}") -> Path:
    """`folder`: where the images lie, e.g. "{ImageDir}", "images-224" or "."."""
    for _, name, directory, *_ in PADCHEST_ROWS:
        if name != "gone.png":
            picture(root / folder.replace("{ImageDir}", directory) / name, bits=16)
    return table(root / (PADCHEST_TABLE + ".gz" * packed), (PADCHEST_HEAD, *PADCHEST_ROWS))


# COVID-QU-Ex

COVID_TREE = "Infection Segmentation Data"
COVID_COUNTS = {  # split, class → images
    ("Train", "COVID-19"): 3, ("Train", "Non-COVID"): 2, ("Train", "Normal"): 2,
    ("Val", "COVID-19"): 1, ("Val", "Non-COVID"): 1, ("Val", "Normal"): 1,
    ("Test", "COVID-19"): 2, ("Test", "Non-COVID"): 1, ("Test", "Normal"): 3,
}  # fmt: skip


def covid(root: Path, nested: str = f"{COVID_TREE}/{COVID_TREE}", infection: bool = True) -> Path:
    """Every film has its masks but the first COVID-19 film of Test, which has none of infection."""
    for (split, kind), count in COVID_COUNTS.items():
        for n in range(count):
            folder = root / nested / split / kind
            picture(folder / "images" / f"{kind.lower()}_{n}.png", n)
            masks = ["lung masks"] + ["infection masks"] * infection
            if (split, kind, n) == ("Test", "COVID-19", 0):
                masks = ["lung masks"]
            for mask in masks:
                picture(folder / mask / f"{kind.lower()}_{n}.png", n)
    (root / nested / "Train/COVID-19/images/Thumbs.db").write_bytes(b"left by a file manager")
    return root


# MIMIC-CXR-JPG

MIMIC_ROWS = (  # dicom, subject, study, view, split, labels of the study (None: no row)
    ("aa-1", "10000032", "50000001", "PA", "test", ("1.0", "-1.0")),
    ("aa-2", "10000032", "50000001", "LATERAL", "test", ("1.0", "-1.0")),
    ("bb-1", "10000764", "50000002", "AP", "test", ("", "0.0")),
    ("cc-1", "10000898", "50000003", "", "test", None),
    ("dd-1", "10000935", "50000004", "PA", "validate", ("0.0", "1.0")),
    ("ee-1", "11000011", "50000005", "PA", "train", ("0.0", "0.0")),
    ("ff-1", "12000012", "50000006", "PA", "", ("0.0", "0.0")),
)


def mimic(root: Path, packed: bool = True, files: bool = True) -> Path:
    end = ".csv.gz" if packed else ".csv"
    meta: list[Sequence[object]] = [("dicom_id", "subject_id", "study_id", "ViewPosition")]
    splits: list[Sequence[object]] = [("dicom_id", "study_id", "subject_id", "split")]
    labels: dict[str, Sequence[object]] = {"": ("subject_id", "study_id", "Edema", "Pneumonia")}
    for seed, (dicom, subject, study, view, split, known) in enumerate(MIMIC_ROWS):
        folder = root / ("files" if files else ".") / f"p{subject[:2]}/p{subject}/s{study}"
        picture(folder / f"{dicom}.jpg", seed)
        meta.append((dicom, subject, study, view))
        if split:
            splits.append((dicom, study, subject, split))
        if known:
            labels[study] = (subject, study, *known)
    table(root / f"mimic-cxr-2.0.0-metadata{end}", meta)
    table(root / f"mimic-cxr-2.0.0-split{end}", splits)
    table(root / f"mimic-cxr-2.0.0-chexpert{end}", [*labels.values()])
    return root


# NIH ChestX-ray14

NIH_HEAD = (  # as the releases write it, unquoted: two of its commas stand inside brackets
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NIH_ROWS = (  # image, findings, follow-up, patient, sex, view, archive that it lies in, list
    ("00000001_000.png", "Cardiomegaly|Effusion", 0, 1, "M", "PA", "images_001/images", "test"),
    ("00000001_001.png", "No Finding", 1, 1, "M", "AP", "images_002/images", "test"),
    ("00000002_000.png", "Pleural_Thickening", 0, 2, "F", "PA", "images_001/images", "train_val"),
    ("00000003_000.png", "Hernia|Mass", 0, 3, "F", "PA", "", "test"),
)


def nih(root: Path, name: str = "Data_Entry_2017.csv", one_folder: bool = False) -> Path:
    """The table of 2017 ends every line with a comma. The last row's image is missing."""
    end = "," if name == "Data_Entry_2017.csv" else ""
    lines = [NIH_HEAD + end]
    lists: dict[str, list[str]] = {"test": [], "train_val": []}
    for image, found, follow_up, patient, sex, view, folder, part in NIH_ROWS:
        lines.append(f"{image},{found},{follow_up},{patient},58,{sex},{view},99,99,0.1,0.1{end}")
        lists[part].append(image)
        if folder:
            picture(root / ("images" if one_folder else folder) / image)
    (root / name).write_text("\n".join(lines) + "\n")
    for part, images in lists.items():
        (root / f"{part}_list.txt").write_text("\n".join(images) + "\n")
    return root


if __name__ == "__main__":
    place = Path(sys.argv[1])
    chexpert(place / "chexpert/CheXpert-v1.0")
    padchest(place / "padchest")
    covid(place / "covid")
    mimic(place / "mimic")
    nih(place / "nih")
