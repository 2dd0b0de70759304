"""From a plan's bytes to an engine that is what its sidecar and the bundle's manifest say."""

from __future__ import annotations

from typing import Any

from tier_infer.bundle import Bundle
from tier_infer.errors import DeviceError
from tier_infer.trt.buffers import call
from tier_infer.trt.lane import IMAGE, PATCHES, PIXELS, Tensor
from tier_infer.trt.library import Library, collector
from tier_infer.trt.network import sentence
from tier_infer.trt.precision import inspected
from tier_infer.trt.sidecar import WARMUP, Sidecar

TYPES = {"uint8": "UINT8", "float32": "FLOAT"}  # NumPy's name → TensorRT's


def load_plan(library: Library, plan: bytes, sidecar: Sidecar) -> list[Any]:
    """Logger, runtime and engine, of which each needs the one before: hold the list. `plan` and
    `sidecar` come from `store.find_engine`: this is where a plan becomes code."""
    call("cudaSetDevice", 0)  # the first of those that CUDA_VISIBLE_DEVICES shows
    logger = collector(library)
    runtime = library.module.Runtime(logger)
    if sidecar.version_compatible:  # such a plan brings host code of its own
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise DeviceError(f"{library} refuses the engine: {sentence(logger.errors)}; run {WARMUP}")
    if logger.interrupted is not None:  # Ctrl-C
        raise logger.interrupted
    return [logger, runtime, engine]


def check_engine(
    library: Library, engine: Any, sidecar: Sidecar, bundle: Bundle
) -> dict[str, Tensor]:
    """Inputs and outputs per image. DeviceError for an engine of another shape than the bundle,
    ParityError for one whose precision is not proven."""
    tensors = _checked_tensors(library, engine, bundle)
    _check_profiles(engine, sidecar, tensors[PIXELS].row)
    if not isinstance(sidecar.precision_proof.get("inspector"), dict):  # built without this GPU
        height, width = tensors[PIXELS].row
        inspected(library, engine, (height, width), sidecar.precision)
    return tensors


def _checked_tensors(library: Library, engine: Any, bundle: Bundle) -> dict[str, Tensor]:
    """Inputs and outputs must be those of the manifest: bytes of another shape would be read."""
    trt, manifest = library.module, bundle.manifest
    side, cells, dim = manifest.resolved_geometry().crop, manifest.cells, manifest.embed_dim
    wanted = {
        PIXELS: Tensor("uint8", (side, side)),
        IMAGE: Tensor("float32", (dim,)),
        PATCHES: Tensor("float32", (cells, cells, dim)),
    }
    names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    if names != set(wanted):
        raise DeviceError(f"the engine has inputs and outputs {sorted(names)}; run {WARMUP}")
    for name, tensor in wanted.items():
        mode = trt.TensorIOMode.INPUT if name == PIXELS else trt.TensorIOMode.OUTPUT
        found = (
            engine.get_tensor_mode(name) == mode,
            engine.get_tensor_dtype(name) == getattr(trt.DataType, TYPES[tensor.dtype]),
            engine.get_tensor_location(name) == trt.TensorLocation.DEVICE,
            tuple(engine.get_tensor_shape(name)) == (-1, *tensor.row),
        )
        if not all(found):
            raise DeviceError(
                f"the engine's {name} are {engine.get_tensor_dtype(name)} of shape "
                f"{tuple(engine.get_tensor_shape(name))}, the manifest says {tensor.dtype} of "
                f"{(-1, *tensor.row)}; run {WARMUP}"
            )
    return wanted


def _check_profiles(engine: Any, sidecar: Sidecar, row: tuple[int, ...]) -> None:
    found = tuple(
        tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(PIXELS, index))
        for index in range(engine.num_optimization_profiles)
    )
    wanted = tuple(tuple((n, *row) for n in profile) for profile in sidecar.profiles)
    if found != wanted:
        raise DeviceError(f"the engine's profiles are not those of its sidecar; run {WARMUP}")
