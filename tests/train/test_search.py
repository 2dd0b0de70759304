"""python -m pytest tests/train/test_search.py -- the search for the lambdas: ranks and kills."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.train.bright import read_rows
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


def _dataset(sha256: str = "0" * 64) -> Dataset:
    rows = tuple(Row(f"{i}.png", "val", "", {"Edema": i}, i + 2) for i in range(2))
    return Dataset(Path("m.csv"), "m", rows, ("Edema",), "minmax", ("frontal",), sha256)


def _train(dataset: Dataset, recipe: Recipe, output: Path, **_: Any) -> Any:
    """The AUC is a function of the lambdas."""
    area = 0.9 - abs(recipe.lambda_patch - 0.5) - 0.1 * recipe.lambda_token
    header = "step,val_loss,patch_entropy,token_entropy,seconds\n"
    text = f"{header}1,9,9,9,9\n2,0.5,{3 + area},2.5,7\n"
    output.with_name(f"{output.stem}.metrics.csv").write_text(text)
    output.write_text("weights")
    return SimpleNamespace(training={"val_auc": {"edema": area}}, alarm="")


def _search(folder: Path, pairs: int = 4, dataset: Dataset | None = None, **changes: Any) -> Any:
    recipe = recipe_from(changes.pop("recipe", {}))
    data = dataset or _dataset()
    return search(data, recipe, folder, pairs=pairs, say=lambda _: None, **changes)


def _files(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir()}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that were trained with, in their order."""
    recipes: list[Recipe] = []

    def train(dataset: Dataset, recipe: Recipe, output: Path, **rest: Any) -> Any:
        recipes.append(recipe)
        return _train(dataset, recipe, output, **rest)

    monkeypatch.setattr(module, "train", train)
    return recipes


def test_the_table_is_ranked_and_only_the_best_checkpoint_is_left(
    trained: list[Recipe], tmp_path: Path
) -> None:
    trials = _search(tmp_path / "search", epochs=2)
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
        return _train(dataset, recipe, output, **rest)

    monkeypatch.setattr(module, "train", train)
    other = _dataset("3" * 64)
    _search(tmp_path / "search", 1, validation=other, skip_bad=True, device="cpu")
    asked = {"validation": other, "skip_bad": True, "device": "cpu", "resume": False}
    assert [{key: rest[key] for key in asked} for rest in seen] == [asked, asked]


def test_a_finished_search_trains_nothing_and_more_pairs_only_add(
    trained: list[Recipe], tmp_path: Path
) -> None:
    first = _search(tmp_path / "few")
    before = _files(tmp_path / "few")
    assert _search(tmp_path / "few") == first
    assert (_files(tmp_path / "few"), len(trained)) == (before, 5)
    grown = _search(tmp_path / "few", 7)
    assert len(trained) == 8
    assert grown == _search(tmp_path / "all", 7)
    assert _files(tmp_path / "few") == _files(tmp_path / "all")


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
    _search(tmp_path / "whole", 3)
    names = ["train", "write", "drop_losers", "write_atomic"]
    moments = 1
    for last in range(1, 100):
        with pytest.MonkeyPatch.context() as patch:
            seen = _mortal(patch, names, last)
            try:
                _search(tmp_path / f"{last}", 3)
                break
            except Killed:
                moments += 1
        _search(tmp_path / f"{last}", 3)
        assert _files(tmp_path / f"{last}") == _files(tmp_path / "whole"), seen[-1]
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
        return _train(dataset, recipe, output, **rest)

    monkeypatch.setattr(module, "train", train)
    trials = _search(tmp_path / "search")
    assert (trials[-1].pair, trials[-1].alarm) == (2, "training diverged at step 3; lower lr")
    assert math.isnan(trials[-1].val_auc)
    again = _search(tmp_path / "search")
    assert [t.pair for t in again] == [t.pair for t in trials]
    assert len(calls) == 5
    assert not list((tmp_path / "search").glob("*.state.pt"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": _dataset("1" * 64)}, "another data;"),
        ({"recipe": {"seed": 1}}, "another seed;"),
        ({"recipe": {"lr": 0.1, "batch_size": 8}}, "another batch_size, lr;"),
        ({"epochs": 2}, "another epochs;"),
        ({"validation": _dataset("2" * 64)}, "another validation data;"),
        ({"skip_bad": True}, "another skip_bad;"),
        ({"pairs": 3}, "holds a search of 4 pairs"),
    ],
)
def test_the_folder_of_another_search_is_refused(
    trained: list[Recipe], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    _search(tmp_path / "search")
    before = _files(tmp_path / "search")
    with pytest.raises(UsageError, match=words):
        _search(tmp_path / "search", **change)
    assert _files(tmp_path / "search") == before
    _search(tmp_path / "search", recipe={"lambda_patch": 0.7, "name": "mine"})


def test_files_that_nobody_named_have_no_part(
    trained: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _search(Path("search"))
    Path("notes.txt").write_text("written while the search was interrupted")
    _search(Path("search"))
    assert "notes" not in Path("search/search.json").read_text()


def test_weights_of_another_content_are_another_search(
    trained: list[Recipe], tmp_path: Path
) -> None:
    """By what the files hold, not by where they lie."""
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "start.pt").write_bytes(content)
    recipes = [
        {"image_init": "checkpoint", "image_file": f"{tmp_path}/{n}/start.pt"} for n in "abc"
    ]
    _search(tmp_path / "search", recipe=recipes[0])
    _search(tmp_path / "search", recipe=recipes[1])
    with pytest.raises(UsageError, match="another image_file;"):
        _search(tmp_path / "search", recipe=recipes[2])
    assert str(tmp_path) not in (tmp_path / "search/search.json").read_text()
    bert = {"text_init": "cxr-bert", "text_folder": f"{tmp_path}/a"}
    _search(tmp_path / "folder", recipe=bert)
    _search(tmp_path / "folder", recipe=bert | {"text_folder": f"{tmp_path}/b"})
    with pytest.raises(UsageError, match="another text_folder;"):
        _search(tmp_path / "folder", recipe=bert | {"text_folder": f"{tmp_path}/c"})


def test_a_folder_or_file_that_is_no_search_is_refused(
    trained: list[Recipe], tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.search.json.17.tmp").write_text("{")  # what a kill may leave
    assert len(_search(tmp_path / "new")) == len(trained) == 5
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UsageError, match="holds no search"):
            _search(path)
    (tmp_path / "search.json").write_text(json.dumps({"pairs": 4}))
    with pytest.raises(UsageError, match="not what a search writes"):
        _search(tmp_path)
    assert len(trained) == 5


@pytest.mark.parametrize("values", [(), (1, 1), (0,)])
def test_validation_images_that_rank_nothing_are_refused(
    trained: list[Recipe], tmp_path: Path, values: tuple[int, ...]
) -> None:
    rows = tuple(Row(f"{i}", "val", "", {"Edema": v}, i) for i, v in enumerate(values))
    others = (Row("a", "train", "", {"Edema": 0}, 7), Row("b", "train", "", {"Edema": 1}, 8))
    with pytest.raises(
        UsageError, match="can't be ranked; name labelled images with --validate-on"
    ):
        _search(tmp_path / "search", dataset=replace(_dataset(), rows=(*rows, *others)))
    assert not (tmp_path / "search").exists()
    with pytest.raises(UsageError, match="can't be ranked"):  # only validation= counts then
        _search(tmp_path / "search", validation=replace(_dataset(), rows=rows))
