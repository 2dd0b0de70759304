"""An encoder graph → a plan. The network is strongly typed: what the graph states is what is
computed, and no flag of a precision is ever set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tier_infer.errors import DeviceError, UsageError
from tier_infer.gpu import gpu, obstacles
from tier_infer.trt.library import Library, collector
from tier_infer.trt.network import check_ends, parsed, sentence
from tier_infer.trt.precision import inspected, network_types, plan_size
from tier_infer.trt.progress import monitor

# Batch: least, best, most. The first one is for single images and a CUDA graph.
PROFILES = ((1, 1, 1), (1, 8, 32))
PRECISIONS = ("fp32", "fp16")  # int8 is for CPUs: NVIDIA's parser refuses such graphs
LEVELS = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same-cc": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True)
class Wish:
    precision: str  # fp32, fp16: which graph; the types are the graph's own, there is no flag
    hardware_compatibility: str = "none"  # none, ampere+, same-cc
    version_compatible: bool = False
    capabilities: tuple[str, ...] = ()  # TensorRT-RTX only: ("sm86", "sm89"); empty: this GPU


@dataclass(frozen=True)
class Built:
    plan: bytes
    timing_cache: bytes  # b"" where the library has none
    seconds: float
    precision_proof: dict[str, Any]  # JSON facts, see `precision`


def build_plan(
    library: Library,
    graph: bytes,
    wish: Wish,
    timing_cache: bytes = b"",
    say: Callable[[str], None] | None = None,
) -> Built:
    """A timing cache of another library is not an error: the tactics are timed again.

    ParityError when the plan's precision can't be proven, IntegrityError for a graph that does not
    parse or is no encoder, UsageError for a wish that the library does not know, DeviceError
    without a GPU or when the builder gives nothing.
    """
    say = say or (lambda _: None)
    start = time.perf_counter()
    capabilities = _check_wish(library, wish)
    logger = collector(library)
    builder = library.module.Builder(logger)
    say(f"engine: parsing {len(graph) / 1e6:.1f} MB")
    network = parsed(library, builder, logger, graph)
    side = check_ends(library, network)
    proof: dict[str, Any] = {"network": network_types(library, network, wish.precision)}
    config = _configured(library, builder, wish, side)
    _aim(library, config, capabilities)
    timings = None if library.rtx else _timings(config, timing_cache)  # RTX: "no-ops"
    progress = config.progress_monitor = monitor(library, say)
    memory = builder.build_serialized_network(network, config)
    for stopped in (progress.interrupted, logger.interrupted):
        if stopped is not None:
            raise stopped
    if memory is None:
        raise DeviceError(
            f"{library} builds no engine: {sentence(logger.errors)}; run tier-infer doctor"
        )
    plan = bytes(memory)
    say(f"engine: proving {wish.precision}")
    proof |= _proven(library, plan, len(graph), wish, side)
    kept = bytes(timings.serialize()) if timings is not None else b""
    return Built(plan, kept, time.perf_counter() - start, proof)


def _check_wish(library: Library, wish: Wish) -> list[str]:
    """Names of RTX's ComputeCapability; none: the GPU of this machine, which then must be there."""
    if wish.precision not in PRECISIONS:
        raise UsageError(f"engines are {' or '.join(PRECISIONS)}, not {wish.precision}")
    if wish.hardware_compatibility not in LEVELS:
        raise UsageError(
            f"no hardware compatibility {wish.hardware_compatibility!r}; there are "
            f"{', '.join(LEVELS)}"
        )
    if library.rtx and wish.hardware_compatibility != "none":
        raise UsageError(
            f"{library} knows no hardware compatibility {wish.hardware_compatibility}; name the "
            "GPU types instead, as in sm86,sm89"
        )
    if wish.capabilities and not library.rtx:
        raise UsageError(
            f"{library} builds for the GPU that it runs on, not for {', '.join(wish.capabilities)}"
            "; run tier-infer warmup there"
        )
    if not wish.capabilities:
        found = obstacles()
        if found:
            raise DeviceError(
                f"no GPU here: {'; '.join(found)}; run tier-infer warmup on the target"
            )
    if not library.rtx:
        return []
    known = [n for n in library.module.ComputeCapability.__members__ if n.startswith("SM")]
    for capability in wish.capabilities or (gpu().sm,):
        if capability.upper() not in known:
            raise DeviceError(
                f"{library} builds for {', '.join(known).lower()}, not for {capability}; TensorRT "
                "does on such a GPU: pip install 'tier-cxr[tensorrt]'"
            )
    return [capability.upper() for capability in wish.capabilities]


def _configured(library: Library, builder: Any, wish: Wish, side: tuple[int, int]) -> Any:
    trt, config = library.module, builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and rounds float32 to 10 bits
    if wish.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    level = LEVELS[wish.hardware_compatibility]
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector tells names
    for profile in PROFILES:
        shapes = builder.create_optimization_profile()
        least, best, most = ((batch, *side) for batch in profile)
        shapes.set_shape("pixels", min=least, opt=best, max=most)
        if config.add_optimization_profile(shapes) < 0:
            raise DeviceError(f"{library} refuses the profile {profile}; run tier-infer doctor")
    return config


def _aim(library: Library, config: Any, capabilities: list[str]) -> None:
    """At GPUs that need not be here. Without any, the one that is."""
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
    for i, name in enumerate(capabilities):
        if not config.set_compute_capability(getattr(library.module.ComputeCapability, name), i):
            raise DeviceError(
                f"{library} refuses {name.lower()}; run tier-infer warmup on the target"
            )


def _timings(config: Any, known: bytes) -> Any:
    """The cache that the builder reads and fills: the one given if it fits, else an empty one."""
    for data in dict.fromkeys((known, b"")):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _proven(
    library: Library, plan: bytes, graph_bytes: int, wish: Wish, side: tuple[int, int]
) -> dict[str, Any]:
    """The inspector decides where the plan can be loaded, else the plan's size."""
    absent = obstacles()
    if absent or (wish.capabilities and gpu().sm not in wish.capabilities):
        size = plan_size(graph_bytes, len(plan), wish.precision)
        reason = "no GPU here" if absent else f"built for {', '.join(wish.capabilities)}"
        return size | {"inspector": f"not run: {reason}"}
    logger = collector(library)
    runtime = library.module.Runtime(logger)
    runtime.engine_host_code_allowed = wish.version_compatible  # the plan brings its own runtime
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise DeviceError(
            f"{library} does not load the plan that it built: {sentence(logger.errors)}; run "
            "tier-infer doctor"
        )
    found = inspected(library, engine, side, wish.precision)
    return {"plan_bytes": len(plan), "graph_bytes": graph_bytes, "inspector": found}
