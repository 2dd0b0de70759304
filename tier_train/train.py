"""The training loop: pairs in, checkpoint and metrics file out. Plain, seeded, one process."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.files import write_atomic
from tier_infer.geometry import GEOMETRIES, GRID, center_crop
from tier_train.augment import augment
from tier_train.checkpoint import Checkpoint, save_checkpoint
from tier_train.loss import Loss, tier_loss
from tier_train.manifest import (
    Manifest,
    Row,
    load_squares,
    resolve_intensity,
    truth_table,
    validation_labels,
)
from tier_train.model import DualEncoder
from tier_train.recipe import Recipe
from tier_train.text_encoder import Tokenizer, train_vocabulary
from tier_train.zero_shot import zero_shot_auc

COLUMNS = (
    "step", "epoch", "lr", "loss", "clip_loss", "patch_entropy", "token_entropy", "logit_scale",
    "val_auc", "alarm", "seconds",
)  # fmt: skip
LN_P = math.log(GRID * GRID)


@dataclass(frozen=True)
class Pairs:
    rows: list[Row]
    squares: NDArray[np.uint8]  # [N, R, R]


def train(
    manifest: Manifest, recipe: Recipe, output: Path, skip_bad: bool, say: Callable[[str], None]
) -> Checkpoint:
    """Trains to the last step and writes `output` and `<stem>.metrics.csv` beside it."""
    check_output(output)
    geometry = GEOMETRIES[recipe.geometry]
    intensity, why = resolve_intensity(manifest, recipe.intensity)
    say(f"intensity {intensity}: {why}")
    train_pairs = Pairs(
        *load_squares(manifest, manifest.split("train"), intensity, geometry, skip_bad)
    )
    val_pairs = Pairs(*load_squares(manifest, manifest.split("val"), intensity, geometry, skip_bad))
    if len(train_pairs.rows) < recipe.batch_size:
        raise UsageError(
            f"{len(train_pairs.rows)} training pairs are fewer than batch_size "
            f"{recipe.batch_size}; add rows, or --set batch_size=N"
        )
    say(f"{manifest.name}: {len(train_pairs.rows)} train and {len(val_pairs.rows)} val pairs")
    torch.manual_seed(recipe.seed)
    sentences = [row.caption(recipe.seed, epoch) for epoch in range(8) for row in train_pairs.rows]
    vocab = train_vocabulary(sentences, recipe.vocab_size)
    tokenizer = Tokenizer(vocab, recipe.max_tokens)
    model = DualEncoder(recipe, len(vocab))
    alarm, areas = _fit(model, tokenizer, manifest, train_pairs, val_pairs, recipe, output, say)
    training = {
        "data": manifest.name,
        "manifest_sha256": manifest.sha256,
        "train_pairs": len(train_pairs.rows),
        "val_pairs": len(val_pairs.rows),
        "val_auc": areas,
    }
    checkpoint = Checkpoint(model, tokenizer, recipe, intensity, manifest.views, training, alarm)
    save_checkpoint(output, checkpoint)
    metrics_path(output, part=True).replace(metrics_path(output))
    return checkpoint


def metrics_path(checkpoint: Path, part: bool = False) -> Path:
    """Under another name until the checkpoint is written: the pair belongs together."""
    return checkpoint.with_name(f"{checkpoint.stem}.metrics{'.part' if part else ''}.csv")


def check_output(path: Path) -> None:
    """Before the first step, not after the last: can a file of this name be written?"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {path}: its folder can't be made ({error.strerror})") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"-o {path} is a folder or lies in one that can't be written")


def _fit(
    model: DualEncoder,
    tokenizer: Tokenizer,
    manifest: Manifest,
    train_pairs: Pairs,
    val_pairs: Pairs,
    recipe: Recipe,
    output: Path,
    say: Callable[[str], None],
) -> tuple[str, dict[str, float]]:
    """Returns the collapse alarm ("" if none) and the validation AUC after the last step."""
    geometry = GEOMETRIES[recipe.geometry]
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr)
    labels, columns = validation_labels(manifest)
    truth = truth_table(val_pairs.rows, columns)
    crops = np.array([center_crop(s, geometry.crop) for s in val_pairs.squares])
    metrics = Metrics(metrics_path(output, part=True))
    silent = [name for name, y in truth.items() if not {0.0, 1.0} <= set(y.tolist())]
    if silent:
        say(f"no validation AUC for {', '.join(silent)}: val rows hold one class only, or none")
    recent: list[Loss] = []
    areas: dict[str, float] = {}
    for step, (rows, squares, epoch) in enumerate(batches(train_pairs, recipe), start=1):
        rate = learning_rate(step, recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels = augment(squares, geometry, recipe, _generator(recipe.seed, 2, step))
        loss = _step(model, tokenizer, optimizer, pixels, _captions(rows, recipe, epoch), recipe)
        recent.append(Loss(*(value.detach() for value in loss)))
        if not torch.isfinite(loss.total):
            raise UsageError(f"training diverged at step {step}; lower lr or logit_scale_init")
        if step % recipe.validate_every and step != recipe.steps:
            continue
        areas = zero_shot_auc(model, tokenizer, crops, truth, labels)
        means = [float(torch.stack(values).mean()) for values in zip(*recent, strict=True)]
        alarm = collapse_alarm(means[1], means[2], recipe, step)
        scale = float(model.logit_scale.detach().exp())
        mean_auc = float(np.mean(list(areas.values()))) if areas else math.nan
        metrics.add(step, epoch, rate, *means, scale, mean_auc, alarm)
        say(metrics.line(recipe.steps))
        if alarm:
            say(f"collapse alarm: {alarm}")
        recent = []
    return alarm, areas


def _step(
    model: DualEncoder,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    captions: list[str],
    recipe: Recipe,
) -> Loss:
    ids, mask = tokenizer(captions)
    image_e, patch_e = model.encode_image(pixels)
    token_e = model.encode_text(ids, mask)
    counted = mask.bool() if recipe.mask_padding else torch.ones_like(mask, dtype=torch.bool)
    loss = tier_loss(
        image_e, patch_e, token_e, counted, model.logit_scale,
        recipe.lambda_patch, recipe.lambda_token, recipe.entropy_temperature,
    )  # fmt: skip
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss


def batches(pairs: Pairs, recipe: Recipe) -> Iterator[tuple[list[Row], Tensor, int]]:
    """`steps` batches of rows, uint8 [B, R, R] and the epoch; each epoch a new order, the rest cut.

    With shuffle_captions every image gets the row of another, the same one throughout.
    """
    partner = np.arange(len(pairs.rows))
    if recipe.shuffle_captions:
        ring = np.random.default_rng([recipe.seed, 3]).permutation(partner)
        partner[ring] = np.roll(ring, 1)  # nobody keeps its own
    step = epoch = 0
    while True:
        order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(len(pairs.rows))
        for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
            chosen = order[start : start + recipe.batch_size]
            rows = [pairs.rows[partner[i]] for i in chosen]
            yield rows, torch.from_numpy(pairs.squares[chosen]), epoch
            step += 1
            if step == recipe.steps:
                return
        epoch += 1


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine to zero at the last step; step counts from 1."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    if step <= warm:
        return recipe.lr * step / warm
    done = (step - warm) / max(1, recipe.steps - warm)
    return recipe.lr * (1 + math.cos(math.pi * done)) / 2


def collapse_alarm(clip: float, patch_entropy: float, recipe: Recipe, step: int) -> str:
    """Why the network has probably stopped telling pairs or patches apart; "" if it hasn't.

    Equal similarities are a stationary maximum of the entropy, so a collapsed network stays there.
    """
    if step <= round(recipe.warmup * recipe.steps):
        return ""
    chance = math.log(recipe.batch_size)
    if clip > chance - 0.02:
        return f"CLIP loss {clip:.3f} is that of guessing, ln {recipe.batch_size} = {chance:.3f}"
    if patch_entropy > LN_P - 1e-3:
        return f"patch entropy {patch_entropy:.4f} is that of equal patches, ln 49 = {LN_P:.4f}"
    return ""


class Metrics:
    """The metrics file, rewritten whole and atomically at every validation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[tuple[object, ...]] = []
        self._start = time.monotonic()

    def add(self, *values: object) -> None:
        self.rows.append((*values, round(time.monotonic() - self._start, 1)))
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([COLUMNS, *self.rows])
        write_atomic(self.path, buffer.getvalue().encode())

    def line(self, steps: int) -> str:
        row = dict(zip(COLUMNS, self.rows[-1], strict=True))
        step, seconds = float(str(row["step"])), float(str(row["seconds"]))
        left = seconds / step * (steps - step)
        return (
            f"step {row['step']}/{steps}  loss {row['loss']:.3f}  clip {row['clip_loss']:.3f}  "
            f"H_patch {row['patch_entropy']:.3f}  H_token {row['token_entropy']:.3f}  "
            f"val AUC {row['val_auc']:.3f}  {seconds:.0f} s, {left:.0f} s left"
        )


def _captions(rows: list[Row], recipe: Recipe, epoch: int) -> list[str]:
    return [row.caption(recipe.seed, epoch) for row in rows]


def _groups(model: DualEncoder, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay on matrices and kernels only, not on norms, biases and the temperature."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _generator(*seeds: int) -> torch.Generator:
    """Independent of every other random stream, so that a change elsewhere moves nothing here."""
    state = np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
