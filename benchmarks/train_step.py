"""Time of one training step of the paper's model against the released code's way of doing it.

    python benchmarks/train_step.py [--rounds 7] [--batch 8] [--tokens 48] [--threads 2]

ResNet-50 at 224 pixels and a BERT-base whose first 8 layers are frozen, random weights; forward,
backward and Adam. Three loops take turns in one process, on the same pixels and words:

    literal   as TIER's released code does it: the text goes through BERT once for the tokens and
              once for [CLS], every token through the projection by itself, NCHW images
    ours      one text pass, one projection, channels last: a step of `tier-train run`
    cached    likewise with cache_frozen_text: layers 8 to 11 only

All texts are equally long, so that counting padding or not makes no difference, and the three
losses, without dropout, are compared before anything is timed. Wall time is meaningless on a busy
machine: the load is printed, and CPU time beside it.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tier_train.cli.process import prepare_process

if TYPE_CHECKING:
    from torch import Tensor

    from tier_train.model import DualEncoder
    from tier_train.recipe import Recipe
    from tier_train.towers.frozen_text import FrozenText

WARM_UP = 2
GOALS = {"ours": 1.3, "cached": 1.5}
Batch = tuple["Tensor", "Tensor", "Tensor"]  # pixels uint8 [N, 224, 224]; ids, mask [N, T]


def paper(batch: int) -> Recipe:
    """The sizes of the recipe released_code, on random weights. Padding, which is not there, is
    masked, because cached layers have none."""
    from tier_train.recipe import Recipe

    return Recipe(
        geometry="tier-224-imagenet",
        arch="resnet50",
        global_pool="mean_then_norm",
        text_width=768,
        text_layers=12,
        text_heads=12,
        text_dropout=0.1,
        text_frozen=8,
        vocab_size=30522,
        lambda_patch=0.1,
        lambda_token=0.2,
        entropy_eps=1e-7,
        optimizer="adam",
        schedule="constant",
        lr=1e-4,
        weight_decay=1e-6,
        batch_size=batch,
    )


def literal_loss(
    model: DualEncoder, x: Tensor, ids: Tensor, mask: Tensor, recipe: Recipe
) -> Tensor:
    """Written from a description of the released code, nothing of it shared with ours."""
    import torch
    from torch.nn.functional import cross_entropy

    words: Any = model.words
    bert, head = words.text, words.text_head
    hidden = bert(ids, mask).last_hidden_state
    text_e = head(bert(ids, mask).last_hidden_state[:, 0])
    token_e = torch.cat([head(hidden[:, t])[:, None] for t in range(hidden.shape[1])], dim=1)
    projected = model.image.proj(model.image.trunk(x))  # [N, D, 7, 7]
    image_e = projected.mean((2, 3))
    image_e = image_e / image_e.norm(dim=1, keepdim=True)
    text_e = text_e / text_e.norm(dim=1, keepdim=True)
    logits = model.logit_scale.exp() * image_e @ text_e.t()
    target = torch.arange(len(logits))
    clip = (cross_entropy(logits, target) + cross_entropy(logits.t(), target)) / 2
    patch_e = projected.flatten(2)  # [N, D, 49]
    patch_e = patch_e / patch_e.norm(dim=1, keepdim=True)
    sim = torch.bmm(token_e / token_e.norm(dim=2, keepdim=True), patch_e)  # [N, T, 49]
    entropies = []
    for one in (sim, sim.permute(0, 2, 1)):
        share = torch.softmax(one, dim=2) + 1e-7
        entropies.append((-share * torch.log(share)).sum(2).mean())
    return clip + recipe.lambda_patch * entropies[0] + recipe.lambda_token * entropies[1]


class Numbers:
    """Sentences are lists of ids already."""

    max_tokens, vocab_size = 512, 30522

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        import torch

        ids = torch.tensor([self.uncut(sentence) for sentence in sentences])
        return ids, torch.ones_like(ids)

    def uncut(self, sentence: str) -> list[int]:
        return [int(word) for word in sentence.split()]

    def can_read(self, sentence: str) -> bool:
        return True

    def state(self) -> dict[str, object]:
        return {}


@dataclass(frozen=True)
class Loop:
    model: DualEncoder
    step: Callable[[int], float]  # on batch i; returns its loss
    table: FrozenText | None = None


def literal_loop(model: DualEncoder, batches: list[Batch], recipe: Recipe) -> Loop:
    import torch

    inputs = [model.network_input(pixels) for pixels, _, _ in batches]  # not timed: its loaders do
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)

    def step(i: int) -> float:
        adam.zero_grad(set_to_none=True)
        loss = literal_loss(model, inputs[i], *batches[i][1:], recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        return float(loss.detach())

    return Loop(model, step)


def our_loop(model: DualEncoder, batches: list[Batch], recipe: Recipe, cached: bool) -> Loop:
    import torch

    from tier_train.parallel import backward, launch, wrapped
    from tier_train.schedule import build_optimizer
    from tier_train.towers.frozen_text import FrozenText

    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sentences = [" ".join(map(str, row.tolist())) for _, ids, _ in batches for row in ids]
    bert, layers = model.words.get_submodule("text"), recipe.text_frozen
    table = FrozenText(bert, layers, Numbers(), sentences) if cached else None
    fabric = launch("cpu", "fp32")
    towers, adam = wrapped(fabric, model, build_optimizer(model, recipe), recipe, table)

    def step(i: int) -> float:
        adam.zero_grad(set_to_none=True)
        loss = backward(fabric, towers, *batches[i], recipe, i)
        adam.step()
        return float(loss[0])

    return Loop(model, step, table)


def rounding(loop: Loop, batch: Batch) -> float:
    """How far float16 moves a token embedding, of length 1, at most; without dropout."""
    import torch

    from tier_train.towers.frozen_text import upper_layers

    words: Any = loop.model.words
    _, ids, mask = batch
    assert loop.table is not None
    with torch.no_grad():
        hidden = loop.table(ids, mask)
        cached = words.project(upper_layers(words.text, hidden, mask, 8))
        return float((cached - words(ids, mask)).norm(dim=2).max())


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("rounds", 7), ("batch", 8), ("tokens", 48), ("threads", 2)):
        options.add_argument(f"--{name}", type=int, default=default)
    args = options.parse_args()
    prepare_process(args.threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    import torch

    from tier_train.model import DualEncoder

    recipe = paper(args.batch)
    rng = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(1 + WARM_UP + args.rounds):
        pixels = torch.randint(256, (args.batch, 224, 224), generator=rng, dtype=torch.uint8)
        ids = torch.randint(5, 30522, (args.batch, args.tokens), generator=rng)
        batches.append((pixels, ids, torch.ones_like(ids)))
    torch.manual_seed(0)
    model = DualEncoder(recipe, recipe.vocab_size).train()
    loops = {
        "literal": literal_loop(copy.deepcopy(model), batches, recipe),
        "ours": our_loop(copy.deepcopy(model), batches, recipe, cached=False),
        "cached": our_loop(copy.deepcopy(model), batches, recipe, cached=True),
    }
    for loop in loops.values():
        loop.model.words.eval()  # no dropout
    moved = rounding(loops["cached"], batches[0])
    losses = {name: loop.step(0) for name, loop in loops.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-4, losses
    for loop in loops.values():
        loop.model.words.train()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for i in range(1, len(batches)):
        for name, loop in loops.items():
            wall, cpu = time.perf_counter(), time.process_time()
            loop.step(i)
            if i > WARM_UP:
                spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(
        f"batch {args.batch}, {args.tokens} tokens, {args.threads} threads, {args.rounds} rounds, "
        f"load {load:.2f} before\nlosses without dropout: {losses['literal']:.5f}, all within "
        f"1e-4; float16 in the cache moves a token embedding by at most {moved:.1e}"
    )
    medians = {n: [statistics.median(t) for t in zip(*v, strict=True)] for n, v in spent.items()}
    for name, (wall, cpu) in medians.items():
        ratio = [before / now for before, now in zip(medians["literal"], (wall, cpu), strict=True)]
        goal = f"   goal {GOALS[name]}" if name in GOALS else ""
        print(
            f"  {name:<8} {1000 * wall:7.0f} ms {ratio[0]:5.2f} x    {1000 * cpu:7.0f} ms CPU "
            f"{ratio[1]:5.2f} x{goal}"
        )


if __name__ == "__main__":
    main()
