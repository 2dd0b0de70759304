"""python -m pytest -m gpu -s tests/parity/test_gpu_half.py -- half arithmetic on a real GPU.

Needs: an NVIDIA GPU with its driver and a torch for CUDA (`TORCH=cuda make test`). Skipped
elsewhere; never run so far. It bounds what FP16 costs where no engine of TensorRT can be had, and
tells whether the simulation in `tier_export.half`, which every export relies on, is a fair one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.parity.sides import Sides
from tier_export.half import HalfEncoder, HalfPart, fold
from tier_export.heads import TableScore
from tier_export.parity import Outputs, breaches, compare, outputs
from tier_train.model import DualEncoder

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def cuda() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU and a torch for CUDA: TORCH=cuda make test")
    flags = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False  # TF32 would be called float32 and be none
    with flags:
        yield
    torch.backends.cuda.matmul.allow_tf32 = before


class Whole(nn.Module):
    """The folded network in float32."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.network_input, self.image = model.network_input, fold(model.image)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        image_e, patch_e = self.image(self.network_input(pixels))
        return image_e, patch_e


class TrueHalf(nn.Module):
    """A part in the GPU's own half kernels, in place of its simulation."""

    def __init__(self, part: HalfPart) -> None:
        super().__init__()
        self.inner = part.inner.half()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x.half())
        return found.float()


def true_half(model: DualEncoder) -> nn.Module:
    """As HalfEncoder, but for parts that keep some layers in float32: they stay simulated."""
    half = HalfEncoder(model)
    for name, part in list(half.named_modules()):
        if isinstance(part, HalfPart) and part.rounds_input:
            half.set_submodule(name, TrueHalf(part))
    assert any(isinstance(module, TrueHalf) for module in half.modules())
    return half


KINDS: dict[str, Callable[[DualEncoder], nn.Module]] = {
    "simulated half": HalfEncoder,
    "half kernels": true_half,
}


def on_gpu(sides: Sides, kind: Callable[[DualEncoder], nn.Module], batch: int) -> Outputs:
    """Phantoms through the network on CUDA, `batch` at a time."""
    network = kind(sides.checkpoint.model).to("cuda").eval()

    @torch.no_grad()
    def encode(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = [network(part.to("cuda")) for part in torch.split(torch.from_numpy(pixels), batch)]
        image, patches = (torch.cat([part[i] for part in parts]).cpu().numpy() for i in (0, 1))
        return image, patches

    return outputs(encode, TableScore(sides.table), sides.phantoms.pixels)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("kind", list(KINDS))
def test_half_on_cuda_stays_within_the_gates(sides: Sides, kind: str, batch: int) -> None:
    """|dZ| ≤ 2e-3, cells ≤ 1e-2, |dAUC| ≤ 5e-4 against float32 on the same GPU."""
    right = on_gpu(sides, Whole, batch)
    found = compare(right, on_gpu(sides, KINDS[kind], batch), sides.labels, sides.phantoms)
    where = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {batch}"
    figures = {key: found[key] for key in ("max_dz", "max_dcell", "max_dauc") if key in found}
    print(f"{kind} against float32, {where}: {figures}")
    assert breaches("fp16", found) == []


@pytest.mark.parametrize("batch", [1, 64])
def test_float32_on_cuda_is_float32(sides: Sides, batch: int) -> None:
    """Against torch on the CPU; TF32 would show as 1e-3."""
    found = compare(sides.right, on_gpu(sides, Whole, batch), sides.labels, sides.phantoms)
    print(f"float32 on {torch.cuda.get_device_name()}, batch {batch}: |dZ| {found['max_dz']:.1e}")
    assert found["max_dz"] <= 1e-5
