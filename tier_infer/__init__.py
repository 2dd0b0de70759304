"""The runtime: DICOM in, scores out, without PyTorch.

bundle = load_bundle(Path("bundle"))
engine = Engine(bundle, device="cpu")
selection = select_labels(bundle, ["cardiomegaly", "edema"])
studies = group_studies(score_images(["study.dcm"], bundle, engine, selection))
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tier_infer.bundle import load_bundle
    from tier_infer.engine import Engine
    from tier_infer.errors import TierError
    from tier_infer.scoring import score_images, select_labels
    from tier_infer.studies import group_studies

# Since 1.32 onnxruntime keeps a device id and a queue of events for its maker in the user's home.
# Nothing leaves a hospital unasked; it is read when onnxruntime is imported, so it is said here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = [
    "Engine",
    "TierError",
    "group_studies",
    "load_bundle",
    "score_images",
    "select_labels",
]
HOMES = {
    "Engine": "engine",
    "TierError": "errors",
    "group_studies": "studies",
    "load_bundle": "bundle",
    "score_images": "scoring",
    "select_labels": "scoring",
}


def __getattr__(name: str) -> Any:
    """Loaded when asked for: `--help`, and the child that reads files, need none of it."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
