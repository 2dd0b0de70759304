"""A tree in the stock layout of MIMIC-CXR-JPG, every trap in it once: `python -m
tests.train.mimic_tree DIR` writes it. Pictures are phantoms, reports and ids are invented.

What each study must give stands beside it, worked out by hand from the rules of the extractors.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tier_infer.intensity import to_8bit
from tier_train.phantoms.phantom import draw_phantom

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other",
    "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
HEAD = "                                 FINAL REPORT\n EXAMINATION:  CHEST\n \n"


@dataclass(frozen=True)
class Study:
    name: str  # the trap
    subject: int
    views: tuple[str, ...]
    report: str | None
    mimic: str = ""  # the text that each extractor must give
    tier: str = ""
    chexzero: str = ""
    labels: dict[str, str] | None = field(default_factory=lambda: {"Edema": "1.0"})
    split: str = "train"

    @property
    def number(self) -> int:
        return 50_000_000 + int(hashlib.sha256(self.name.encode()).hexdigest()[:6], 16)

    def dicom(self, index: int) -> str:
        digest = hashlib.sha256(f"{self.name} {index}".encode()).hexdigest()
        return "-".join(digest[i : i + 8] for i in range(0, 40, 8))

    def folder(self) -> str:
        return f"p{str(self.subject)[:2]}/p{self.subject}"


def report(impression: str, heading: str = "IMPRESSION") -> str:
    return f"{HEAD} FINDINGS: \n \n Lungs are seen.\n \n {heading}: \n \n {impression}\n"


STUDIES = (
    Study(
        "two views", 10000032, ("PA", "LATERAL"), report("Mild edema since ___.\n No effusion."),
        "Mild edema since ___.\n No effusion.", "mild edema since . no effusion.",
        "Mild edema since ___. No effusion.",
        {"Edema": "1.0", "Pleural Effusion": "0.0", "Pneumonia": "-1.0"},
    ),
    Study("missing report", 10000032, ("AP",), None),
    Study(
        "empty impression", 10000764, ("PA",), f"{HEAD} FINDINGS: \n \n Clear.\n \n IMPRESSION: \n"
    ),
    Study(
        "conclusion", 10000898, ("PA",), report("Normal chest.", "CONCLUSION"),
        "Normal chest.", "", "NO IMPRESSION", {"No Finding": "1.0"},
    ),
    Study(
        "lateral only", 10000935, ("LL",), report("No acute disease."),
        "No acute disease.", "no acute disease.", "No acute disease.", {}, "validate",
    ),
    Study(
        "no view", 11000011, ("",), report("Small effusion."),
        "Small effusion.", "small effusion.", "Small effusion.", split="test",
    ),
    Study(
        "no labels", 12000012, ("PA",), report("Stable."),
        labels=None,
    ),
    Study(
        "small letters", 13000013, ("AP",), f"{HEAD} Impression: no acute findings.\n",
        "", "no acute findings.", "NO IMPRESSION",
    ),
    Study(
        "recommendation", 14000014, ("PA",),
        report("New nodule.\n \n RECOMMENDATION(S):  CT is recommended."),
        "New nodule.", "new nodule.", "New nodule.", {"Lung Lesion": "1.0"},
    ),
)  # fmt: skip


def plain(count: int, first: int = 15000015) -> tuple[Study, ...]:
    """As many patients without a trap, one frontal image each."""
    return tuple(
        Study(
            f"plain {i}", first + i, ("PA",), report(f"Edema {i}."), f"Edema {i}.", f"edema {i}.",
            f"Edema {i}.", {"Edema": "01"[i % 2] + ".0"}, ("train", "validate", "test")[i % 3],
        )
        for i in range(count)
    )  # fmt: skip


def write_tree(
    root: Path,
    studies: tuple[Study, ...] = STUDIES,
    *,
    packed: bool = True,
    files: bool = True,
    beside: bool = False,
    reports: Path | None = None,
    pictures: bool = True,
) -> Path:
    """packed: tables as .gz; files: below `files/`; beside: reports in the study's folder, else
    under the root `reports`."""
    inner = "files/" if files else ""
    meta: list[list[object]] = [["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows"]]
    split: list[list[object]] = [["dicom_id", "study_id", "subject_id", "split"]]
    chexpert: list[list[object]] = [["subject_id", "study_id", *LABELS]]
    for k, study in enumerate(studies):
        folder = root / inner / study.folder() / f"s{study.number}"
        folder.mkdir(parents=True)
        for i, view in enumerate(study.views):
            meta.append([study.dicom(i), study.subject, study.number, view, 200])
            split.append([study.dicom(i), study.number, study.subject, study.split])
            if pictures:
                Image.fromarray(picture(k + i)).save(folder / f"{study.dicom(i)}.jpg", quality=90)
        if study.labels is not None:
            values = [study.labels.get(label, "") for label in LABELS]
            chexpert.append([study.subject, study.number, *values])
        if study.report is not None:
            place = (reports / "files" if reports else root / inner) / study.folder()
            place = place / f"s{study.number}" if beside else place
            place.mkdir(parents=True, exist_ok=True)
            (place / f"s{study.number}.txt").write_text(study.report, encoding="utf-8")
    for name, rows in (("metadata", meta), ("split", split), ("chexpert", chexpert)):
        write_table(root / f"mimic-cxr-2.0.0-{name}.csv{'.gz' if packed else ''}", rows)
    return root


def write_table(path: Path, rows: list[list[object]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def image_path(root: Path, study: Study, index: int = 0) -> Path:
    return root / f"files/{study.folder()}/s{study.number}/{study.dicom(index)}.jpg"


@cache
def picture(seed: int) -> NDArray[np.uint8]:
    """uint8 [160, 128] or [128, 160], a phantom as MIMIC-CXR-JPG has its films: equalised."""
    grey = Image.fromarray(to_8bit(draw_phantom(0, seed % 4).pixels, "mimic-jpg"))
    return np.asarray(grey.resize((128, 160) if seed % 3 else (160, 128)))


if __name__ == "__main__":
    write_tree(Path(sys.argv[1]), STUDIES + plain(60))
