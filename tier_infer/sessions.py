"""onnxruntime, strictly: the device that was asked for runs the graph, or DeviceError.

onnxruntime itself falls back to the CPU with a line in the log, and `get_available_providers()`
lists GPUs that aren't there; only a session tells where it runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.embeddings import BATCH, Embeddings
from tier_infer.errors import DeviceError, IntegrityError, UsageError
from tier_infer.gpu import gpu, machine

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def run_encoder(session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> Embeddings:
    """pixels: uint8 [N, H, W], in parts of BATCH. The parity gate runs graphs through here, too."""
    parts = [
        session.run(["image_embedding", "patch_embeddings"], {"pixels": part})
        for part in np.split(pixels, range(BATCH, len(pixels), BATCH))
    ]
    image, patches = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return Embeddings(image, patches)


def open_session(graph: bytes, device: str, fused: bool = True) -> onnxruntime.InferenceSession:
    """Of a graph that is whole in itself: IntegrityError for weights in another file. Not `fused`,
    operators run one by one as they stand."""
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
    if provider not in ort.get_available_providers():
        raise DeviceError(
            f"device {device} is not available: the installed onnxruntime is a CPU build; "
            "use --device cpu, or pip install 'tier-cxr[gpu]' in an environment of its own"
        )
    if device == "cuda":
        ort.preload_dlls()
        # Without this an operator that the GPU lacks would run on the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        # TF32 would compute fp32 graphs with ten-bit mantissas and still be called fp32.
        settings = {"use_tf32": "0"} if device == "cuda" else {}
        session = ort.InferenceSession(
            graph,
            options,
            providers=[(provider, settings)],
            enable_fallback=0,  # it would print on stdout, and try again elsewhere
        )
    except Exception as error:  # onnxruntime raises bare pybind classes
        if device == "cpu":
            raise IntegrityError(f"onnxruntime can't load the graph: {error}") from None
        raise DeviceError(f"device {device} can't run this bundle: {error}") from None
    if session.get_providers()[0] != provider:
        raise DeviceError(
            f"device {device} was asked for, onnxruntime gave {session.get_providers()}"
        )
    return session


def rows_of(session: onnxruntime.InferenceSession) -> list[Any]:
    """Inputs and outputs: name, type, shape."""
    return [*session.get_inputs(), *session.get_outputs()]


def runtime_version() -> str:
    return f"onnxruntime {_onnxruntime().__version__}"


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            "no inference engine is installed; pip install 'tier-cxr[cpu]' "
            "(or 'tier-cxr[gpu]' on a machine with an NVIDIA GPU, never both)"
        ) from None
    return onnxruntime


class OnnxEncoder:
    """The encoder graph in an onnxruntime session on the CPU or through CUDA."""

    def __init__(self, bundle: Bundle, device: str, precision: str) -> None:
        self.device, self.precision = device, precision
        self._session = open_session(bundle.encoder(precision), device)
        check_shapes(self._session, bundle)
        self.identity = {
            "device": device,
            "precision": precision,
            "graph": str(bundle.manifest.files[ENCODERS[precision]]["sha256"]),
            "runtime": runtime_version(),
            "machine": machine() if device == "cpu" else str(gpu()),
        }

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        found = run_encoder(self._session, pixels)
        if (
            self._session.get_providers()[0] != PROVIDERS[self.device]
        ):  # onnxruntime may go elsewhere
            raise DeviceError(
                f"device {self.device} gave up while it ran, onnxruntime went on with "
                f"{self._session.get_providers()[0]}; nothing was scored"
            )
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
