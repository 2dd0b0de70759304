"""The training loop: pairs in, checkpoint and metrics file out. Seeded; on one device or many.

A step depends on the recipe, the data and the weights, and on nothing that a killed process takes
with it, so `resume` goes on to the same curve (record.py, state.py).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.checkpoint import Checkpoint
from tier_train.data.dataset import Dataset
from tier_train.data.manifest import resolve_intensity
from tier_train.data.pictures import load_pictures
from tier_train.learner import Learner, begin
from tier_train.metrics_log import Progress
from tier_train.parallel import finish, launch, share, workers
from tier_train.recipe import Recipe, grid_side
from tier_train.record import Record, already_complete, check_output
from tier_train.sampler import Pairs, batches, resolved
from tier_train.schedule import learning_rate
from tier_train.state import identity, load_state, state_path, sweep
from tier_train.validation import Diverged, Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    dataset: Dataset,
    recipe: Recipe,
    output: Path,
    *,
    validation: Dataset | None = None,
    skip_bad: bool = False,
    resume: bool = False,
    device: str = "auto",
    tensorboard: Path | None = None,
    say: Callable[[str], None],
) -> Checkpoint:
    """Trains to the last step and writes `output`, and beside it what record.py lists.

    validation: a dataset whose val rows are taken instead. resume: continue the interrupted run of
    this output, or start where there is none. Under torchrun all processes call this alike; the
    first writes and talks.

    Raises UsageError, IntegrityError or DeviceError; a full disk is a UsageError, nothing is lost.
    """
    asked, fabric = recipe, launch(device, recipe.precision)
    share(fabric, recipe)
    if fabric.global_rank:
        say = _silent
    else:
        check_output(output)
    if device == "auto":
        say(f"device {fabric.device.type}")
    source = validation or dataset
    intensity, why = resolve_intensity(dataset, recipe.intensity)
    say(f"intensity {intensity}: {why}")
    geometry = GEOMETRIES[recipe.geometry]
    pairs = Pairs(*load_pictures(dataset, dataset.split("train"), intensity, geometry, skip_bad))
    others = Pairs(*load_pictures(source, source.split("val"), intensity, geometry, skip_bad))
    recipe = resolved(recipe, len(pairs.rows))
    say(f"{dataset.name}: {len(pairs.rows)} train and {len(others.rows)} val pairs")
    check = Validation(source, others, recipe, say)
    facts = {
        "data": dataset.name,
        "manifest_sha256": dataset.sha256,
        "validation_data": source.name,
        "validation_sha256": source.sha256,
        "train_pairs": len(pairs.rows),
        "val_pairs": len(others.rows),
        "intensity": intensity,
        "views": dataset.views,
    }
    who = identity(recipe, facts)
    state = load_state(state_path(output), who) if resume else None
    done = already_complete(output, who) if resume and not state else None
    _agree(fabric, "complete" if done else state["step"] if state else 0)
    if done:
        say(f"{output} is complete, there is nothing to resume")
        finish(fabric)
        return done
    if fabric.global_rank == 0:
        say_where(output, resume, state, say)
        sweep(output)
    learner = begin(fabric, recipe, pairs.rows, others.rows, state, output.parent, say)
    record = Record(output, asked, learner, check, who, facts, state, tensorboard, say)
    try:
        _fit(learner, record, pairs, check)
        checkpoint = record.complete()
    except KeyboardInterrupt:
        say(f"interrupted in step {record.step + 1}; {_next(record.saved)}")
        raise
    finish(fabric)
    return checkpoint


def _fit(learner: Learner, record: Record, pairs: Pairs, check: Validation) -> None:
    fabric, recipe = learner.fabric, learner.recipe
    on_gpu = fabric.device.type == "cuda"
    made = batches(
        pairs, recipe, record.step + 1, share(fabric, recipe), workers(fabric), pin=on_gpu
    )
    progress = Progress(recipe, record.step, record.say, record.writes)
    started = time.monotonic()
    with contextlib.closing(made), contextlib.closing(progress):
        for batch in made:
            record.recent.append(learner.step(batch))
            record.step = step = batch.step
            validates = step % recipe.validate_every == 0 or step == recipe.steps
            saves = recipe.save_every > 0 and step % recipe.save_every == 0
            refuse_divergence(record.recent, step, now=validates or saves or not on_gpu)
            progress.step(record.recent[-2:][0])
            record.metrics.count(time.monotonic() - started)
            if validates:
                result = check(learner.model, learner.tokenizer, fabric)
                means = [float(v.mean()) for v in torch.stack(record.recent).T.contiguous()]
                alarm = collapse_alarm(means[1], means[2], recipe, step)
                record.validated(batch.epoch, learning_rate(step, recipe), means, result, alarm)
                if record.writes:
                    progress.say(record.metrics.line())
                if alarm:
                    progress.say(f"collapse alarm: {alarm}")
            elif saves:
                record.save()
            started = time.monotonic()


def refuse_divergence(recent: list[Tensor], step: int, now: bool) -> None:
    """Raises Diverged when the loss is no number.

    That of this step only `now`, else that of the step before: a GPU is not kept waiting.
    """
    for at, losses in ((step - 1, recent[-2:-1]), (step, recent[-1:] if now else [])):
        if losses and not torch.isfinite(losses[0]).all():
            raise Diverged(f"training diverged at step {at}; lower lr or logit_scale_init")


def collapse_alarm(clip: float, patch_entropy: float, recipe: Recipe, step: int) -> str:
    """Why the network has probably stopped telling pairs or patches apart; "" if it hasn't.

    Equal similarities are a stationary maximum of the entropy, so a collapsed network stays there.
    """
    if step <= round(recipe.warmup * recipe.steps):
        return ""
    chance, patches = math.log(recipe.batch_size), grid_side(recipe) ** 2
    if clip > chance - 0.02:
        return f"CLIP loss {clip:.3f} is that of guessing, ln {recipe.batch_size} = {chance:.3f}"
    highest = math.log(patches)
    if patch_entropy > highest - 1e-3:
        return (
            f"patch entropy {patch_entropy:.4f} is that of equal patches, ln {patches} = "
            f"{highest:.4f}"
        )
    return ""


def say_where(
    output: Path, resume: bool, state: dict[str, Any] | None, say: Callable[[str], None]
) -> None:
    path = state_path(output)
    if state:
        say(f"resuming after step {state['step']}")
    elif resume:
        say(f"--resume: there is no state {path}, starting with the first step")
    elif path.is_file():
        say(f"{path} is of an interrupted run; it is started anew, --resume would continue it")


def _next(saved: int) -> str:
    return f"--resume continues after step {saved}" if saved else "nothing was saved yet"


def _agree(fabric: Fabric, mine: int | str) -> None:
    """All processes start at the same step, or none does."""
    first = fabric.broadcast(mine)
    if first != mine:
        raise UsageError(
            f"the processes don't see the same state ({mine} and {first}): -o must lie in a folder "
            "that all machines share"
        )


def _silent(line: str) -> None:
    pass
