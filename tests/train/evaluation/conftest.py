"""What the tests of the paper's tables share: files for every row, and Table 1 of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from tests.train.evaluation.drawn import write_supervised, write_tiny
from tests.train.evaluation.paper_runs import (
    IDS,
    IMPORTED,
    OURS,
    TEST,
    chexpert,
    reproduce,
    rows_given,
)
from tests.train.evaluation.paper_trees import (
    write_chexpert,
    write_covid,
    write_padchest,
)

torch.set_num_threads(1)


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The three trees, regularized.pt, second.pt of its kind, and a file for every other row."""
    folder = tmp_path_factory.mktemp("paper")
    write_chexpert(folder / "chexpert", TEST)
    write_padchest(folder / "padchest")
    write_covid(folder / "covid")
    write_tiny(folder / "regularized.pt", 0)
    write_tiny(folder / "second.pt", 1)
    write_tiny(folder / "unregularized.pt", 2, lambda_patch=0.0, lambda_token=0.0)
    for seed, (source, prompts) in enumerate(IMPORTED.items(), start=3):
        write_tiny(folder / f"{source}.pt", seed, source=source, prompts=prompts)
    write_supervised(folder / "supervised.pt", IDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield folder


@pytest.fixture(scope="package")
def everything(folder: Path) -> tuple[Result, dict[str, Any]]:
    decisions = ["--validation", "valid", "--radiologists", "@chexpert/readers"]
    ensemble = ["--regularized", "@second.pt"]
    asked = [*chexpert(folder), *decisions, *rows_given(*OURS), *ensemble]
    result = reproduce(folder, "table1", "all", *asked)
    assert result.exit_code == 0, result.output
    return result, json.loads((folder / "all/table1.json").read_text())
