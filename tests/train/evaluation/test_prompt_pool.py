"""python -m pytest tests/train/evaluation/test_prompt_pool.py -- MedCLIP scores as MedCLIP does.

The expected logits are those of medclip 0.0.3's own PromptClassifier over prompts that its own
generator drew (tests/data/make_source_scores.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.conftest import DATA
from tests.data.make_source_scores import LABELS, PROMPTS
from tests.train import layouts
from tests.train.evaluation.drawn import tiny, write_pictures
from tier_infer.errors import UsageError
from tier_infer.evaluation.scores import read_scores
from tier_infer.label_sets import column_id, load_label_set
from tier_train.cli import main
from tier_train.evaluation.prompt_pool import PromptPoolScorer, draw_prompts

torch.set_num_threads(1)
TABLE: dict[str, Any] = json.loads((DATA / "source_scores.json").read_text())
SOURCE, SEED = TABLE["medclip"], TABLE["seed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("medclip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        files = layouts.write_source("medclip", folder / "published")
        imported = ["import", "medclip", *map(str, files), "-o", str(folder / "ckpt.pt")]
        assert CliRunner().invoke(main, imported).exit_code == 0
        shutil.rmtree(folder / "published")
        write_pictures(folder)
        yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("scoring", ["prompt-mean", "prompt-max"])
def test_scores_of_files_are_those_of_the_source(folder: Path, scoring: str) -> None:
    output = folder / scoring
    dataset = ["--dataset", f"manifest:{folder / 'manifest.csv'}", "--draws", "0"]
    drawn = ["--scoring", scoring, "--prompt-seed", str(SEED), "--threads", "1"]
    asked = ["evaluate", str(folder / "ckpt.pt"), *dataset, *drawn, "-o", str(output)]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    z = read_scores(output).z
    np.testing.assert_allclose(z, SOURCE[scoring], rtol=0, atol=1e-5)
    plan = json.loads((output / "plan.json").read_text())
    assert plan["geometry"] == "medclip-224"
    model = plan["model"]
    assert (model["scoring"], model["exported"]) == (scoring, False)
    assert (model["prompts"]["per_label"], model["prompts"]["seed"]) == (PROMPTS, SEED)


def test_the_draw_is_medclips_after_the_same_seed() -> None:
    drawn = draw_prompts(load_label_set("medclip"), PROMPTS, SEED)
    for name, label in zip(LABELS, drawn.labels, strict=True):
        assert label.id == column_id(name)
        assert list(label.positive) == SOURCE["prompts"][name]


def test_another_seed_draws_others_and_fewer_labels_draw_the_same() -> None:
    medclip = load_label_set("medclip")
    assert draw_prompts(medclip, PROMPTS, SEED + 1) != draw_prompts(medclip, PROMPTS, SEED)
    every = PromptPoolScorer([tiny()], ["a"], medclip, list(ids(medclip)), "cpu", "prompt-max")
    last = PromptPoolScorer([tiny()], ["a"], medclip, ["pleural_effusion"], "cpu", "prompt-max")
    pixels = layouts.crops(112)
    np.testing.assert_array_equal(every.scores(pixels)[:, 4:], last.scores(pixels))


def test_a_class_with_no_more_prompts_than_asked_has_all_in_order() -> None:
    medclip = load_label_set("medclip")
    for label, drawn in zip(medclip.labels, draw_prompts(medclip, 18, 0).labels, strict=True):
        if len(label.positive) <= 18:
            assert drawn.positive == label.positive
        else:
            assert len(drawn.positive) == 18
            assert set(drawn.positive) <= set(label.positive)
        assert drawn.negative == ()


def test_the_scale_is_clamped_and_the_digest_tells_the_draw() -> None:
    medclip = load_label_set("medclip")
    loud, louder = tiny(), tiny()
    loud.model.logit_scale.data.fill_(4.6052)
    louder.model.logit_scale.data.fill_(7.0)
    pixels = layouts.crops(112)
    scores = [
        PromptPoolScorer([c], ["a"], medclip, ["edema"], "cpu", "prompt-mean").scores(pixels)
        for c in (loud, louder)
    ]
    np.testing.assert_array_equal(*scores)
    one, other = (
        PromptPoolScorer([loud], ["a"], medclip, ["edema"], "cpu", "prompt-mean", 10, seed).identity
        for seed in (0, 1)
    )
    assert one["label_sets"] != other["label_sets"]
    assert one["prompts"]["drawn_from_sha256"] == other["prompts"]["drawn_from_sha256"]


def test_an_unknown_pool_is_refused() -> None:
    medclip = load_label_set("medclip")
    with pytest.raises(UsageError, match="prompt-mean or prompt-max"):
        PromptPoolScorer([tiny()], ["a"], medclip, ["edema"], "cpu", "prompt-median")


def ids(labels: Any) -> list[str]:
    return [label.id for label in labels.labels]
