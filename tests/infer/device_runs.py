"""Machines to ask for devices on: a bundle and a study made in code, with or without a driver."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from tests.infer.dicom_files import dx, film, write
from tests.infer.tiny_bundle import write_bundle
from tier_infer import devices

NO_GPU = ["there is no NVIDIA device node", "the driver library libcuda.so.1 can't be loaded"]


def make_folder(place: Path) -> Path:
    """bundle/, study.dcm and labels.csv."""
    write_bundle(place / "bundle", "small-112")
    write(dx(film()), place / "study.dcm")
    (place / "labels.csv").write_text("image_path,bright\nstudy.dcm,1\n")
    return place


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "obstacles", lambda: NO_GPU)


def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if one offered a GPU."""
    monkeypatch.setattr(devices, "obstacles", list)


def cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
