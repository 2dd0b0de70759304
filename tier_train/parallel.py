"""One step on one device or on many: Lightning Fabric, launched by torchrun, and the gradient.

    torchrun --nproc-per-node 4 -m tier_train.cli run …

A process embeds its own B / W pairs; image_e and text_e are gathered, so every pair is told apart
from the whole batch, and the mean of the gradients is that of one process with all B. What differs
is BatchNorm: on GPUs its statistics are synchronised, on CPUs each process has its own, of its own
rows; validation and the checkpoint have those of the first. Every process must see the same files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tier_infer.errors import DeviceError, UsageError
from tier_train.loss import Loss, entropy_counts, tier_loss
from tier_train.model import DualEncoder
from tier_train.recipe import Recipe
from tier_train.sampler import seed_of
from tier_train.towers.frozen_text import FrozenText, upper_layers

if TYPE_CHECKING:
    from lightning_fabric import Fabric

WORKERS = 8  # at most: each prepares some 50 pairs a second from 8-megapixel files
PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def launch(device: str, precision: str) -> Fabric:
    """The process group under torchrun, else this process alone; device: auto, cpu or cuda.

    auto takes CUDA where torch sees it. Raises DeviceError for a device that is not there and
    UsageError for fp16 on a CPU, or for several processes that torchrun did not start.
    """
    processes, here = _launched()
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not cuda:
        raise DeviceError("device cuda: torch sees no CUDA device; --device cpu trains without")
    kind = "cuda" if device == "cuda" or (device == "auto" and cuda) else "cpu"
    if kind == "cuda" and here > cuda:
        raise DeviceError(
            f"device cuda: {here} processes on this machine and {cuda} CUDA devices; "
            f"torchrun --nproc-per-node {cuda}, or --device cpu"
        )
    if precision == "fp16" and kind == "cpu":
        raise UsageError("recipe key precision is 'fp16', which a CPU has not; use fp32 or bf16")
    torch.backends.cudnn.benchmark = kind == "cuda"  # every batch has the same shape
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=kind,
        devices=here,
        num_nodes=processes // here,
        strategy=DDPStrategy(broadcast_buffers=False) if processes > 1 else "auto",
        precision=PRECISION[precision],
        # named, because the guess takes any SLURM job for a launcher
        plugins=TorchElasticEnvironment() if processes > 1 else LightningEnvironment(),
    )
    fabric.launch()
    return fabric


def _launched() -> tuple[int, int]:
    """Processes in all, and on this machine."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and not torch.distributed.is_torchelastic_launched():
        raise UsageError(
            f"WORLD_SIZE is {processes}, but torchrun did not start this process; several need "
            "`torchrun --nproc-per-node N -m tier_train.cli run …`"
        )
    return processes, int(os.environ["LOCAL_WORLD_SIZE"]) if processes > 1 else 1


def share(fabric: Fabric, recipe: Recipe) -> slice:
    """Which rows of a batch are this process's own."""
    rows, rest = divmod(recipe.batch_size, fabric.world_size)
    if rest:
        raise UsageError(
            f"batch_size {recipe.batch_size} can't be shared by {fabric.world_size} processes; "
            f"--set batch_size={(rows + 1) * fabric.world_size}"
        )
    return slice(fabric.global_rank * rows, (fabric.global_rank + 1) * rows)


def workers(fabric: Fabric) -> int:
    """Threads that prepare batches ahead of this process; few, where the cores do the training."""
    if fabric.device.type == "cpu":
        return 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(WORKERS, (os.cpu_count() or 1) // here))


def same_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Gives all processes the first one's BatchNorm statistics, those of the checkpoint.

    A step reads none of them, so before validation is often enough.
    """
    if fabric.world_size > 1:
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        sizes = [b.numel() for b in buffers]
        flat = torch.cat([b.flatten() for b in buffers])
        torch.distributed.broadcast(flat, 0)
        for buffer, values in zip(buffers, torch.split(flat, sizes), strict=True):
            buffer.copy_(values.view_as(buffer))


def finish(fabric: Fabric) -> None:
    """Waits for all processes and parts from them."""
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()


class Towers(nn.Module):
    """The network as a step uses it: the one module whose gradients are averaged.

    The temperature goes through it too, because only what does is averaged at the right moment.
    """

    def __init__(self, model: DualEncoder, recipe: Recipe, frozen: FrozenText | None) -> None:
        super().__init__()
        self.model = model
        self.first = recipe.text_frozen
        self.frozen = frozen

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """x: float32 [n, C, h, w], normalised; ids, mask: int64 [n, T] → image_e [n, D],
        patch_e [n, g, g, D], token_e [n, T, D] and the logarithm of the logit scale."""
        image_e, patch_e = self.model.image(x)
        words: Any = self.model.words
        if self.frozen is None:
            token_e = words(ids, mask)
        else:
            hidden = self.frozen(ids, mask)
            token_e = words.project(upper_layers(words.text, hidden, mask, self.first))
        return image_e, patch_e, token_e, self.model.logit_scale.clone()


def wrapped(
    fabric: Fabric,
    model: DualEncoder,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    frozen: FrozenText | None,
) -> Any:
    """The pair (towers, optimizer), under autocast, gradient scaler and averaging."""
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return fabric.setup(Towers(model, recipe, frozen), optimizer)


def backward(
    fabric: Fabric,
    towers: Any,
    pixels: Tensor,
    ids: Tensor,
    mask: Tensor,
    recipe: Recipe,
    step: int,
) -> Tensor:
    """Gradients of one batch, of which pixels, ids and mask are this process's rows.

    Returns float32 [4], the loss of the whole batch and its parts in the order of `Loss`.
    Dropout is seeded by step, process and chunk: that is all the randomness of a step.
    """
    x = towers.model.network_input(pixels.to(fabric.device, non_blocking=True))
    x = x.contiguous(memory_format=torch.channels_last)
    ids, mask = ids.to(fabric.device), mask.to(fabric.device)
    size = recipe.micro_batch or len(x)
    spans = [slice(i, i + size) for i in range(0, len(x), size)]
    seeds = [seed_of(recipe.seed, 4, step, fabric.global_rank, i) for i in range(len(spans))]
    if len(spans) == 1:
        torch.manual_seed(seeds[0])
        loss = _loss(fabric, towers(x, ids, mask), mask, recipe)
        fabric.backward(loss.total)
    else:
        chunks = [(x[span], ids[span], mask[span]) for span in spans]
        loss = _in_chunks(fabric, towers, chunks, seeds, mask, recipe)
    parts: Any = fabric.all_reduce(torch.stack(loss).detach(), reduce_op="mean")
    return parts  # type: ignore[no-any-return]


def _loss(fabric: Fabric, embeddings: Sequence[Tensor], mask: Tensor, recipe: Recipe) -> Loss:
    """Its mean over the processes is the loss of the whole batch."""
    image_e, patch_e, token_e, logit_scale = embeddings
    counted = mask.bool() if recipe.mask_padding else torch.ones_like(mask, dtype=torch.bool)
    text_e, counts = token_e[:, 0], None
    if fabric.world_size > 1:
        patches = patch_e.shape[1] * patch_e.shape[2]
        counts = _reduced(fabric, entropy_counts(counted, patches))
        image_e, text_e = _gathered(fabric, image_e), _gathered(fabric, text_e)
    return tier_loss(image_e, text_e, patch_e, token_e, counted, logit_scale, recipe, counts)


def _gathered(fabric: Fabric, own: Tensor) -> Tensor:
    """[n, D] → [W · n, D], those of all processes in order.

    Every process computes the whole CLIP loss, so the W gradients for its rows that a summing
    backward pass would collect are all equal: it counts its own W times instead of asking.
    """
    rows = [torch.empty_like(own) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(rows, own.detach().contiguous())
    rows[fabric.global_rank] = own + (fabric.world_size - 1) * (own - own.detach())
    return torch.cat(rows)


def _reduced(fabric: Fabric, own: Tensor) -> Tensor:
    return fabric.all_reduce(own, reduce_op="mean")  # type: ignore[return-value]


def _in_chunks(
    fabric: Fabric,
    towers: Any,
    chunks: list[tuple[Tensor, Tensor, Tensor]],
    seeds: list[int],
    mask: Tensor,
    recipe: Recipe,
) -> Loss:
    """The contrastive batch whole, the activations of one chunk at a time (Gao et al. 2021).

    Embeds all chunks without a graph, takes the gradient of the loss for the embeddings, then
    embeds each chunk again to carry it into the weights. BatchNorm sees a chunk, not the batch;
    its running statistics count the second pass only. Seeds repeat the dropout.
    """
    buffers = [(b, b.clone()) for b in towers.buffers()]
    passed = []
    with torch.no_grad():
        for chunk, seed in zip(chunks, seeds, strict=True):
            torch.manual_seed(seed)
            passed.append(towers(*chunk))
        for buffer, before in buffers:
            buffer.copy_(before)
    *columns, scales = zip(*passed, strict=True)
    leaves = [torch.cat(column).requires_grad_() for column in columns]
    scale = scales[0].clone().requires_grad_()
    loss = _loss(fabric, [*leaves, scale], mask, recipe)
    loss.total.backward()  # type: ignore[no-untyped-call]
    sizes = [len(x) for x, _, _ in chunks]
    slopes: list[Any] = [torch.split(leaf.grad, sizes) for leaf in leaves]  # type: ignore[arg-type]
    for i, (chunk, seed) in enumerate(zip(chunks, seeds, strict=True)):
        last = i == len(chunks) - 1
        with fabric.no_backward_sync(towers, enabled=not last):
            torch.manual_seed(seed)
            *outputs, temperature = towers(*chunk)
            carried = sum((v * slope[i]).sum() for v, slope in zip(outputs, slopes, strict=True))
            fabric.backward(carried + temperature * scale.grad * last)
    return loss
