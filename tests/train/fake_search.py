"""A search without training: the AUC of a pair is a function of its lambdas."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tier_train.data.dataset import Dataset, Row
from tier_train.recipe import Recipe, recipe_from
from tier_train.search import search


def fake_dataset(sha256: str = "0" * 64) -> Dataset:
    rows = tuple(Row(f"{i}.png", "val", "", {"Edema": i}, i + 2) for i in range(2))
    return Dataset(Path("m.csv"), "m", rows, ("Edema",), "minmax", ("frontal",), sha256)


def fake_train(dataset: Dataset, recipe: Recipe, output: Path, **_: Any) -> Any:
    """The AUC is a function of the lambdas."""
    area = 0.9 - abs(recipe.lambda_patch - 0.5) - 0.1 * recipe.lambda_token
    header = "step,val_loss,patch_entropy,token_entropy,seconds\n"
    text = f"{header}1,9,9,9,9\n2,0.5,{3 + area},2.5,7\n"
    output.with_name(f"{output.stem}.metrics.csv").write_text(text)
    output.write_text("weights")
    return SimpleNamespace(training={"val_auc": {"edema": area}}, alarm="")


def fake_search(
    folder: Path, pairs: int = 4, dataset: Dataset | None = None, **changes: Any
) -> Any:
    recipe = recipe_from(changes.pop("recipe", {}))
    data = dataset or fake_dataset()
    return search(data, recipe, folder, pairs=pairs, say=lambda _: None, **changes)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir()}
