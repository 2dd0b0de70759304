"""The training loop: pairs in, checkpoint and metrics file out. Seeded; on one device or many.

A step depends on the recipe, the data and the weights, and on nothing that a killed process takes
with it, so `resume` goes on to the same curve (record.py, state.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.alarms import (
    collapse_alarm,
    refuse_bad_weights,
    refuse_divergence,
    refuse_overflow,
)
from tier_train.checkpoint import Checkpoint
from tier_train.data.dataset import Dataset
from tier_train.data.manifest import resolve_intensity
from tier_train.data.pictures import load_pictures
from tier_train.learner import Learner, begin
from tier_train.metrics_log import Progress, summary_writer
from tier_train.parallel import finish, launch, share, workers
from tier_train.recipe import Recipe
from tier_train.record import Record, already_complete, check_output
from tier_train.sampler import Pairs, batches, resolved
from tier_train.schedule import learning_rate
from tier_train.start import unchanged
from tier_train.state import identity, load_state, state_path, sweep
from tier_train.validation import Validation, refuse_shared_patients

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
    if tensorboard:
        summary_writer()  # or a sentence now, not after an hour of decoding
    if device == "auto":
        say(f"device {fabric.device.type}")
    source = validation or dataset
    intensity, why = resolve_intensity(dataset, recipe.intensity)
    say(f"intensity {intensity}: {why}")
    if source.intensity not in ("", intensity):
        say(f"validation is scored under {intensity} too, though {source.name} names its own")
    geometry = GEOMETRIES[recipe.geometry]
    pairs = Pairs(*load_pictures(dataset, dataset.split("train"), intensity, geometry, skip_bad))
    others = Pairs(*load_pictures(source, source.split("val"), intensity, geometry, skip_bad))
    recipe = resolved(recipe, len(pairs.rows))
    say(f"{dataset.name}: {len(pairs.rows)} train and {len(others.rows)} val pairs")
    if validation:
        refuse_shared_patients(dataset, pairs.rows, source, others.rows, say)
    say(
        f"recipe {recipe.name}: lambda_patch {recipe.lambda_patch:g}, lambda_token "
        f"{recipe.lambda_token:g}, {recipe.steps} steps of {recipe.batch_size}, seed {recipe.seed}"
    )
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
    if state:
        unchanged(recipe, state["files"])
    elif done:
        unchanged(recipe, done.training["starts"])
    _agree(fabric, "complete" if done else state["step"] if state else 0)
    if done:
        say(f"{output} is complete, there is nothing to resume")
        finish(fabric)
        return done
    if fabric.global_rank == 0:
        say_where(output, resume, state, fabric.world_size, say)
        sweep(output)
    learner = begin(fabric, recipe, pairs.rows, state, output.parent, say)
    record = Record(output, asked, learner, check, who, facts, state, tensorboard, say)
    state = None  # it holds all weights and moments once more
    try:
        _fit(learner, record, pairs, check)
        checkpoint = record.complete()
    except KeyboardInterrupt:
        say(f"interrupted in step {record.step + 1}; {_next(record.saved)}")
        raise
    except torch.cuda.OutOfMemoryError:
        raise UsageError(
            f"step {record.step + 1} doesn't fit into the GPU's memory: --set micro_batch=N embeds "
            "so many pairs of a process at a time, --set precision=bf16 needs less for each; a "
            "smaller batch_size is another training"
        ) from None
    finish(fabric)
    return checkpoint


def _fit(learner: Learner, record: Record, pairs: Pairs, check: Validation) -> None:
    fabric, recipe = learner.fabric, learner.recipe
    on_gpu = fabric.device.type == "cuda"
    made = batches(
        pairs, recipe, record.step + 1, share(fabric, recipe), workers(fabric), pin=on_gpu
    )
    progress = Progress(recipe, record.step, record.say, record.writes)
    scale, since = learner.scale(), record.step
    started = time.monotonic()
    with contextlib.closing(made), contextlib.closing(progress):
        for batch in made:
            record.recent.append(learner.step(batch))
            record.step = step = batch.step
            validates = step % recipe.validate_every == 0 or step == recipe.steps
            saves = recipe.save_every > 0 and step % recipe.save_every == 0
            refuse_divergence(record.recent, step, now=validates or saves or not on_gpu)
            if validates or saves:
                refuse_bad_weights(learner, step)
            progress.step(record.recent[-2:][0])
            record.metrics.count(time.monotonic() - started)
            if validates:
                now = learner.scale()
                refuse_overflow(scale, now, step - since, step == recipe.steps)
                scale, since = now, step
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


def say_where(
    output: Path,
    resume: bool,
    state: dict[str, Any] | None,
    processes: int,
    say: Callable[[str], None],
) -> None:
    path = state_path(output)
    if state:
        say(f"resuming after step {state['step']}")
        if state["processes"] != processes:
            say(f"was {state['processes']} processes, now {processes}: the curve will differ")
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
