"""onnxruntime, strictly: the device that was asked for runs the graph, or DeviceError.

onnxruntime itself falls back to the CPU with a line in the log, and `get_available_providers()`
lists GPUs that aren't there; only a session tells where it runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.embeddings import BATCH, Embeddings
from tier_infer.errors import DeviceError, IntegrityError, UsageError
from tier_infer.gpu import gpu, machine, missing_libraries
from tier_infer.provider_libraries import preload, tensorrt_version, unloadable

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt-ep": "TensorrtExecutionProvider",
}
EXTRAS = {"cuda": "tier-cxr[gpu]", "tensorrt-ep": "tier-cxr[trt-ep]"}
# Keys and what they may say were read from the libraries of onnxruntime-gpu 1.31.1: TensorRT's want
# True or False in words, CUDA's take digits. TF32 would compute fp32 graphs with ten-bit mantissas
# and still call them fp32. Without the flags of half precision TensorRT takes every type from the
# graph. No cache: TensorRT would read engines from files that nobody authenticated.
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "cpu": {},
    "cuda": {"use_tf32": "0"},
    "tensorrt-ep": {
        "trt_fp16_enable": "False",
        "trt_bf16_enable": "False",
        "trt_int8_enable": "False",
        "trt_engine_cache_enable": "False",
        "trt_timing_cache_enable": "False",
        "trt_dump_ep_context_model": "False",
    },
}
TF32 = (
    "NVIDIA_TF32_OVERRIDE"  # cuBLAS, cuDNN and TensorRT read it; of TensorRT no option is handed on
)


def run_encoder(session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> Embeddings:
    """pixels: uint8 [N, H, W], in parts of BATCH. The parity gate runs graphs through here, too."""
    parts = [
        session.run(["image_embedding", "patch_embeddings"], {"pixels": part})
        for part in np.split(pixels, range(BATCH, len(pixels), BATCH))
    ]
    image, patches = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return Embeddings(image, patches)


def open_session(
    graph: bytes, device: str, fused: bool = True, settings: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """Of a graph that is whole in itself: IntegrityError for weights in another file. Not `fused`,
    operators run one by one as they stand. `settings` of the provider come on top of SETTINGS."""
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised below, in our words
    # A graph may name a file for its weights, and onnxruntime would look for it in the working
    # directory, past every hash. Below a device there are no files. Graphs in onnxruntime's own
    # format ignore this, so they are none.
    folder = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(folder, os.devnull)
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    provider = PROVIDERS[device]
    if device != "cpu":
        prepare(device)
        # Without this an operator that the GPU lacks would run on the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(
            graph,
            options,
            providers=[(provider, {**SETTINGS[device], **(settings or {})})],
            enable_fallback=0,  # it would print on stdout, and try again elsewhere
        )
    except Exception as error:  # onnxruntime raises bare pybind classes
        if device == "cpu":
            raise IntegrityError(f"onnxruntime can't load the graph: {error}") from None
        raise DeviceError(refusal(device, str(error))) from error
    _check_granted(session, device)
    return session


def prepare(device: str) -> None:
    """Loads what a GPU's provider needs, as far as it is there. DeviceError for a CPU build."""
    missing = missing_package(device)
    if missing:
        raise DeviceError(
            f"device {device} is not available: {missing}; use --device cpu, or pip install "
            f"'{EXTRAS[device]}' in an environment of its own"
        )
    os.environ[TF32] = "0"
    preload(_onnxruntime(), device)


def check_libraries(device: str) -> None:
    """DeviceError that names what the provider is linked with and the loader does not find."""
    if unloadable(_onnxruntime(), device):
        raise DeviceError(refusal(device, ""))


def missing_package(device: str) -> str:
    """Which onnxruntime a device lacks; empty where it has it. UsageError where there is none."""
    has = PROVIDERS[device] in _onnxruntime().get_available_providers()
    return "" if has else "the installed onnxruntime is a CPU build"


def rows_of(session: onnxruntime.InferenceSession) -> list[Any]:
    """Inputs and outputs: name, type, shape."""
    return [*session.get_inputs(), *session.get_outputs()]


def runtime_version() -> str:
    return f"onnxruntime {_onnxruntime().__version__}"


def linked_tensorrt() -> str:
    """The version of the TensorRT that onnxruntime is linked with; empty where it can't be had."""
    return tensorrt_version(_onnxruntime())


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            "no inference engine is installed; pip install 'tier-cxr[cpu]' "
            "(or 'tier-cxr[gpu]' on a machine with an NVIDIA GPU, never both)"
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):  # a folder without its parts still imports
        raise UsageError(
            "onnxruntime is there in parts only, as where another onnxruntime was uninstalled over "
            "it; tier-infer doctor tells how to mend it"
        )
    onnxruntime.set_default_logger_severity(4)  # it names folders of this machine
    return onnxruntime


def refusal(device: str, message: str) -> str:
    """Names of libraries only: what onnxruntime and the loader say holds folders of a machine."""
    names = missing_libraries(message) or unloadable(_onnxruntime(), device)
    if names:
        found = f"{', '.join(names)} can't be loaded"
        step = f"pip install '{EXTRAS[device]}' brings what it needs"
    else:
        found, step = "onnxruntime refuses this bundle there", "--debug shows its own words"
    return f"device {device} is not available: {found}; {step}, or use --device cpu"


def _check_granted(session: onnxruntime.InferenceSession, device: str) -> None:
    """DeviceError unless the provider of `device` comes first, and nothing after it but the CPU,
    which onnxruntime always lists and `disable_cpu_ep_fallback` keeps idle."""
    wanted, found = PROVIDERS[device], list(session.get_providers() or ())
    if found[:1] != [wanted] or set(found) - {wanted, PROVIDERS["cpu"]}:
        raise DeviceError(
            f"device {device} was asked for, onnxruntime runs the graph by "
            f"{', '.join(found) or 'nothing'}; nothing was scored; tier-infer doctor tells more"
        )


class OnnxEncoder:
    """The encoder graph in an onnxruntime session."""

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        precision: str,
        session: onnxruntime.InferenceSession | None = None,
        depends: Mapping[str, str] | None = None,
    ) -> None:
        """`session`: of something made from the bundle's graph, and `depends`, what its numbers
        depend on beyond graph, onnxruntime and GPU."""
        self.device, self.precision = device, precision
        self._session = session or open_session(bundle.encoder(precision), device)
        check_shapes(self._session, bundle)
        self.identity = {
            "device": device,
            "precision": precision,
            "graph": str(bundle.manifest.files[ENCODERS[precision]]["sha256"]),
            "runtime": runtime_version(),
            "machine": machine() if device == "cpu" else str(gpu()),
            **(depends or {}),
        }

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        """DeviceError where the device gave up: scores of another never leave."""
        self._session.disable_fallback()  # else run() goes on elsewhere, and prints
        _check_granted(self._session, self.device)
        try:
            found = run_encoder(self._session, pixels)
        except Exception as error:
            if self.device == "cpu":
                raise
            raise DeviceError(
                f"device {self.device} gave up while it ran ({type(error).__name__}); nothing was "
                "scored; tier-infer doctor tells more, --debug shows onnxruntime's own words"
            ) from error
        _check_granted(self._session, self.device)
        return found


def check_shapes(session: onnxruntime.InferenceSession, bundle: Bundle) -> None:
    """The graph must be the one that the manifest describes: heat of another grid would be drawn in
    the wrong places."""
    manifest = bundle.manifest
    crop, cells = manifest.resolved_geometry().crop, manifest.cells
    wanted = {
        "pixels": [crop, crop],
        "image_embedding": [manifest.embed_dim],
        "patch_embeddings": [cells, cells, manifest.embed_dim],
    }
    found = {row.name: row.shape[1:] for row in rows_of(session)}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise IntegrityError(
                f"the encoder's {name} have shape {found.get(name)} per image, the manifest says "
                f"{shape}; export the bundle again"
            )
