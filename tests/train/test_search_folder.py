"""python -m pytest tests/train/test_search_folder.py -- what a search's folder may be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.fake_search import contents, fake_dataset, fake_search, fake_train
from tier_infer.errors import UsageError
from tier_train import search as module
from tier_train.data.dataset import Dataset
from tier_train.recipe import Recipe


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that were trained with, in their order."""
    recipes: list[Recipe] = []

    def train(dataset: Dataset, recipe: Recipe, output: Path, **rest: Any) -> Any:
        recipes.append(recipe)
        return fake_train(dataset, recipe, output, **rest)

    monkeypatch.setattr(module, "train", train)
    return recipes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": fake_dataset("1" * 64)}, "another data;"),
        ({"recipe": {"seed": 1}}, "another seed;"),
        ({"recipe": {"lr": 0.1, "batch_size": 8}}, "another batch_size, lr;"),
        ({"epochs": 2}, "another epochs;"),
        ({"validation": fake_dataset("2" * 64)}, "another validation data;"),
        ({"skip_bad": True}, "another skip_bad;"),
        ({"pairs": 3}, "holds a search of 4 pairs"),
    ],
)
def test_the_folder_of_another_search_is_refused(
    trained: list[Recipe], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    fake_search(tmp_path / "search")
    before = contents(tmp_path / "search")
    with pytest.raises(UsageError, match=words):
        fake_search(tmp_path / "search", **change)
    assert contents(tmp_path / "search") == before
    fake_search(tmp_path / "search", recipe={"lambda_patch": 0.7, "name": "mine"})


def test_files_that_nobody_named_have_no_part(
    trained: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_search(Path("search"))
    Path("notes.txt").write_text("written while the search was interrupted")
    fake_search(Path("search"))
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
    fake_search(tmp_path / "search", recipe=recipes[0])
    fake_search(tmp_path / "search", recipe=recipes[1])
    with pytest.raises(UsageError, match="another image_file;"):
        fake_search(tmp_path / "search", recipe=recipes[2])
    assert str(tmp_path) not in (tmp_path / "search/search.json").read_text()
    bert = {"text_init": "cxr-bert", "text_folder": f"{tmp_path}/a"}
    fake_search(tmp_path / "folder", recipe=bert)
    fake_search(tmp_path / "folder", recipe=bert | {"text_folder": f"{tmp_path}/b"})
    with pytest.raises(UsageError, match="another text_folder;"):
        fake_search(tmp_path / "folder", recipe=bert | {"text_folder": f"{tmp_path}/c"})


def test_a_folder_or_file_that_is_no_search_is_refused(
    trained: list[Recipe], tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.search.json.17.tmp").write_text("{")  # what a kill may leave
    assert len(fake_search(tmp_path / "new")) == len(trained) == 5
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UsageError, match="holds no search"):
            fake_search(path)
    (tmp_path / "search.json").write_text(json.dumps({"pairs": 4}))
    with pytest.raises(UsageError, match="not what a search writes"):
        fake_search(tmp_path)
    assert len(trained) == 5


def test_start_weights_are_looked_for_before_anything_is_written(
    trained: list[Recipe], tmp_path: Path
) -> None:
    missing = {"image_init": "checkpoint", "image_file": f"{tmp_path}/none.pt"}
    with pytest.raises(UsageError, match="image_file: there is no file"):
        fake_search(tmp_path / "search", recipe=missing)
    assert not list(tmp_path.iterdir())


def test_a_search_that_was_refused_leaves_the_folder_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UsageError("fp16 is not for this device")

    monkeypatch.setattr(module, "train", refuse)
    with pytest.raises(UsageError, match="fp16"):
        fake_search(tmp_path / "search")
    monkeypatch.setattr(module, "train", fake_train)
    assert len(fake_search(tmp_path / "search", recipe={"seed": 1})) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
def test_two_searches_at_once_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def train(*args: Any, **rest: Any) -> Any:
        with pytest.raises(UsageError, match="another search works there"):
            fake_search(tmp_path / "search")
        return fake_train(*args, **rest)

    monkeypatch.setattr(module, "train", train)
    assert len(fake_search(tmp_path / "search")) == 5
    assert len(fake_search(tmp_path / "search")) == 5, "it is free again"
