"""Trunk and projection: images → g×g unit-norm patches and one global embedding (Fig. 2); g = 7.

The trunk carries torchvision's key names, so ImageNet and BioViL weights load by name; it's our own
code because torchvision has no build that goes with every CPU build of torch.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from tier_train.recipe import Recipe


def unit_norm(v: Tensor) -> Tensor:
    """v / |v| over the last dimension. Spelled out: F.normalize makes 50 more engine layers."""
    v = v.float() if v.dtype in (torch.bfloat16, torch.float16) else v  # under autocast
    return v / (v * v).sum(-1, keepdim=True).clamp_min(1e-24).sqrt()  # the root of 0 has no slope


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (He et al. 2016, Fig. 5 left)."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(c_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with the stride on the 3×3 (torchvision's v1.5)."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class ResNet(nn.Module):
    """Stem and stages without pooling or classifier: [N, C, H, W] → [N, channels, h, w]."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        stem: tuple[int, int, int, int],  # channels in, channels out, kernel, max-pool kernel
        widths: tuple[int, ...],
        depths: tuple[int, ...],
    ) -> None:
        super().__init__()
        c_in, c, kernel, pool = stem
        self.conv1 = nn.Conv2d(c_in, c, kernel, 2, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(pool, 2, (pool - 1) // 2)
        self.stages = len(widths)
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            blocks: list[nn.Module] = []
            for j in range(depth):
                blocks.append(block(c, width, 2 if i > 1 and j == 0 else 1))
                c = width * block.expansion
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.channels = c
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{i}")(x)
        return x


def build_trunk(arch: str, patch_layer: str = "last") -> nn.Module:
    """narrow: 1 channel, stride 16. resnet50: 3 channels, stride 32, or 16 without its last stage.
    vit-b32: 3 channels, stride 32; gives ([CLS], grid)."""
    if arch == "narrow":
        return ResNet(BasicBlock, (1, 32, 3, 2), (32, 64, 128), (1, 1, 1))
    if arch == "vit-b32":
        from tier_train.towers.vit import ViTTrunk

        return ViTTrunk()
    stages = 3 if patch_layer == "layer3" else 4
    widths, depths = (64, 128, 256, 512)[:stages], (3, 4, 6, 3)[:stages]
    return ResNet(Bottleneck, (3, 64, 7, 3), widths, depths)


def build_projector(kind: str, channels: int, embed_dim: int) -> nn.Sequential:
    """1×1 convolutions, so that every patch goes through them; keys as BioViL's projector."""
    first = nn.Conv2d(channels, embed_dim, 1, bias=False)
    if kind == "linear":
        return nn.Sequential(OrderedDict({"0": first}))
    return nn.Sequential(
        OrderedDict(
            {
                "0": first,
                "1": nn.BatchNorm2d(embed_dim),
                "2": nn.ReLU(inplace=True),
                "3": nn.Conv2d(embed_dim, embed_dim, 1),
            }
        )
    )


class ImageEncoder(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.trunk = build_trunk(recipe.arch, recipe.patch_layer)
        channels = self.trunk.channels
        assert isinstance(channels, int)
        self.proj = build_projector(recipe.projector, channels, recipe.embed_dim)
        self.global_pool = recipe.global_pool

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: float32 [N, C, H, W], normalised → image_e [N, D], patch_e [N, g, g, D], unit norm."""
        features = self.trunk(x)
        cls, grid = features if isinstance(features, tuple) else (None, features)
        projected = self.proj(grid).permute(0, 2, 3, 1)  # [N, g, g, D]
        patch_e = unit_norm(projected)
        if self.global_pool == "cls":
            assert cls is not None  # the recipe allows it for a transformer only
            return unit_norm(self.proj(cls[:, :, None, None]).flatten(1)), patch_e
        pooled = patch_e if self.global_pool == "norm_then_mean" else projected
        return unit_norm(pooled.mean((1, 2))), patch_e


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 or float [N, H, W] in 0..255 → float32 [N, C, H, W], C = len(mean) equal channels.

    Divides by 255 before anything else: multiplying by 1/255 differs in half of the 256 values.
    """
    x = pixels.to(torch.float32).unsqueeze(1) / 255.0  # the cast first: NVIDIA's parser wants it so
    scale = (1 / std).reshape(1, -1, 1, 1)
    shift = (-mean / std).reshape(1, -1, 1, 1)
    return x * scale + shift  # [N, 1, H, W] broadcast to [N, C, H, W]
