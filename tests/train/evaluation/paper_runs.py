"""Runs of `tier-train reproduce` on the drawn trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

from tests.train.evaluation.paper_trees import (
    FIVE,
)
from tier_infer.label_sets import column_id
from tier_train.cli import main

torch.set_num_threads(1)
IDS = tuple(map(column_id, FIVE))
OURS = ("regularized", "unregularized", "chexzero", "medclip", "biovil", "supervised")
IMPORTED = {"chexzero": "chexzero", "medclip": "medclip", "biovil": "chexpert"}  # → prompts
TEST = 52  # images, two to a study: enough positives for intervals


def reproduce(folder: Path, table: str, output: str, *arguments: str) -> Result:
    """Arguments that begin with @ are files of the folder."""
    asked = [str(folder / a[1:]) if a.startswith("@") else a for a in arguments]
    fixed = ["-o", str(folder / output), "--draws", "20", "--threads", "1"]
    return CliRunner().invoke(main, ["reproduce", table, *fixed, *asked])


def rows_given(*names: str) -> list[str]:
    return [word for name in names for word in (f"--{name}", f"@{name}.pt")]


def chexpert(folder: Path) -> list[str]:
    return ["--dataset", f"chexpert:{folder / 'chexpert'}"]


def of(found: dict[str, Any], protocol: int = 0) -> dict[str, Any]:
    return {row["row"]: row for row in found["protocols"][protocol]["rows"]}
