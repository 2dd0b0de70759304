"""Studies and a bundle for the tests of overlays and reports, without a network or a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import Bundle, Manifest
from tier_infer.geometry import GEOMETRIES, Geometry, described
from tier_infer.report.page import Prompts, write_report
from tier_infer.scoring import ImageResult
from tier_infer.studies import StudyResult, study_scores

GEOMETRY = GEOMETRIES["tier-224-imagenet"]
LABELS = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
HOSTILE = "<script>document.title='taken'</script>\x1b[2J\udcff\u202e\"'&.dcm"
PROMPTS: Prompts = {
    label: ([f"{label.replace('_', ' ').capitalize()} is present."], ["The lungs are clear."])
    for label in LABELS
}


def film(height: int = 700, width: int = 600, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [height, width]: soft structure with the grain of a real film."""
    y, x = np.mgrid[:height, :width]
    soft = 120 + 80 * np.sin(x / 70) * np.cos(y / 90)
    grain = np.random.default_rng(seed).normal(0, 6, (height, width))
    return (soft + grain).clip(0, 255).astype(np.uint8)


def one_hot(row: int, column: int, z: float = 1.0, side: int = 7) -> NDArray[np.float32]:
    cells = np.zeros((side, side), np.float32)
    cells[row, column] = z
    return cells


def scored(
    path: str = "a.dcm", *flags: str, seed: int = 0, height: int = 700, side: int = 7
) -> ImageResult:
    rng = np.random.default_rng(seed)
    heat = rng.uniform(-1.2, 1.2, (len(LABELS), side, side)).astype(np.float32)
    image = ImageResult(path, flags=list(flags), view="PA", heat=heat)
    image.display = film(height, seed=seed)
    image.scores = {name: float(cells.mean()) for name, cells in zip(LABELS, heat, strict=True)}
    return image


def refused(path: str, status: str = "failed") -> ImageResult:
    return ImageResult(path, status, "decode", "the JPEG 2000 stream is damaged <b>here</b>")


def study(number: int, *images: ImageResult) -> StudyResult:
    return StudyResult(f"study-{number}", list(images), study_scores(list(images)))


def two_studies() -> list[StudyResult]:
    first = scored("one/a.dcm", "lossy", "polarity_suspect")
    second = scored(HOSTILE, seed=1, height=480)
    return [
        study(1, first, second, refused("c.dcm"), refused("README", "not_evaluated")),
        study(2, scored("d.dcm", "view_unknown", seed=2)),
    ]


def fake_bundle(
    name: str = "test <bundle>", geometry: Geometry = GEOMETRY, side: int = 7
) -> Bundle:
    manifest = Manifest(
        name=name,
        embed_dim=128,
        grid=(side, side),
        geometry=described(geometry),
        intensity="mimic-jpg",
        global_pool="norm_then_mean",
        graph={},
        views=("frontal",),
        files={"image_encoder.onnx": {"sha256": "e" * 64, "bytes": 1, "precision": "fp32"}},
        label_sets={"chexpert": {"path": "queries/chexpert.onnx", "sha256": "5" * 64}},
        default_set="chexpert",
        checkpoint=[{"sha256": "c" * 64, "recipe": {"name": "paper"}}],
        training_data="phantoms & films",
        parity={},
    )
    return Bundle(Path("bundle"), manifest)


def report(
    path: Path,
    studies: list[StudyResult] | None = None,
    geometry: Geometry = GEOMETRY,
    side: int = 7,
    **options: bool,
) -> str:
    given = two_studies() if studies is None else studies
    bundle = fake_bundle(geometry=geometry, side=side)
    write_report(path, given, bundle, ("cpu", "fp32"), PROMPTS, geometry, **options)
    return path.read_text(encoding="utf-8")
