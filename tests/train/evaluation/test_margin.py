"""python -m pytest tests/train/evaluation/test_margin.py -- Z of checkpoints: eq. 3 and 4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.train import layouts
from tests.train.evaluation.drawn import tiny
from tier_infer.errors import DeviceError, UsageError
from tier_infer.label_sets import LabelSet, load_label_set
from tier_train.checkpoint import Checkpoint
from tier_train.evaluation.margin import MarginScorer
from tier_train.evaluation.members import check_device

torch.set_num_threads(1)
CHEXPERT = load_label_set("chexpert")
ASKED = ["edema", "atelectasis"]
PIXELS = layouts.crops(112)


def embedded(checkpoint: Checkpoint, prompts: tuple[str, ...]) -> NDArray[np.float64]:
    """eq. 3 in float64: unit-norm embeddings of each prompt alone, their mean, unit norm again."""
    rows = []
    for prompt in prompts:
        with torch.no_grad():
            ids, mask = checkpoint.tokenizer([prompt])
            rows.append(checkpoint.model.encode_text(ids, mask)[0, 0].double().numpy())
    mean = np.mean([row / np.linalg.norm(row) for row in rows], axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def table_of(checkpoint: Checkpoint, labels: LabelSet) -> NDArray[np.float64]:
    found = {x.id: embedded(checkpoint, x.positive) - embedded(checkpoint, x.negative)
             for x in labels.labels}  # fmt: skip
    return np.stack([found[label] for label in ASKED], axis=1)  # [D, L]


def encoded(checkpoint: Checkpoint) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with torch.no_grad():
        image_e, patch_e = checkpoint.model.encode_image(torch.from_numpy(PIXELS))
    return image_e.double().numpy(), patch_e.flatten(1, 2).double().numpy()


def test_an_ensemble_scores_the_mean_margin() -> None:
    members = [tiny(seed) for seed in (0, 1, 2)]
    scorer = MarginScorer(members, ["a", "b", "c"], CHEXPERT, ASKED, "cpu")
    expected = np.mean([encoded(c)[0] @ table_of(c, CHEXPERT) for c in members], axis=0)
    np.testing.assert_allclose(scorer.scores(PIXELS), expected, rtol=0, atol=1e-6)
    assert np.abs(expected).max() > 1e-3
    assert scorer.labels == tuple(ASKED)
    assert scorer.scores(PIXELS).dtype == np.float32


def test_patch_scores_are_pooled_after_the_mean_over_members() -> None:
    """As one exported graph of K checkpoints does."""
    members = [tiny(seed) for seed in (0, 1)]
    pooled = load_label_set("chexpert@top_k=3", pooled=True)
    z = MarginScorer(members, ["a", "b"], pooled, ASKED, "cpu").scores(PIXELS)
    cells = np.mean([encoded(c)[1] @ table_of(c, CHEXPERT) for c in members], axis=0)  # [N, P, L]
    expected = np.sort(cells, axis=1)[:, -3:].mean(axis=1)
    np.testing.assert_allclose(z, expected, rtol=0, atol=1e-6)


def test_identity_names_model_prompts_and_training_data() -> None:
    identity = MarginScorer([tiny()], ["a"], CHEXPERT, ASKED, "cpu").identity
    assert identity["training"] == [{"data": "drawn", "sha256": "0" * 64}]
    assert (identity["scoring"], identity["exported"], identity["device"]) == (
        "margin",
        True,
        "cpu",
    )
    released = MarginScorer([tiny()], ["a"], load_label_set("released_code"), ASKED, "cpu").identity
    assert identity["label_sets"] != released["label_sets"]


@pytest.mark.parametrize(
    "changes",
    [{"geometry": "tier-224-imagenet", "arch": "resnet50"}, {"intensity": "mimic-jpg"}],
    ids=["geometry", "intensity"],
)
def test_members_that_see_other_images_are_refused(changes: dict[str, str]) -> None:
    members = [tiny(), tiny(**changes)]  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a\.pt and b\.pt can't be one ensemble"):
        MarginScorer(members, ["a.pt", "b.pt"], CHEXPERT, ASKED, "cpu")


def test_labels_are_the_sets_own() -> None:
    scorer = MarginScorer([tiny()], ["a"], CHEXPERT, ["Pleural Effusion", "chexpert:edema"], "cpu")
    assert scorer.labels == ("pleural_effusion", "edema")
    with pytest.raises(UsageError, match=r"'nodule' is not in label set chexpert; it has atelect"):
        MarginScorer([tiny()], ["a"], CHEXPERT, ["edema", "nodule"], "cpu")


def test_a_sentence_beyond_the_text_tower_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(f'set = "x"\n[[label]]\nid = "edema"\npositive = ["{"edema " * 200}"]\n')
    with pytest.raises(UsageError, match=r"has \d+ tokens, allowed 128"):
        MarginScorer([tiny()], ["a"], load_label_set(str(path)), ["edema"], "cpu")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="torch sees no CUDA device"):
        check_device("cuda")
    with pytest.raises(UsageError, match="allowed: cpu, cuda"):
        check_device("auto")
