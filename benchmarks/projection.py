"""How long the paper's training takes, from parts: 287,500 pairs, 30 epochs, on one H100 and on 8.

    python benchmarks/projection.py [--tokens 48] [--pictures-per-second N]

No GPU is needed and none is timed. Three kinds of numbers, each printed with its kind: measured
here (FLOP and operations of our own model, bytes, the loader's speed on one core), published (with
the place) and assumed. Every assumption has a quick and a slow value; all quick ones together give
the low end of the range, all slow ones the high end. A projection is no measurement: what it is
good for is to see which part binds.

--tokens: mean length of an impression, word pieces. --pictures-per-second: of one core, as
benchmarks/loader.py measures it from the cache; else measured here, cropping and turning included.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tier_train.cli.process import prepare_process

if TYPE_CHECKING:
    from tier_train.recipe import Recipe

PAIRS, HELD_OUT, EPOCHS = 287_500, 31_946, 30  # 90 % of the paper's 319,446 pairs, and the rest
BATCH = 8  # of the measurement


@dataclass(frozen=True)
class Figure:
    """quick and slow may be equal; `source` begins with measured, published or assumed."""

    name: str
    quick: float
    slow: float
    unit: str
    source: str

    def at(self, end: str) -> float:
        return self.quick if end == "quick" else self.slow


READMES = "NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md"
A100 = 2470.0  # images/s of a ResNet-50 in training, mixed precision, one A100
ASSUMED = [
    Figure("A100, ResNet-50 training, mixed", A100, A100, "images/s", f"published: {READMES}"),
    Figure("H100 over A100 on vision", 2.0, 1.2, "x",
           "published ~2: lambdalabs.com/blog/nvidia-h100-gpu-deep-learning-performance-analysis; "
           "slow end assumed"),
    Figure("H100, BERT matrix products, bf16", 350, 120, "TFLOP/s",
           "assumed: 35 % and 12 % of the data sheet's 989 (1,500 tokens are a small product)"),
    Figure("H100, float32 validation", 40, 15, "TFLOP/s", "assumed, data sheet 67"),
    Figure("host, per operation", 5, 25, "µs",
           "published range: jiahuanglin.xyz/all_lessons/gpu_kernel_serving/18_pytorch_to_kernel"),
    Figure("H100 memory", 2500, 1700, "GB/s", "assumed: 75 % and 50 % of the data sheet's 3350"),
    Figure("all-reduce over NVLink", 360, 150, "GB/s",
           "assumed: 80 % and 33 % of the data sheet's 450 each way"),
    Figure("a small collective of 8", 15, 50, "µs", "assumed"),
    Figure("all-reduce hidden behind backward", 0.8, 0.0, "share", "assumed"),
    Figure("cores that load, per GPU", 8, 4, "cores", "assumed: parallel.py starts 8 threads"),
    Figure("disk that takes the states", 2.0, 0.5, "GB/s", "assumed"),
]  # fmt: skip
GIVEN = {figure.name: figure for figure in ASSUMED}


@dataclass(frozen=True)
class Cost:
    """Of our model, per pair or per step; FLOP = 2 · multiply-adds."""

    image: float  # FLOP, forward and backward
    image_forward: float
    text: float
    text_forward: float
    operations: int  # that start a kernel, in one step: forward, backward, fused Adam


def paper() -> Recipe:
    from tier_train.recipe_file import load_recipe

    return load_recipe("paper", ["image_init=scratch", "text_init=scratch"])


def cost(model: Any, recipe: Recipe, tokens: int, cached: bool) -> Cost:
    """Counts, not timings: they are those of a GPU up to its choice of kernels."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from tier_train.loss import tier_loss
    from tier_train.towers.frozen_text import lower_layers, upper_layers

    words, first = model.words, recipe.text_frozen
    pixels = torch.randint(256, (BATCH, 224, 224), dtype=torch.uint8)
    ids = torch.randint(5, recipe.vocab_size, (BATCH, tokens))
    mask = torch.ones_like(ids)
    hidden = lower_layers(words.text, ids, mask, first) if cached else None

    def text() -> Any:
        if hidden is None:
            return words(ids, mask)
        return words.project(upper_layers(words.text, hidden, mask, first))

    def flops(run: Any) -> float:
        model.zero_grad(set_to_none=True)
        # the mathematical kernel, because the counter does not know that of a CPU
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run()
        return float(counter.get_total_flops()) / BATCH

    def step() -> None:
        image_e, patch_e = model.encode_image(pixels)
        token_e = text()
        counted = mask.bool()
        args = (image_e, token_e[:, 0], patch_e, token_e, counted, model.logit_scale, recipe)
        tier_loss(*args).total.backward()

    adam = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), fused=True)
    step()
    adam.step()  # makes its moments, once
    with operations() as counted, torch.autocast("cpu", torch.bfloat16):
        step()
        adam.step()
    with torch.no_grad():
        forward = flops(lambda: model.encode_image(pixels)), flops(text)
    both = flops(lambda: model.encode_image(pixels)[0].sum().backward())
    return Cost(both, forward[0], flops(lambda: text().sum().backward()), forward[1], counted.count)


def operations() -> Any:
    """A context that counts what is dispatched and is no view."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.count += not func.is_view and "empty" not in str(func)
            return func(*args, **(kwargs or {}))

    return Counter()


def loader(recipe: Recipe) -> float:
    """Pictures per second of one core, from uint8 in memory to an augmented crop."""
    import numpy as np
    import torch

    from tier_infer.geometry import GEOMETRIES
    from tier_train.augment import augment

    geometry = GEOMETRIES[recipe.geometry]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(256, size=(256, 312), dtype=np.uint8) for _ in range(64)]
    best = math.inf
    for seed in range(5):
        start = time.process_time()
        augment(pictures, geometry, recipe, torch.Generator().manual_seed(seed))
        best = min(best, time.process_time() - start)
    return len(pictures) / best


@dataclass(frozen=True)
class Plan:
    name: str
    gpus: int
    batch: int  # the contrastive batch, over all GPUs
    cached: bool


PLANS = (
    Plan("1 GPU, batch 32", 1, 32, False),
    Plan("1 GPU, batch 32, cached text", 1, 32, True),
    Plan("8 GPUs, batch 32 (4 each)", 8, 32, False),
    Plan("8 GPUs, batch 32, cached text", 8, 32, True),
    Plan("8 GPUs, batch 256: another method", 8, 256, False),
    Plan("8 GPUs, batch 256, cached text", 8, 256, True),
)


@dataclass(frozen=True)
class Model:
    costs: dict[bool, Cost]  # by whether the frozen layers are cached
    learning: int  # weights that learn
    weights: int
    norms: int  # BatchNorms
    pictures: float  # per second and core


def hours(plan: Plan, model: Model, recipe: Recipe, end: str) -> dict[str, float]:
    """Milliseconds of a step by what binds it, and hours in all."""
    given = {name: figure.at(end) for name, figure in GIVEN.items()}
    cost, each = model.costs[plan.cached], plan.batch / plan.gpus
    image_rate = given["A100, ResNet-50 training, mixed"] * given["H100 over A100 on vision"]
    text_rate = given["H100, BERT matrix products, bf16"] * 1e12
    adam = 28 * model.learning / (given["H100 memory"] * 1e9)  # weight, gradient, two moments
    device = each / image_rate + each * cost.text / text_rate + adam
    host = cost.operations * given["host, per operation"] * 1e-6
    load = each / (model.pictures * given["cores that load, per GPU"])
    talk = 0.0
    if plan.gpus > 1:
        bytes_sent = 4 * model.learning * 2 * (plan.gpus - 1) / plan.gpus
        shown = 1 - given["all-reduce hidden behind backward"]
        talk = shown * bytes_sent / (given["all-reduce over NVLink"] * 1e9)
        # SyncBatchNorm forward and backward; embeddings there and back, counts, the loss
        talk += (2 * model.norms + 6) * given["a small collective of 8"] * 1e-6
    step = max(device, host, load) + talk
    steps = PAIRS // plan.batch
    held_out = 2 * cost.image_forward + model.costs[False].text_forward
    check = HELD_OUT * held_out / (given["H100, float32 validation"] * 1e12) / plan.gpus
    state = 4 * (model.weights + 2 * model.learning) / (given["disk that takes the states"] * 1e9)
    save = state * (1 + steps // recipe.save_every)
    total = EPOCHS * (steps * step + check + save) / 3600
    parts = {"device": device, "host": host, "loader": load, "exchange": talk, "step": step}
    return {k: 1000 * v for k, v in parts.items()} | {
        "pairs/s": plan.batch / step, "rest": EPOCHS * (check + save) / 3600, "hours": total,
    }  # fmt: skip


def measure(tokens: int, pictures: float | None) -> tuple[Model, Recipe]:
    import torch

    from tier_train.model import DualEncoder

    recipe = paper()
    torch.manual_seed(0)
    model = DualEncoder(recipe, recipe.vocab_size).train()
    costs = {cached: cost(model, recipe, tokens, cached) for cached in (False, True)}
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(p.numel() for p in model.parameters())
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    return Model(costs, learning, weights, norms, pictures or loader(recipe)), recipe


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--tokens", type=int, default=48)
    options.add_argument("--pictures-per-second", type=float)
    args = options.parse_args()
    prepare_process(1)
    model, recipe = measure(args.tokens, args.pictures_per_second)
    given = args.pictures_per_second
    run = "--recipe paper --set precision=bf16"
    print(f"{PAIRS:,} pairs, {EPOCHS} epochs, {args.tokens} tokens, {run}\n")
    print("measured here")
    for cached, cost in model.costs.items():
        print(
            f"  {'cached' if cached else 'whole'} text: {cost.image / 1e9:.1f} + "
            f"{cost.text / 1e9:.1f} GFLOP per pair (image, text; forward alone "
            f"{cost.image_forward / 1e9:.1f} + {cost.text_forward / 1e9:.1f}), "
            f"{cost.operations:,} operations per step"
        )
    print(f"  {model.learning / 1e6:.1f} of {model.weights / 1e6:.1f} million weights learn")
    print(f"  {model.norms} BatchNorms; {4 * model.learning / 1e6:.0f} MB of gradients per step")
    print(f"  loader: {model.pictures:.0f} pictures/s per core{' (as given)' if given else ''}")
    print("\npublished and assumed: quick, slow")
    for figure in ASSUMED:
        values = f"{figure.quick:g}" + (f", {figure.slow:g}" * (figure.quick != figure.slow))
        print(f"  {figure.name:<34} {values} {figure.unit}; {figure.source}")
    print("\nms per step: max(device, host, loader) + exchange; hours with validation and states")
    columns = ("device", "host", "loader", "exchange", "step", "pairs/s", "rest", "hours")
    print(f"  {'':<42}" + "".join(f"{c:>9}" for c in columns))
    for plan in PLANS:
        for end in ("quick", "slow"):
            found = hours(plan, model, recipe, end)
            cells = "".join(f"{found[c]:9.{0 if c == 'pairs/s' else 2}f}" for c in columns)
            print(f"  {plan.name:<35} {end:<6}{cells}")


if __name__ == "__main__":
    main()
