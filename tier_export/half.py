"""The arithmetic of an FP16 engine in torch, on a CPU: the second proof of the FP16 twin."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from tier_export.fp16 import MIN_FAN_IN
from tier_train.model import DualEncoder
from tier_train.towers.image_encoder import ImageEncoder


class HalfEncoder(nn.Module):
    """The same arithmetic in torch, with half activations: what a GPU does and onnxruntime on a CPU
    does not (there FP16 graphs are computed in float32).

    Weights and every tensor between two operators are rounded to half, sums run in float32, as
    tensor cores do. torch has half convolutions for CPUs, too, but slow ones.
    """

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.network_input = model.network_input
        self.image = fold(model.image)
        trunk: Any = self.image.trunk
        parts = ["trunk"]
        kept: list[nn.Conv2d] = []
        if _fan_in(trunk.conv1) < MIN_FAN_IN:  # half begins behind it
            parts = [f"trunk.{name}" for name, _ in trunk.named_children() if "layer" in name]
            block = trunk.layer1[0]
            first = [block.conv1, *(block.downsample or ())]
            kept = [m for m in first if isinstance(m, nn.Conv2d) and _fan_in(m) < MIN_FAN_IN]
        for name in (*parts, "proj"):
            part = HalfPart(self.image.get_submodule(name), kept if "layer1" in name else ())
            self.image.set_submodule(name, part)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels: uint8 [N, H, W] → image_e [N, D], patch_e [N, g, g, D], float32."""
        image_e, patch_e = self.image(self.network_input(pixels))
        return image_e, patch_e


class HalfPart(nn.Module):
    """A tower, or a part of one, in half arithmetic; it rounds the weights of the module given.

    `kept` are those modules in it that read its input, in float32; what they give is rounded.
    """

    def __init__(self, inner: nn.Module, kept: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.inner = inner
        self.rounds_input = not kept
        for module in inner.modules():
            if not isinstance(module, nn.LayerNorm) and module not in kept:
                for weight in module.parameters(recurse=False):
                    weight.data = rounded(weight.data)

    def forward(self, x: Tensor) -> Any:
        with _Rounding():
            return self.inner(rounded(x) if self.rounds_input else x)


class _Rounding(TorchFunctionMode):
    """Rounds what every operator gives. Attention and Linear, one call in torch, are taken apart
    into the operators that the graph has."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            return _attention(*args[:3])
        if func is functional.linear and args[2] is not None:
            return rounded(rounded(functional.linear(*args[:2])) + args[2])
        out = func(*args, **(kwargs or {}))
        return rounded(out) if isinstance(out, Tensor) and out.dtype == torch.float32 else out


def _fan_in(conv: nn.Conv2d) -> int:
    return conv.weight[0].numel()


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The exporter puts the root of 1 / √width on both sides of the product."""
    scale = q.shape[-1] ** -0.25
    logits = rounded(rounded(q * scale) @ rounded(k * scale).transpose(-1, -2))
    return rounded(rounded(logits.softmax(-1)) @ v)


def rounded(x: Tensor) -> Tensor:
    """The nearest half value of every element, as float32; beyond 65504 it's infinite, as there."""
    return x.to(torch.float16).to(torch.float32)


def fold(image: ImageEncoder) -> ImageEncoder:
    """A copy with every BatchNorm folded into the Conv before it, as the exporter does."""
    folded = copy.deepcopy(image).eval()
    for parent in list(folded.modules()):
        for conv_name, norm_name in itertools.pairwise(list(parent._modules)):
            conv, norm = parent._modules[conv_name], parent._modules[norm_name]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent._modules[conv_name] = fuse_conv_bn_eval(conv, norm)
                parent._modules[norm_name] = nn.Identity()
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise RuntimeError(f"BatchNorm {left[0]} could not be folded")
    return folded
