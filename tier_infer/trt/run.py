"""A plan at work, natively: pinned buffers, a CUDA graph for single images, nothing unproven.

Verified bytes → engine → checked against manifest and sidecar → the golden vectors at every batch
size that it will ever run → encoder.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.embeddings import Embeddings
from tier_infer.errors import DeviceError, ParityError
from tier_infer.golden import Golden, SetScores, of_usable_sets, read_golden, replay
from tier_infer.gpu import Gpu, gpu, obstacles
from tier_infer.trt.lane import HINT, PIXELS, Lane, Tensor
from tier_infer.trt.library import Library, find_library
from tier_infer.trt.loading import check_engine, load_plan
from tier_infer.trt.sidecar import Sidecar
from tier_infer.trt.store import find_engine, keep_kernels, kernels_of, open_cache


def open_engine(bundle: Bundle, precision: str) -> NativeEncoder:
    """The engine of this machine, proven. DeviceError: no GPU, no library, no engine that may be
    loaded. ParityError: it does not give the golden vectors."""
    missing = obstacles()
    if missing:
        raise DeviceError(
            f"device tensorrt is not available: {'; '.join(missing)}; use --device cpu"
        )
    if ENCODERS[precision] not in bundle.manifest.files:
        bundle.encoder(precision)  # says so
    library, here = find_library(), gpu()
    cache = open_cache()
    plan, sidecar = find_engine(bundle, precision, library, here, cache)
    encoder = NativeEncoder(bundle, plan, sidecar, library, here, kernels_of(sidecar, cache))
    try:
        golden = read_golden(bundle)
        if golden:  # without, `proof` refuses
            prove_sizes(bundle, encoder, of_usable_sets(bundle, golden))
        keep_kernels(sidecar, cache, encoder.kernels())
    except BaseException:
        encoder.close()
        raise
    return encoder


class NativeEncoder:
    """One engine on GPU 0. Images run in batches of the profiles' best and largest sizes, a short
    rest is filled up. One thread at a time uses the buffers."""

    device = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        plan: bytes,
        sidecar: Sidecar,
        library: Library,
        here: Gpu,
        kernels: bytes = b"",
    ) -> None:
        """`plan` and `sidecar` as `find_engine` gives them; `kernels`: of an earlier run, RTX."""
        self.precision = sidecar.precision
        self._lock, self._open = threading.Lock(), contextlib.ExitStack()
        self._lanes: dict[int, Lane] = {}  # batch size → what runs it
        self._cache: Any = None
        # Also where nobody closes it: no buffer outlives its encoder.
        self._finalizer = weakref.finalize(self, _closed_quietly, self._open)
        try:
            held = load_plan(library, plan, sidecar)
            self._open.callback(held.clear)  # after everything made from them
            engine = held[-1]
            tensors = check_engine(library, engine, sidecar, bundle)
            self._add_lanes(library, engine, sidecar, tensors, kernels)
            self.sizes = tuple(sorted(self._lanes))
            single = self._warmed(library, tensors[PIXELS])
        except BaseException:
            self.close()
            raise
        self.identity = {
            "device": self.device,
            "precision": self.precision,
            "graph": sidecar.onnx_sha256,
            "plan": sidecar.plan_sha256,
            "runtime": str(library),
            "gpu": f"{here.name} {here.sm} {here.uuid}",
            "driver": here.driver,
            "single_images": single,
        }

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        """pixels: uint8 [N, H, W], N ≥ 1, in batches as `batch_size` cuts them."""
        parts, at = [], 0
        while at < len(pixels):
            size = batch_size(len(pixels) - at, self.sizes)
            parts.append(self.encode_at(pixels[at : at + size], size))
            at += size
        image, patches = ([getattr(part, key) for part in parts] for key in ("image", "patches"))
        return Embeddings(np.concatenate(image), np.concatenate(patches))

    def encode_at(self, pixels: NDArray[np.uint8], size: int) -> Embeddings:
        """pixels: uint8 [n, H, W], 1 ≤ n ≤ size, as one batch of this size."""
        with self._lock:
            if size not in self._lanes:
                raise RuntimeError(f"the engine is closed, or runs no batches of {size}")
            return self._lanes[size].run(pixels, size)

    def kernels(self) -> bytes:
        """What an RTX library compiled for this GPU so far; empty for others."""
        return b"" if self._cache is None else bytes(self._cache.serialize())

    def close(self) -> None:
        """Gives the GPU's memory back; nothing can be encoded any more."""
        with self._lock:
            self._lanes, self._cache = {}, None
            self._finalizer.detach()
            self._open.close()

    def _add_lanes(
        self,
        library: Library,
        engine: Any,
        sidecar: Sidecar,
        tensors: dict[str, Tensor],
        kernels: bytes,
    ) -> None:
        for profile, (_, best, most) in enumerate(sidecar.profiles):
            sizes = tuple(sorted({best, most} - set(self._lanes)))
            if library.rtx:
                config = self._configured(library, engine, kernels, single=sizes == (1,))
                context = engine.create_execution_context(config)
            else:
                context = engine.create_execution_context()
            if context is None:
                raise DeviceError(f"the GPU has no memory left for the engine; {HINT}")
            lane = Lane(context, profile, tensors, sizes)
            self._open.callback(lane.close)
            self._lanes |= dict.fromkeys(sizes, lane)

    def _configured(self, library: Library, engine: Any, kernels: bytes, single: bool) -> Any:
        """RTX compiles kernels for this GPU when a shape first comes. EAGER: the kernel that passed
        the golden vectors is the one that answers, and none is swapped in later."""
        trt, config = library.module, engine.create_runtime_config()
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        graphs = trt.CudaGraphStrategy
        config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if single else graphs.DISABLED
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if kernels:
                self._cache.deserialize(kernels)  # False: of another driver, compiled anew
        if not config.set_runtime_cache(self._cache):
            raise DeviceError(f"{library} refuses its cache of kernels; {HINT}")
        return config

    def _warmed(self, library: Library, pixels: Tensor) -> str:
        """Every size runs once, a single image is captured. Who launches its kernels, for
        `identity`."""
        for size, lane in self._lanes.items():
            lane.run(np.zeros((1, *pixels.row), np.uint8), size)
        if library.rtx:
            return "CUDA graph of the library"
        single = self._lanes.get(1)
        captured = single and single.sizes == (1,) and single.capture(1)
        return "CUDA graph" if captured else "stream"


def batch_size(left: int, sizes: tuple[int, ...]) -> int:
    """The largest size that `left` images fill; a rest of several goes into the smallest batch that
    holds it, not through one by one."""
    full = max((size for size in sizes if size <= left), default=0)
    holds = min((size for size in sizes if size >= left), default=full)
    return full if full > 1 or full == left else holds


class _AtSize:
    """The encoder, made to run everything in batches of one size."""

    def __init__(self, encoder: NativeEncoder, size: int) -> None:
        self.encoder, self.size = encoder, size
        self.device, self.precision = encoder.device, encoder.precision
        self.identity = encoder.identity

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        cuts = np.split(pixels, range(self.size, len(pixels), self.size))
        parts = [self.encoder.encode_at(part, self.size) for part in cuts]
        image, patches = ([getattr(part, key) for part in parts] for key in ("image", "patches"))
        return Embeddings(np.concatenate(image), np.concatenate(patches))


def prove_sizes(bundle: Bundle, encoder: NativeEncoder, golden: Golden) -> None:
    """The golden vectors at every batch size, in every row of the batch. ParityError."""
    for size in encoder.sizes:
        found = replay(bundle, _AtSize(encoder, size), _tiled(golden, size))
        if found.breaches:
            raise ParityError(
                f"tensorrt {encoder.precision} does not give the bundle's golden vectors in "
                f"batches of {size} on this machine: {'; '.join(found.breaches)}; nothing was "
                "scored; tier-infer doctor tells more, --device cpu may be right"
            )


def _tiled(golden: Golden, size: int) -> Golden:
    """The vectors again and again, until they fill a batch."""
    count = len(golden.crops)
    rows = np.arange(max(size, count)) % count
    scores = {k: SetScores(s.sha256, s.z[rows]) for k, s in golden.scores.items()}
    return replace(
        golden,
        crops=golden.crops[rows],
        image=golden.image[rows],
        patches=golden.patches[rows],
        scores=scores,
    )


def _closed_quietly(open_things: contextlib.ExitStack) -> None:
    """For the garbage collector and the end of the process, where the driver may be gone."""
    with contextlib.suppress(DeviceError):
        open_things.close()
