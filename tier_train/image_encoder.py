"""ResNet trunk and projection: images → 7×7 unit-norm patches and one global embedding (Fig. 2).

The trunk carries torchvision's key names, so ImageNet and BioViL weights load by name; it's our own
code because torchvision has no build that goes with every CPU build of torch.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

ARCHITECTURES = ("narrow", "resnet50")


def unit_norm(v: Tensor) -> Tensor:
    """v / |v| over the last dimension. Spelled out: F.normalize makes 50 more engine layers."""
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


def build_trunk(arch: str) -> ResNet:
    """narrow: 1 channel, stride 16, 112 px → 7×7. resnet50: 3 channels, stride 32, 224 px → 7×7."""
    if arch == "resnet50":
        return ResNet(Bottleneck, (3, 64, 7, 3), (64, 128, 256, 512), (3, 4, 6, 3))
    return ResNet(BasicBlock, (1, 32, 3, 2), (32, 64, 128), (1, 1, 1))


class ImageEncoder(nn.Module):
    """Trunk, then the projection as 1×1 convolutions, so that every patch goes through it."""

    def __init__(self, arch: str, embed_dim: int, global_pool: str) -> None:
        super().__init__()
        self.trunk = build_trunk(arch)
        self.proj = nn.Sequential(  # keys proj.{0,1,3}.*, as BioViL's projector
            OrderedDict(
                {
                    "0": nn.Conv2d(self.trunk.channels, embed_dim, 1, bias=False),
                    "1": nn.BatchNorm2d(embed_dim),
                    "2": nn.ReLU(inplace=True),
                    "3": nn.Conv2d(embed_dim, embed_dim, 1),
                }
            )
        )
        self.global_pool = global_pool

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: float32 [N, C, H, W], normalised → image_e [N, D], patch_e [N, 7, 7, D], unit norm."""
        projected = self.proj(self.trunk(x)).permute(0, 2, 3, 1)  # [N, 7, 7, D]
        patch_e = unit_norm(projected)
        pooled = patch_e if self.global_pool == "norm_then_mean" else projected
        image_e = unit_norm(pooled.mean((1, 2)))
        return image_e, patch_e


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 or float [N, H, W] in 0..255 → float32 [N, C, H, W], C = len(mean) equal channels.

    Divides by 255 before anything else: multiplying by 1/255 differs in half of the 256 values.
    """
    x = pixels.to(torch.float32).unsqueeze(1) / 255.0  # the cast first: NVIDIA's parser wants it so
    scale = (1 / std).reshape(1, -1, 1, 1)
    shift = (-mean / std).reshape(1, -1, 1, 1)
    return x * scale + shift  # [N, 1, H, W] broadcast to [N, C, H, W]
