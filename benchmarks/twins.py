"""What the penalties are worth here: regularized, unregularized and supervised, seed by seed.

    python benchmarks/twins.py [-o twins] [--data KIND:PATH] [--recipe demo] [--set KEY=VALUE]…
    python benchmarks/twins.py --check [-o twins]

For every seed `tier-train run`, its --unregularized twin and `tier-train supervised`, each to the
end, one after the other; then the AUC of each on the same frontal test images. Left in the folder:
checkpoints, metrics, one scores file per network, and twins.csv, a row per network and label. What
is finished is not trained again. The table says mean and spread over seeds, whatever they are.
--check computes twins.csv anew from the scores files and compares.

Defaults: the phantoms of `make demo` and its recipe, about 35 minutes on two cores. Phantoms are
drawings: nothing here says anything about patients.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from tier_infer.errors import TierError
from tier_infer.files import write_atomic
from tier_infer.metrics import bootstrap_auc, roc_auc
from tier_infer.tables import csv_text
from tier_train.cli.process import prepare_process

if TYPE_CHECKING:
    from tier_train.data.dataset import Dataset
    from tier_train.recipe import Recipe

MODELS = ("regularized", "unregularized", "supervised")
COLUMNS = (
    "model", "seed", "label", "auc", "low", "high", "positives", "negatives", "patch_entropy",
)  # fmt: skip
Rows = list[dict[str, str]]


@click.command()
@click.option("--data", default="manifest:demo/phantoms/manifest.csv", show_default=True)
@click.option("--recipe", default="demo", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--seeds", default=3, show_default=True)
@click.option("--threads", type=int)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("twins"))
@click.option("--check", is_flag=True, help="Recompute the table from the scores on disk.")
def main(
    data: str,
    recipe: str,
    overrides: tuple[str, ...],
    seeds: int,
    threads: int | None,
    output: Path,
    check: bool,
) -> None:
    if check:
        sys.exit(compare(output))
    prepare_process(threads)
    from tier_train.data.datasets import open_dataset
    from tier_train.recipe_file import load_recipe

    try:
        resolved = load_recipe(recipe, list(overrides))
        dataset = open_dataset(data, resolved)
        claim(output, dataset, resolved)
        for seed in range(seeds):
            for model in MODELS:
                train_one(output, dataset, replace(resolved, seed=seed), model)
        score(output, dataset, resolved, seeds)
    except TierError as error:
        raise click.ClickException(str(error)) from error
    write_atomic(output / "twins.csv", csv_text([COLUMNS, *table(output)]).encode())
    report(output)


def stem(model: str, seed: int) -> str:
    return f"{model}-{seed}"


def claim(folder: Path, dataset: Dataset, recipe: Recipe) -> None:
    """One folder, one experiment: what lies there must be of the same data and recipe."""
    ours = {"data": dataset.name, "sha256": dataset.sha256, "recipe": asdict(recipe)}
    path = folder / "twins.json"
    if path.exists() and json.loads(path.read_text()) != ours:
        raise click.ClickException(
            f"{folder} holds twins of another recipe or dataset; name another"
        )
    write_atomic(path, json.dumps(ours, indent=1).encode())


def train_one(folder: Path, dataset: Dataset, recipe: Recipe, model: str) -> None:
    from tier_train.supervised import train_supervised
    from tier_train.train import train

    path = folder / f"{stem(model, recipe.seed)}.pt"
    if path.exists() and path.with_suffix(".metrics.csv").exists():  # the first and the last
        return

    def say(line: str) -> None:
        click.echo(f"{path.stem}: {line}", err=True)

    if model == "supervised":
        train_supervised(dataset, recipe, path, say=say)
        return
    if model == "unregularized":
        recipe = replace(recipe, lambda_patch=0.0, lambda_token=0.0)
    train(dataset, recipe, path, resume=True, say=say)


def score(folder: Path, dataset: Dataset, recipe: Recipe, seeds: int) -> None:
    """Zero-shot scores beside the supervised network's, of the same images and labels."""
    from tier_infer.geometry import GEOMETRIES, center_crop
    from tier_infer.label_sets import LabelSet, load_label_set, set_from_names
    from tier_train.checkpoint import load_checkpoint
    from tier_train.supervised import outputs, read_part
    from tier_train.supervised_cnn import load_supervised
    from tier_train.supervised_scores import write_scores
    from tier_train.zero_shot import encode_images, query_table

    for seed in range(seeds):
        supervised = load_supervised(folder / f"{stem('supervised', seed)}.pt")
        names = list(supervised.labels)
        split = "test" if dataset.split("test") else "val"
        part = read_part(dataset, split, names, supervised.intensity, recipe, False)
        plain = set_from_names("twins", list(outputs(dataset).values())).labels
        known = {x.id: x for x in (*plain, *load_label_set(recipe.prompts).labels)}
        labels = LabelSet("twins", tuple(known[name] for name in names))
        crop = GEOMETRIES[recipe.geometry].crop
        pixels = np.stack([center_crop(part.pictures[i], crop) for i in range(len(part.rows))])
        for model in MODELS[:2]:
            checkpoint = load_checkpoint(folder / f"{stem(model, seed)}.pt")
            image_e, _ = encode_images(checkpoint.model, pixels)
            queries = query_table(checkpoint.model, checkpoint.tokenizer, labels).detach()
            path = folder / f"{stem(model, seed)}.scores.csv"
            write_scores(path, names, part.rows, part.truth, (image_e @ queries.T).numpy())


def table(folder: Path) -> Iterator[tuple[object, ...]]:
    """Rows of twins.csv, from the scores and metrics files alone."""
    from tier_train.supervised_scores import read_scores

    paths = sorted(folder.glob("*.scores.csv"))
    for path in paths:
        model, _, seed = path.name.removesuffix(".scores.csv").rpartition("-")
        metrics = read(folder / f"{stem(model, int(seed))}.metrics.csv")[-1]
        for label, (_, truth, scores) in read_scores(path).items():
            low, high = bootstrap_auc(truth, scores)
            counts = int(truth.sum()), int((1 - truth).sum())
            area = roc_auc(truth, scores)
            yield (model, seed, label, area, low, high, *counts, metrics.get("patch_entropy", ""))


def read(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compare(folder: Path) -> int:
    if not (folder / "twins.csv").is_file():
        raise click.ClickException(f"{folder} holds no twins.csv; run without --check first")
    again = csv_text([COLUMNS, *table(folder)])
    same = again == (folder / "twins.csv").read_text(encoding="utf-8")
    report(folder)
    lines = len(list(csv.reader(io.StringIO(again)))) - 1
    click.echo(f"{lines} rows recomputed: {'all as stated' if same else 'NOT as stated'}")
    return 0 if same else 1


def report(folder: Path) -> None:
    rows = read(folder / "twins.csv")
    labels = list(dict.fromkeys(row["label"] for row in rows))
    found = {(row["model"], int(row["seed"]), row["label"]): float(row["auc"]) for row in rows}
    seeds = sorted({seed for _, seed, _ in found})
    for model in MODELS:
        for seed in seeds:
            found[model, seed, "(mean)"] = statistics.fmean(found[model, seed, x] for x in labels)
    data = json.loads((folder / "twins.json").read_text())
    click.echo(f"{data['data']}, recipe {data['recipe']['name']}; test AUC: mean ± sd [each seed]")
    for label in (*labels, "(mean)"):
        click.echo(label)
        for model in MODELS:
            click.echo(f"  {model:<28} {spread([found[model, seed, label] for seed in seeds])}")
        for other in MODELS[1:]:
            gaps = [found[MODELS[0], s, label] - found[other, s, label] for s in seeds]
            click.echo(f"  {f'regularized - {other}':<28} {spread(gaps, '+')}")
    click.echo("patch entropy of the last training steps")
    for model in MODELS[:2]:
        last = {r["seed"]: float(r["patch_entropy"]) for r in rows if r["model"] == model}
        click.echo(f"  {model:<28} {spread(list(last.values()))}")


def spread(values: list[float], sign: str = "") -> str:
    sd = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "one seed"
    each = ", ".join(f"{value:{sign}.3f}" for value in values)
    return f"{statistics.fmean(values):{sign}.3f} ± {sd}  [{each}]"


if __name__ == "__main__":
    main()
