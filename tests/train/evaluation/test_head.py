"""python -m pytest tests/train/evaluation/test_head.py -- a supervised network's logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.train import layouts
from tests.train.evaluation.drawn import write_supervised
from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.evaluation.head import HeadScorer
from tier_train.supervised_cnn import Supervised, load_supervised, predict

torch.set_num_threads(1)
OUTPUTS = ("cardiomegaly", "edema", "atelectasis")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Supervised:
    return load_supervised(write_supervised(tmp_path_factory.mktemp("cnn") / "cnn.pt", OUTPUTS))


def test_scores_are_the_networks_logits_by_label(trained: Supervised) -> None:
    scorer = HeadScorer(trained, ["atelectasis", "Cardiomegaly"], "cpu")
    pixels = np.concatenate([layouts.crops(112, seed) for seed in range(40)])  # more than a batch
    logits = predict(trained.model, list(pixels), GEOMETRIES["small-112"])  # type: ignore[arg-type]
    np.testing.assert_allclose(scorer.scores(pixels), logits[:, [2, 0]], rtol=0, atol=1e-6)
    assert scorer.labels == ("atelectasis", "cardiomegaly")


def test_it_says_that_no_bundle_computes_it(trained: Supervised) -> None:
    scorer = HeadScorer(trained, OUTPUTS, "cpu")
    assert (scorer.identity["scoring"], scorer.identity["exported"]) == ("head", False)
    assert scorer.identity["checkpoints"] == [trained.sha256]
    assert scorer.presets.views == ("frontal",)
    assert scorer.presets.intensity == "minmax"


def test_a_label_that_it_does_not_know_is_refused(trained: Supervised) -> None:
    with pytest.raises(UsageError, match=r"'nodule' is no output .* cardiomegaly, edema, atelect"):
        HeadScorer(trained, ["edema", "nodule"], "cpu")
