"""The supervised CNN of the paper's comparison: the same vision encoder, taught with labels.

As the released code (trainCNN.py, utils.b_loss): frontal images only, uncertain and unknown labels
masked, the mean of the labels' mean cross-entropies. An image without any known label is left out.
Augmentation, optimizer, schedule and seed are those of `run`; keys about text, keep_best and
save_every have no effect, and shuffle_captions gives each image the labels of another.

Of all validations the best by `select_by` is kept, of equals the earlier: "auc", as the paper
chooses its zero-shot models, or "val_loss", as the released code chooses this one.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tier_infer.errors import UsageError
from tier_infer.files import sync_folder, write_atomic
from tier_infer.geometry import GEOMETRIES
from tier_infer.label_sets import column_id, load_label_set
from tier_infer.metrics import roc_auc
from tier_infer.tables import csv_text
from tier_train.data.dataset import Dataset, Pictures, Row, truth_table
from tier_train.data.manifest import resolve_intensity
from tier_train.data.pictures import load_pictures
from tier_train.parallel import launch, workers
from tier_train.recipe import Recipe
from tier_train.record import check_output, metrics_path
from tier_train.sampler import Pairs, batches, index_batches, partners, resolved
from tier_train.schedule import build_optimizer, learning_rate
from tier_train.start import start_image
from tier_train.state import beside
from tier_train.supervised_cnn import Supervised, SupervisedCnn, predict, save_supervised
from tier_train.supervised_scores import LabelAuc, label_auc, write_scores
from tier_train.validation import Diverged, refuse_shared_patients

if TYPE_CHECKING:
    from lightning_fabric import Fabric

COLUMNS = ("step", "epoch", "lr", "loss", "val_loss", "val_auc", "best", "seconds")


class Part(NamedTuple):
    """One split: what is known of it and its pictures."""

    rows: list[Row]
    pictures: Pictures
    truth: NDArray[np.float32]  # [N, L]: 1, 0 or NaN for unknown


def train_supervised(
    dataset: Dataset,
    recipe: Recipe,
    output: Path,
    *,
    validation: Dataset | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    say: Callable[[str], None],
) -> tuple[Supervised, list[LabelAuc]]:
    """Trains to the last step; writes `output`, `<stem>.metrics.csv` and `<stem>.scores.csv`.

    Scores and AUCs are of the test split, where there is none of the validation images; the field
    scored_split says which. Raises UsageError where nothing can be learnt.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("tier-train supervised runs in one process; start it without torchrun")
    _refuse_single(recipe)
    fabric = launch(device, recipe.precision)
    check_output(output)
    if device == "auto":
        say(f"device {fabric.device.type}")
    intensity, why = resolve_intensity(dataset, recipe.intensity)
    say(f"intensity {intensity}: {why}")
    labels = _learnable(dataset, say)

    def part(source: Dataset, split: str) -> Part:
        return read_part(source, split, labels, intensity, recipe, skip_bad)

    judge = validation or dataset
    train, val = part(dataset, "train"), part(judge, "val")
    test = part(dataset, "test")
    if validation:
        refuse_shared_patients(dataset, train.rows, judge, val.rows, say)
    recipe = resolved(recipe, len(train.rows))
    say(f"{dataset.name}: {len(train.rows)} train and {len(val.rows)} val images with labels")
    torch.manual_seed(recipe.seed)
    model = SupervisedCnn(recipe, len(labels))
    files = start_image(model.image, recipe)
    recipe = replace(
        recipe, image_file=Path(recipe.image_file).name, text_init="scratch", text_folder=""
    )
    kept = _fit(model, train, val, recipe, output, fabric, say)
    say(f"kept: the weights of step {kept}")
    held_out = test if test.rows else val
    if not held_out.rows:
        say("no test or validation images with these labels: no scores")
    scores = predict(model, held_out.pictures, GEOMETRIES[recipe.geometry])
    model.cpu().eval()
    areas = [
        label_auc(label, held_out.rows, held_out.truth[:, i], scores[:, i])
        for i, label in enumerate(labels)
    ]
    training = {
        "data": dataset.name,
        "manifest_sha256": dataset.sha256,
        "validation_data": judge.name,
        "validation_sha256": judge.sha256,
        "starts": files,
        "train_images": len(train.rows),
        "val_images": len(val.rows),
        "kept_step": kept,
        "scored_split": "test" if test.rows else "val" if val.rows else "",
        "auc": {area.label: area.auc for area in areas if not math.isnan(area.auc)},
    }
    trained = Supervised(model, tuple(labels), recipe, intensity, ("frontal",), training)
    write_scores(beside(output, "scores.part.csv"), labels, held_out.rows, held_out.truth, scores)
    _publish(output, trained)
    return trained, areas


def _publish(output: Path, trained: Supervised) -> None:
    """Gives all three files their names. Killed in between, it leaves some, of one run only."""
    save_supervised(beside(output, "part.pt"), trained)
    tables = [beside(output, "scores.csv"), metrics_path(output)]
    for path in tables:
        path.unlink(missing_ok=True)
    beside(output, "part.pt").replace(output)
    for path in tables:
        path.with_suffix(".part.csv").replace(path)
    sync_folder(output.parent)


def _refuse_single(recipe: Recipe) -> None:
    """BatchNorm of one image has no variance."""
    parts = math.ceil(recipe.batch_size / (recipe.micro_batch or recipe.batch_size))
    if recipe.batch_size // parts < 2:
        raise UsageError(
            f"micro_batch {recipe.micro_batch} leaves an image of batch_size {recipe.batch_size} "
            "alone, and the supervised network normalises over images; --set micro_batch=0, or a "
            "larger one"
        )


def outputs(dataset: Dataset) -> dict[str, str]:
    """label id → column: the five CheXpert tasks where the dataset has all, else every label."""
    columns = {column_id(c): c for c in dataset.label_columns if column_id(c) != "no_finding"}
    five = [label.id for label in load_label_set("chexpert").labels]
    return {i: columns[i] for i in five} if set(five) <= set(columns) else columns


def _learnable(dataset: Dataset, say: Callable[[str], None]) -> list[str]:
    """Label ids that frontal training images know of both kinds."""
    rows = [row for row in dataset.split("train") if row.view != "lateral"]
    found = {i: {row.labels.get(column) for row in rows} for i, column in outputs(dataset).items()}
    labels = [i for i, values in found.items() if {0, 1} <= values]
    if not labels:
        raise UsageError(
            f"{dataset.name}: no label is 1 in one and 0 in another frontal training image; a "
            "supervised network needs such labels, `tier-train run` needs none"
        )
    if left := [i for i in found if i not in labels]:
        say(f"no output for {', '.join(left)}: train rows hold one class only, or none")
    return labels


def read_part(
    dataset: Dataset, split: str, labels: list[str], intensity: str, recipe: Recipe, skip_bad: bool
) -> Part:
    """Frontal images, or of unknown view, that have at least one of the labels.

    Only a manifest's paths are the user's own words; others hold ids and go no further.
    """
    columns = {column_id(c): c for c in dataset.label_columns}
    known = {columns[i] for i in labels if i in columns}
    rows = [
        row for row in dataset.split(split) if row.view != "lateral" and known & row.labels.keys()
    ]
    if not rows:
        return Part([], [], np.empty((0, len(labels)), np.float32))
    geometry = GEOMETRIES[recipe.geometry]
    rows, pictures = load_pictures(dataset, rows, intensity, geometry, skip_bad)
    if dataset.kind != "manifest":
        rows = [replace(row, image_path="") for row in rows]
    truth = truth_table(rows, {i: columns.get(i, "") for i in labels})
    return Part(rows, pictures, np.stack([truth[i] for i in labels], axis=1))


def _fit(
    model: SupervisedCnn,
    train: Part,
    val: Part,
    recipe: Recipe,
    output: Path,
    fabric: Fabric,
    say: Callable[[str], None],
) -> int:
    """Leaves the best weights in `model`; returns the step that they are of."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network, optimizer = fabric.setup(model, build_optimizer(model, recipe))
    truth = torch.from_numpy(train.truth)[partners(len(train.rows), recipe)]
    table: list[tuple[object, ...]] = []
    best, kept, weights = math.nan, 0, model.state_dict()
    recent: list[Tensor] = []
    began = time.monotonic()
    pairs = Pairs(train.rows, train.pictures)
    chosen = index_batches(len(train.rows), recipe)
    for batch, (step, indices, epoch) in zip(
        batches(pairs, recipe, workers=workers(fabric)), chosen, strict=True
    ):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        optimizer.zero_grad(set_to_none=True)
        x = model.network_input(batch.pixels.to(fabric.device))
        loss = backward(fabric, network, x, truth[indices], recipe)
        if not torch.isfinite(loss):
            raise Diverged(f"training diverged at step {step}; lower lr")
        optimizer.step()
        recent.append(loss)
        if step % recipe.validate_every and step != recipe.steps:
            continue
        val_loss, area = validate(model, val, recipe)
        merit = area if recipe.select_by == "auc" else -val_loss
        if merit > best or math.isnan(best):  # what can't be told chooses nothing: the last stays
            best, kept, weights = merit, step, copy.deepcopy(model.state_dict())
        mean = float(torch.stack(recent).mean())
        line = step, epoch, learning_rate(step, recipe), mean, val_loss, area, int(kept == step)
        table.append((*line, round(time.monotonic() - began, 1)))
        write_atomic(metrics_path(output, part=True), csv_text([COLUMNS, *table]).encode())
        say(f"step {step}/{recipe.steps}  loss {mean:.3f}  val {val_loss:.3f}  AUC {area:.3f}")
        recent = []
    model.load_state_dict(weights)
    return kept


def backward(fabric: Fabric, network: Any, x: Tensor, truth: Tensor, recipe: Recipe) -> Tensor:
    """Gradients of the loss of a batch, at most `micro_batch` images at a time; returns the loss.

    x: as network_input gives it. The parts are alike in size, so that none is a single image.
    """
    truth = truth.to(fabric.device)
    columns = x, truth, shares(truth)
    parts = math.ceil(len(x) / (recipe.micro_batch or len(x)))
    total = torch.zeros((), device=fabric.device)
    for inputs, known, counts in zip(*(torch.tensor_split(c, parts) for c in columns), strict=True):
        loss = masked(network(inputs), known, counts)
        fabric.backward(loss)
        total += loss.detach()
    return total


def shares(truth: Tensor) -> Tensor:
    """[N, L], NaN where unknown → what each cross-entropy counts: the mean, over the labels known
    at all, of each label's mean. They sum to 1; NaN where nothing is known."""
    known = ~truth.isnan()
    count = known.sum(0)  # [L]
    return known / count.clamp_min(1) / (count > 0).sum()


def masked(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    each = binary_cross_entropy_with_logits(logits.float(), truth.nan_to_num(), reduction="none")
    return (each * counts).sum()


def validate(model: SupervisedCnn, val: Part, recipe: Recipe) -> tuple[float, float]:
    """Loss and mean AUC; NaN where val rows can't tell."""
    if not val.rows:
        return math.nan, math.nan
    logits = predict(model, val.pictures, GEOMETRIES[recipe.geometry])
    if not np.isfinite(logits).all():
        raise Diverged("training diverged in the last step; lower lr")
    truth = torch.from_numpy(val.truth)
    loss = float(masked(torch.from_numpy(logits), truth, shares(truth)))
    areas = [
        roc_auc(y[~np.isnan(y)], s[~np.isnan(y)])
        for y, s in zip(val.truth.T, logits.T, strict=True)
    ]
    found = [area for area in areas if not math.isnan(area)]
    return loss, float(np.mean(found)) if found else math.nan
