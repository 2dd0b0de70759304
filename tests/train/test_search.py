"""python -m pytest tests/train/test_search.py -- the search for the lambdas: ranks and kills."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.bright import read_rows
from tests.train.fake_search import contents, fake_dataset, fake_search, fake_train
from tier_infer.errors import UsageError
from tier_train import search as module
from tier_train.data.dataset import Dataset, Row
from tier_train.recipe import Recipe, recipe_from
from tier_train.search import Trial, draw_pairs, ranked, search, winner
from tier_train.validation import Diverged


class Killed(BaseException):
    """kill -9, as far as Python can see it."""


def test_pairs_are_drawn_by_the_seed_and_more_of_them_begin_alike() -> None:
    many = draw_pairs(500, 0)
    assert draw_pairs(20, 0) == many[:20]
    assert draw_pairs(20, 1) != many[:20]
    values = np.array(many)
    assert ((values > 0) & (values < 1)).all()
    assert np.abs(values.mean(0) - 0.5).max() < 4 * math.sqrt(1 / 12 / 500)
    assert len(set(many)) == 500
    assert all(len(repr(value)) <= 6 for pair in many for value in pair), "exact on a command line"


def _trial(pair: int, area: float) -> Trial:
    return Trial(pair, 0.1, 0.2, area, {}, {}, "")


def test_the_best_pair_wins_and_the_reference_does_not_count() -> None:
    areas = [0.9, 0.7, math.nan, 0.8, 0.8]
    trials = [_trial(pair, area) for pair, area in enumerate(areas)]
    assert [t.pair for t in ranked(trials[::-1])] == [0, 3, 4, 1, 2]
    best = winner(trials)
    assert best is not None
    assert best.pair == 3
    assert winner([trials[0], trials[2]]) is None


def test_what_collapsed_is_ranked_after_all_others() -> None:
    flat = replace(_trial(1, 0.9), alarm="patch entropy 3.89 is that of equal patches")
    trials = [_trial(0, 0.5), flat, _trial(2, 0.6), _trial(3, math.nan)]
    assert [t.pair for t in ranked(trials)] == [2, 0, 1, 3]
    best = winner(trials)
    assert best is not None
    assert best.pair == 2


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that were trained with, in their order."""
    recipes: list[Recipe] = []

    def train(dataset: Dataset, recipe: Recipe, output: Path, **rest: Any) -> Any:
        recipes.append(recipe)
        return fake_train(dataset, recipe, output, **rest)

    monkeypatch.setattr(module, "train", train)
    return recipes


def test_the_table_is_ranked_and_only_the_best_checkpoint_is_left(
    trained: list[Recipe], tmp_path: Path
) -> None:
    trials = fake_search(tmp_path / "search", epochs=2)
    assert [(r.lambda_patch, r.lambda_token) for r in trained] == [(0, 0), *draw_pairs(4, 0)]
    assert {(r.epochs, r.validate_every, r.keep_best) for r in trained} == {(2, 0, 0)}
    expected = sorted(range(5), key=lambda i: -_area(trained[i]))
    assert [trial.pair for trial in trials] == expected
    rows = read_rows(tmp_path / "search/search.csv")
    assert [int(row["pair"]) for row in rows] == expected
    counted = [row for row in rows if row["pair"] != "0"]
    assert [row["rank"] for row in counted] == ["1", "2", "3", "4"]
    assert [row["rank"] for row in rows if row["pair"] == "0"] == ["reference"]
    for row in rows:
        ours = trained[int(row["pair"])]
        assert float(row["lambda_patch"]) == ours.lambda_patch
        assert float(row["lambda_token"]) == ours.lambda_token
        assert float(row["val_auc"]) == float(row["auc_edema"]) == _area(ours)
        assert float(row["patch_entropy"]) == 3 + _area(ours), "of the last step"
        assert (row["val_loss"], row["token_entropy"], row["seconds"]) == ("0.5", "2.5", "7.0")
    best = int(counted[0]["pair"])
    assert [p.name for p in (tmp_path / "search").glob("*.pt")] == [f"pair-{best:02d}.pt"]
    assert len(list((tmp_path / "search").glob("*.metrics.csv"))) == 5


def _area(recipe: Recipe) -> float:
    return 0.9 - abs(recipe.lambda_patch - 0.5) - 0.1 * recipe.lambda_token


def test_what_is_asked_reaches_the_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []

    def train(dataset: Dataset, recipe: Recipe, output: Path, **rest: Any) -> Any:
        seen.append(rest)
        return fake_train(dataset, recipe, output, **rest)

    monkeypatch.setattr(module, "train", train)
    other = fake_dataset("3" * 64)
    fake_search(tmp_path / "search", 1, validation=other, skip_bad=True, device="cpu")
    asked = {"validation": other, "skip_bad": True, "device": "cpu", "resume": False}
    assert [{key: rest[key] for key in asked} for rest in seen] == [asked, asked]


def test_a_finished_search_trains_nothing_and_more_pairs_only_add(
    trained: list[Recipe], tmp_path: Path
) -> None:
    first = fake_search(tmp_path / "few")
    before = contents(tmp_path / "few")
    assert fake_search(tmp_path / "few") == first
    assert (contents(tmp_path / "few"), len(trained)) == (before, 5)
    grown = fake_search(tmp_path / "few", 7)
    assert len(trained) == 8
    assert grown == fake_search(tmp_path / "all", 7)
    assert contents(tmp_path / "few") == contents(tmp_path / "all")


def _mortal(monkeypatch: pytest.MonkeyPatch, names: list[str], last: int) -> list[str]:
    """Kills at the `last` of all moments before and after a call of these functions."""
    moments: list[str] = []

    def tick(name: str) -> None:
        moments.append(name)
        if len(moments) == last:
            raise Killed

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick(f"before {name}")
            value = function(*args, **kwargs)
            tick(f"after {name}")
            return value

        return call

    for name in names:
        monkeypatch.setattr(module, name, wrapped(name, getattr(module, name)))
    return moments


def test_killed_at_any_moment_it_ends_at_the_same_table(
    trained: list[Recipe], tmp_path: Path
) -> None:
    fake_search(tmp_path / "whole", 3)
    names = ["train", "write", "drop_losers", "write_atomic"]
    moments = 1
    for last in range(1, 100):
        with pytest.MonkeyPatch.context() as patch:
            seen = _mortal(patch, names, last)
            try:
                fake_search(tmp_path / f"{last}", 3)
                break
            except Killed:
                moments += 1
        fake_search(tmp_path / f"{last}", 3)
        assert contents(tmp_path / f"{last}") == contents(tmp_path / "whole"), seen[-1]
    # four pairs: search.json, then per pair a training, the table with its file, the losers
    assert moments == 1 + 2 + 4 * (2 + 4 + 2)


def test_what_diverges_is_last_and_does_not_end_the_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[float] = []

    def train(dataset: Dataset, recipe: Recipe, output: Path, **rest: Any) -> Any:
        calls.append(recipe.lambda_patch)
        if recipe.lambda_patch == draw_pairs(2, 0)[1][0]:
            output.with_name(f"{output.stem}.state.pt").write_text("state")
            raise Diverged("training diverged at step 3; lower lr")
        return fake_train(dataset, recipe, output, **rest)

    monkeypatch.setattr(module, "train", train)
    trials = fake_search(tmp_path / "search")
    assert (trials[-1].pair, trials[-1].alarm) == (2, "training diverged at step 3; lower lr")
    assert math.isnan(trials[-1].val_auc)
    again = fake_search(tmp_path / "search")
    assert [t.pair for t in again] == [t.pair for t in trials]
    assert len(calls) == 5
    assert not list((tmp_path / "search").glob("*.state.pt"))


def test_nothing_is_said_of_an_option_that_search_has_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The sentences of training (train.py, state.py), as a search must say them."""

    def train(*_: Any, say: Callable[[str], None], **__: Any) -> Any:
        say("interrupted in step 3; --resume continues after step 2")
        raise UsageError("make room, then continue from step 2 with --resume")

    monkeypatch.setattr(module, "train", train)
    said: list[str] = []
    with pytest.raises(UsageError, match="from step 2 with the same command"):
        search(fake_dataset(), recipe_from({}), tmp_path / "search", say=said.append)
    assert said[-1] == "interrupted in step 3; the same command continues after step 2"


@pytest.mark.parametrize("values", [(), (1, 1), (0,)])
def test_validation_images_that_rank_nothing_are_refused(
    trained: list[Recipe], tmp_path: Path, values: tuple[int, ...]
) -> None:
    rows = tuple(Row(f"{i}", "val", "", {"Edema": v}, i) for i, v in enumerate(values))
    others = (Row("a", "train", "", {"Edema": 0}, 7), Row("b", "train", "", {"Edema": 1}, 8))
    with pytest.raises(
        UsageError, match="can't be ranked; name labelled images with --validate-on"
    ):
        fake_search(tmp_path / "search", dataset=replace(fake_dataset(), rows=(*rows, *others)))
    assert not (tmp_path / "search").exists()
    with pytest.raises(UsageError, match="can't be ranked"):  # only validation= counts then
        fake_search(tmp_path / "search", validation=replace(fake_dataset(), rows=rows))
