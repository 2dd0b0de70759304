"""python -m pytest tests/train/evaluation/test_softmax.py -- CheXzero scores as CheXzero does.

The expected scores are those of CLIP's own classes under CheXzero's procedure, pixels included
(tests/data/make_source_scores.py).
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from tests.conftest import DATA
from tests.data.make_source_scores import second_member
from tests.train import layouts
from tests.train.evaluation.drawn import tiny, write_pictures
from tier_infer.errors import UsageError
from tier_infer.evaluation.scores import read_scores
from tier_infer.files import sha256_of
from tier_infer.label_sets import load_label_set
from tier_train.cli import main
from tier_train.evaluation.members import check_prompts
from tier_train.evaluation.softmax import SoftmaxScorer
from tier_train.towers.clip_text import ClipTokenizer

torch.set_num_threads(1)
SOURCE: dict[str, Any] = json.loads((DATA / "source_scores.json").read_text())["chexzero"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """b.pt and a.pt, the first and second member, and manifest.csv."""
    folder = tmp_path_factory.mktemp("chexzero")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        first = layouts.state_of("chexzero")
        for name, state in (("b", first), ("a", first | second_member())):
            files = layouts.write_source("chexzero", folder / name, state)
            imported = ["import", "chexzero", *map(str, files), "-o", str(folder / f"{name}.pt")]
            assert CliRunner().invoke(main, imported).exit_code == 0
            shutil.rmtree(folder / name)
        write_pictures(folder)
        yield folder
    shutil.rmtree(folder)  # more than a gigabyte


def scores(folder: Path, names: list[str], *options: str) -> tuple[NDArray[np.float32], Any]:
    """[4, 5] of scores.csv and the plan beside it."""
    output = folder / "-".join((*names, *options))
    dataset = ["--dataset", f"manifest:{folder / 'manifest.csv'}", "--draws", "0"]
    paths = [str(folder / f"{name}.pt") for name in names]
    result = CliRunner().invoke(
        main, ["evaluate", *paths, *dataset, "-o", str(output), *options, "--threads", "1"]
    )
    assert result.exit_code == 0, result.output
    return read_scores(output).z, json.loads((output / "plan.json").read_text())


def test_scores_of_files_are_those_of_the_source_procedure(folder: Path) -> None:
    z, plan = scores(folder, ["b", "a"], "--scoring=softmax")
    np.testing.assert_allclose(z, SOURCE["softmax"], rtol=0, atol=1e-5)
    assert np.ptp(SOURCE["softmax"], axis=0).min() > 1e-3, "pictures score alike"
    assert plan["model"]["exported"] is False
    assert plan["model"]["scoring"] == "softmax"
    assert plan["geometry"] == "chexzero-320pad-224"
    digests = [sha256_of(folder / f"{name}.pt") for name in "ab"]
    assert plan["model"]["checkpoints"] == digests, "members count in the order of their paths"


def test_a_label_without_negatives_is_refused() -> None:
    with pytest.raises(UsageError, match=r"edema of set medclip has no negative prompt"):
        SoftmaxScorer([tiny()], ["b.pt"], load_label_set("medclip"), ["edema"], "cpu")


def test_a_prompt_of_more_than_77_tokens_is_refused_as_chexzero_does() -> None:
    tokenizer = ClipTokenizer(list(itertools.islice(layouts.merges(), 100)))
    check_prompts(tokenizer, ["pleural effusion"])
    with pytest.raises(UsageError, match=r"tokens, allowed 77"):
        check_prompts(tokenizer, ["edema " * 80])
    with pytest.raises(UsageError, match=r"can't read all of"):
        check_prompts(tokenizer, ["no <|endoftext|> edema"])
