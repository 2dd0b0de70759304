"""Phantoms as files: a folder of DICOM images with manifest.csv, read like any other dataset.

Every file says in its header what it is: a drawing, no patient.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from tier_infer.errors import UsageError
from tier_infer.files import write_atomic
from tier_infer.pictures import OWN_SOFTWARE
from tier_train.phantoms.impressions import write_impression
from tier_train.phantoms.phantom import FINDINGS, Mask, Phantom, draw_phantom

COLUMNS = ("image_path", "patient_id", "split", "intensity", "text", *FINDINGS)
STUDY_INDEX = 10_000_000  # phantoms of study.dcm: beyond any training or test index


def write_phantoms(
    folder: Path, seed: int, counts: dict[str, int], workers: int = 0, masks: bool = False
) -> Path:
    """counts: images per split. Writes images/*.dcm, study.dcm and, last, manifest.csv; with
    `masks` also masks/LABEL/images/*.png of every finding that is present."""
    manifest = folder / "manifest.csv"
    for path in (manifest, folder / "study.dcm", folder / "images", folder / "masks"):
        if path.exists():
            unfinished = "" if manifest.exists() else " from a run that did not finish"
            raise UsageError(
                f"{path} exists already{unfinished}; delete it or choose another folder with -o"
            )
    try:
        (folder / "images").mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"-o {folder} can't be made ({error.strerror})") from None
    splits = [split for split, count in counts.items() for _ in range(count)]
    jobs = list(enumerate(splits))
    task = partial(_write_one, folder, seed, masks)
    context = multiprocessing.get_context("spawn")  # the caller may have threads
    with ProcessPoolExecutor(workers or os.cpu_count(), context) as pool:
        rows = list(pool.map(task, jobs, chunksize=32))
    write_study(folder / "study.dcm", seed, 0)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(manifest, buffer.getvalue().encode())
    return manifest


def write_study(path: Path, seed: int, number: int, study: int = 0) -> Phantom:
    """One phantom that no split holds; equal `study` numbers share a StudyInstanceUID."""
    phantom = draw_phantom(seed, STUDY_INDEX + number)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_dicom(phantom, f"{seed} study {study}", f"{seed} study {study} {number}").save_as(
        path, enforce_file_format=True
    )
    return phantom


def _write_one(folder: Path, seed: int, masks: bool, job: tuple[int, str]) -> dict[str, object]:
    index, split = job
    phantom = draw_phantom(seed, index)
    name = f"images/phantom-{index:05d}.dcm"
    to_dicom(phantom, f"{seed} {index}", f"{seed} {index}").save_as(
        folder / name, enforce_file_format=True
    )
    for label, mask in phantom.masks.items() if masks else ():
        write_atomic(folder / f"masks/{label}/images/phantom-{index:05d}.png", mask_png(mask))
    text = write_impression(phantom.findings, np.random.default_rng([seed, index, 1]))
    row: dict[str, object] = {"image_path": name, "patient_id": f"phantom-{index}", "split": split}
    row |= {"text": text, "intensity": "mimic-jpg"}
    return row | phantom.labels


def mask_png(mask: Mask) -> bytes:
    """255 inside, 0 outside; marked as ours, so that it is never scored as a film."""
    marks = PngInfo()
    marks.add_text("Software", OWN_SOFTWARE)
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", pnginfo=marks)
    return buffer.getvalue()


def to_dicom(phantom: Phantom, study: str, instance: str) -> Dataset:
    """A DX image FOR PRESENTATION, 12 bits stored, MONOCHROME2 (PS3.3 A.26, C.8.11).

    UIDs are derived from the two words, so the same phantom is the same file.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["tier-cxr image", instance])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["tier-cxr study", study])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["tier-cxr series", study])
    ds.PatientName, ds.PatientID = "PHANTOM", "PHANTOM"
    ds.PatientOrientation = ["L", "F"]
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "PA"
    ds.PresentationIntentType, ds.PresentationLUTShape = "FOR PRESENTATION", "IDENTITY"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ImageComments = "Computer drawing of a chest, not a patient, without clinical meaning"
    ds.Rows, ds.Columns = phantom.pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope = "0", "1"
    ds.PixelData = phantom.pixels.astype("<u2").tobytes()
    return ds
