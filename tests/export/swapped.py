"""A label set to add, the command that adds it, and what its directions are by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from tier_export.cli import main
from tier_infer.bundle import sha256
from tier_train.checkpoint import Checkpoint

LUNGS = """
set = "lungs"
negative = ["The lungs are clear."]
[[label]]
id = "wet"
name = "Wet lung"
names = { de = "Nasse Lunge" }
positive = ["Edema is present.", "A pleural effusion is present."]
codes = { SNOMED = "19242006" }
[[label]]
id = "heart"
positive = ["The heart shadow is enlarged."]
negative = []
"""


def labels(folder: Path, *args: object) -> Result:
    result = CliRunner().invoke(main, ["labels", "--bundle", str(folder), *map(str, args)])
    assert "Traceback" not in result.output
    return result


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): sha256(p.read_bytes()) for p in files}


def in_float64(checkpoint: Checkpoint, positive: list[str], negative: list[str]) -> NDArray[Any]:
    """q⁺ − q⁻ by hand: the unit mean of the unit [CLS] embeddings."""

    def side(sentences: list[str]) -> NDArray[Any]:
        rows = []
        for sentence in sentences:
            ids, mask = checkpoint.tokenizer([sentence])
            with torch.no_grad():
                row = checkpoint.model.encode_text(ids, mask)[0, 0].double().numpy()
            rows.append(row / np.linalg.norm(row))
        mean = np.mean(rows, axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    return side(positive) - (side(negative) if negative else 0)
