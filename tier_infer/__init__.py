"""The runtime: DICOM in, scores out, without PyTorch.

bundle = load_bundle(Path("bundle"))
engine = Engine(bundle, device="cpu")
selection = select_labels(bundle, ["cardiomegaly", "edema"])
studies = group_studies(score_images(["study.dcm"], bundle, engine, selection))
"""

from __future__ import annotations

from tier_infer.bundle import load_bundle
from tier_infer.engine import Engine
from tier_infer.errors import TierError
from tier_infer.scoring import score_images, select_labels
from tier_infer.studies import group_studies

__all__ = [
    "Engine",
    "TierError",
    "group_studies",
    "load_bundle",
    "score_images",
    "select_labels",
]
