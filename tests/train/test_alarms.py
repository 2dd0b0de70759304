"""python -m pytest tests/train/test_alarms.py -- what stops a run, and what it keeps then."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.children import half_fabric, make_folder, names, run, saved_step
from tier_infer.errors import UsageError
from tier_train import learner, train
from tier_train.alarms import collapse_alarm, refuse_divergence, refuse_overflow
from tier_train.learner import Learner
from tier_train.recipe import Recipe, recipe_from
from tier_train.record import Record
from tier_train.sampler import Batch
from tier_train.validation import Diverged

torch.set_num_threads(1)
LN_P = math.log(49)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without validation rows: nothing but the weights themselves tells that they are spoilt."""
    return make_folder(tmp_path_factory.mktemp("alarms") / "tiny", {"train": 16})


@pytest.mark.parametrize("where", ["weight", "moment", "statistic"])
def test_weights_that_are_no_numbers_are_not_saved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    real = Learner.step

    def step(self: Learner, batch: Batch) -> Tensor:
        loss = real(self, batch)
        if batch.step == 4:
            norm: Any = self.model.image.trunk.get_submodule("bn1")
            moments = list(self.optimizer.state_dict()["state"].values())
            spoilt = {
                "weight": self.model.logit_scale.data,
                "moment": moments[-1]["exp_avg"],
                "statistic": norm.running_var,
            }
            spoilt[where].fill_(math.nan)
        return loss

    monkeypatch.setattr(Learner, "step", step)
    changes = {"steps": 4, "validate_every": 2, "keep_best": 0}
    with pytest.raises(Diverged, match=r"diverged at step 4: .* is not finite; lower lr"):
        run(folder, tmp_path / "x.pt", changes)
    assert names(tmp_path) == ["x.metrics.part.csv", "x.state.pt"]
    assert saved_step(tmp_path / "x.pt") == 2


def test_a_run_whose_every_step_overflows_has_diverged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "launch", lambda device, precision: half_fabric(2.0**40))
    with pytest.raises(Diverged, match=r"overflow fp16 down to a scale of .*precision=bf16"):
        run(folder, tmp_path / "x.pt", {"steps": 2})
    assert names(tmp_path) == []


def test_a_scale_tells_of_skipped_steps() -> None:
    refuse_overflow(2.0**16, 2.0**14, 2, last=False)  # how every run may begin
    refuse_overflow(2.0**16, 2.0**14, 3, last=True)  # one of the three moved the weights
    refuse_overflow(math.nan, math.nan, 2, last=True)  # nothing is scaled
    refuse_overflow(4.0, 1.0, 5, last=False)
    with pytest.raises(Diverged, match=r"a scale of 16384; lower lr"):
        refuse_overflow(2.0**16, 2.0**14, 2, last=True)
    with pytest.raises(Diverged, match=r"a scale of 0\.5"):
        refuse_overflow(4.0, 0.5, 5, last=False)


def test_a_full_gpu_is_told_what_to_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(learner, "backward", full)
    with pytest.raises(UsageError, match=r"step 1 doesn't fit .* micro_batch=N .* precision=bf16"):
        run(folder, tmp_path / "x.pt", {})


def test_the_last_step_is_told_of_though_another_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "tiny", {"train": 16, "val": 8})
    monkeypatch.setattr(train, "collapse_alarm", lambda *at: "all alike" if at[-1] == 2 else "")
    lines: list[str] = []
    offered = Record.validated

    def validated(self: Record, *args: Any) -> None:  # the first is the best
        result = args[-2]._replace(loss=float(self.step))
        offered(self, *args[:-2], result, args[-1])

    monkeypatch.setattr(Record, "validated", validated)
    changes = {"steps": 2, "validate_every": 1, "keep_best": 1, "select_by": "val_loss"}
    checkpoint = run(folder, tmp_path / "x.pt", changes, say=lines.append)
    assert (checkpoint.training["step"], checkpoint.alarm) == (1, "")
    assert lines[-1] == "collapse alarm at the last step, -o holds an earlier one: all alike"


@pytest.mark.parametrize(
    ("clip", "entropy", "step", "words"),
    [
        (1.0, 3.7, 50, ""),
        (math.log(32), 3.7, 50, "CLIP loss .* guessing, ln 32 = 3.466"),
        (math.log(32) - 0.004, 3.7, 50, "CLIP loss"),
        (math.log(32) - 0.006, 3.7, 50, ""),
        (1.0, LN_P, 50, "patch entropy .* ln 49 = 3.8918"),
        (1.0, LN_P - 0.0011, 50, ""),
        (math.log(32), LN_P, 10, ""),  # still warming up
        (math.log(32), LN_P, 11, "CLIP loss"),
    ],
)
def test_the_collapse_alarm(clip: float, entropy: float, step: int, words: str) -> None:
    recipe = Recipe(steps=100, warmup=0.1, batch_size=32)
    alarm = collapse_alarm(clip, entropy, recipe, step)
    assert bool(alarm) == bool(words)
    assert re.search(words, alarm)


def test_the_collapse_alarm_knows_the_grid() -> None:
    recipe = recipe_from({"geometry": "biovil-480-raw", "arch": "resnet50", "steps": 100})
    assert "ln 225 = 5.4161" in collapse_alarm(1.0, math.log(225), recipe, 50)
    assert collapse_alarm(1.0, LN_P, recipe, 50) == ""


def test_divergence_names_its_step() -> None:
    fine, bad = torch.ones(4), torch.tensor([math.nan, 1, 1, 1])
    refuse_divergence([fine, bad], 7, now=False)  # the device is not waited for
    with pytest.raises(Diverged, match="diverged at step 7"):
        refuse_divergence([fine, bad], 7, now=True)
    with pytest.raises(Diverged, match="diverged at step 7"):
        refuse_divergence([fine, bad, fine], 8, now=False)


def test_the_margin_shrinks_with_the_temperature() -> None:
    """Cosines of any trained network, −0.2 to 0.8, at T = 10: near ln P, and no collapse."""
    recipe = recipe_from({"entropy_temperature": 10.0, "steps": 100})
    log_p = torch.log_softmax(torch.linspace(-0.2, 0.8, 49, dtype=torch.float64) / 10, 0)
    entropy = float(-(log_p.exp() * log_p).sum())
    assert LN_P - entropy < 1e-3
    assert collapse_alarm(1.0, entropy, recipe, 50) == ""
    assert "patch entropy" in collapse_alarm(1.0, LN_P - 0.9e-5, recipe, 50)


def test_a_constant_rate_has_no_warm_up_to_wait_for() -> None:
    recipe = Recipe(steps=100, warmup=0.1, batch_size=32, schedule="constant")
    assert "CLIP loss" in collapse_alarm(math.log(32), 3.7, recipe, 10)
