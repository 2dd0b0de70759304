"""onnxruntime, strictly: the device that was asked for runs the graph, or DeviceError.

onnxruntime itself falls back to the CPU with a line in the log, and `get_available_providers()`
lists GPUs that aren't there; only a session tells where it runs.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.errors import DeviceError, IntegrityError, UsageError
from tier_infer.pooling import MAX_DPOOL, Pool, TopK, described, in_blocks, pooled

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DEVICES = ("auto", "cpu", "cuda", "tensorrt")
BATCH = 16  # images per run; bounds memory, not results
PROBES = 64  # patches of the image that shows how a graph pools; more only for a larger k


@dataclass(frozen=True)
class Embeddings:
    image: NDArray[np.float32]  # [N, D], unit norm
    patches: NDArray[np.float32]  # [N, g, g, D], unit norm over D


class Engine:
    """One encoder session on one device."""

    def __init__(self, bundle: Bundle, device: str = "auto", precision: str = "auto") -> None:
        geometry = bundle.manifest.resolved_geometry()
        self._shape = (geometry.crop, geometry.crop)
        self.device, self.precision, self._session = _open_encoder(bundle, device, precision)
        _check_shapes(self._session, bundle)

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        """pixels: uint8 [N, H, W], N ≥ 1. Rows are independent; check them for finite values."""
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._shape:
            raise ValueError(f"pixels must be uint8 [N, {self._shape[0]}, {self._shape[1]}]")
        return run_encoder(self._session, pixels)


class QueryTable:
    """One label set: embeddings → scores. A set of patch scores pools those of an image's P
    patches; a cell of a heatmap is an image of one patch to the same graph."""

    def __init__(self, bundle: Bundle, set_id: str) -> None:
        self.set_id, self.pool = set_id, bundle.manifest.pool(set_id)
        self._session = open_session(bundle.query_graph(set_id), "cpu")  # one small product
        meta: dict[str, Any] = self._session.get_modelmeta().custom_metadata_map
        try:
            self.labels: list[dict[str, Any]] = json.loads(meta["labels"])
            self.ids = [str(label["id"]) for label in self.labels]
            told: object = json.loads(meta.get("pool", "null"))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise IntegrityError(f"label set {set_id} carries no label list") from None
        if meta.get("text_sha256") != bundle.manifest.text_sha256:
            raise IntegrityError(
                f"label set {set_id} was made with another text encoder than this bundle's; make "
                "it again with `tier-export labels`"
            )
        listed = described(self.pool) if self.pool else None
        if told != listed:
            raise IntegrityError(
                f"label set {set_id} pools patch scores by {told} as its graph says, by {listed} "
                "as the manifest does; make it again with `tier-export labels`"
            )
        dim = bundle.manifest.embed_dim
        what = "embeddings" if self.pool is None else "patch_embeddings"
        found = {row.name: (row.type, _sizes(row.shape[1:])) for row in _rows(self._session)}
        wanted = {what: [dim] if self.pool is None else [None, dim], "scores": [len(self.ids)]}
        if found != {name: ("tensor(float)", sizes) for name, sizes in wanted.items()}:
            raise IntegrityError(
                f"label set {set_id} is not float32 scores of {len(self.ids)} labels from "
                f"{what.replace('_', ' ')} of {dim}; make it again with `tier-export labels`"
            )
        self._input = what
        if self.pool is not None:
            self._check_pool(self.pool, dim)

    def image_scores(self, found: Embeddings) -> NDArray[np.float32]:
        """float32 [N, L]: Z of eq. 4 in [−2, 2], of the image's embedding or of its patches; NaN
        where one of those is not finite."""
        if self.pool is None:
            return self._scores(found.image)
        z = in_blocks(self._scores, found.patches, len(self.ids))
        flat = found.patches.reshape(len(found.patches), -1)
        whole = np.isfinite(flat).all(1, keepdims=True)
        return np.where(whole, z, np.float32(np.nan))  # which the k highest may hide

    def cell_scores(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [M, D] → [M, L]: Z of each row by itself, pooled or not."""
        return self._scores(embeddings if self.pool is None else embeddings[:, None])

    def _scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._session.run(["scores"], {self._input: rows})[0]
        if result.shape != (len(rows), len(self.ids)):  # what it declares may be untrue
            raise IntegrityError(
                f"label set {self.set_id} gives scores of shape {list(result.shape)} for "
                f"{len(rows)} images and {len(self.ids)} labels; make it again with "
                "`tier-export labels`"
            )
        return result

    def _check_pool(self, pool: Pool, dim: int) -> None:
        """The graph pools as the manifest says: no other file tells its temperature or k, and the
        hash of a graph that was exchanged with its manifest is right."""
        count = max(min(dim, PROBES), pool.k + 1 if isinstance(pool, TopK) else 0)
        at = np.arange(max(count, dim))
        patches = np.zeros((count, dim), np.float32)
        patches[at % count, at % dim] = 1 + at // dim  # every axis in some patch: scores spread
        patches /= max(float(np.abs(self.cell_scores(patches)).max()), 1e-6)
        exact = pooled(self.cell_scores(patches)[None].astype(np.float64), pool)  # [1, L]
        apart = np.abs(self._scores(patches[None]) - exact).max(initial=0.0)
        if not apart <= MAX_DPOOL:  # NaN is none either
            raise IntegrityError(
                f"label set {self.set_id} does not pool patch scores by {described(pool)}, as the "
                f"manifest says: it differs by {apart:.1e}; make it again with `tier-export labels`"
            )


def run_encoder(session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> Embeddings:
    """pixels: uint8 [N, H, W], in parts of BATCH. The parity gate runs graphs through here, too."""
    parts = [
        session.run(["image_embedding", "patch_embeddings"], {"pixels": part})
        for part in np.split(pixels, range(BATCH, len(pixels), BATCH))
    ]
    image, patches = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return Embeddings(image, patches)


def _open_encoder(
    bundle: Bundle, device: str, precision: str
) -> tuple[str, str, onnxruntime.InferenceSession]:
    """'auto' tries the GPU where onnxruntime was built for one; every other device is strict."""
    if device not in DEVICES:
        raise UsageError(f"device {device!r} is unknown; allowed: auto, cpu, cuda")
    if device == "tensorrt":
        raise DeviceError("this version has no TensorRT engine; use --device cuda or cpu")
    if device == "auto":
        cuda = PROVIDERS["cuda"] in _onnxruntime().get_available_providers()
        if cuda and precision != "int8":
            try:
                return _open_encoder(bundle, "cuda", precision)
            except DeviceError:
                pass  # the CPU is granted below, and every output says so
        return _open_encoder(bundle, "cpu", precision)
    if precision == "auto":  # FP16 gains nothing on a CPU, where it is computed in float32
        half = device == "cuda" and ENCODERS["fp16"] in bundle.manifest.files
        precision = "fp16" if half else "fp32"
    if precision == "int8" and device != "cpu":
        raise UsageError("the int8 encoder is made for CPUs; use --device cpu, or --precision fp16")
    return device, precision, open_session(bundle.encoder(precision), device)


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


def _check_shapes(session: onnxruntime.InferenceSession, bundle: Bundle) -> None:
    """The graph must be the one that the manifest describes: heat of another grid would be drawn in
    the wrong places."""
    manifest = bundle.manifest
    crop, cells = manifest.resolved_geometry().crop, manifest.cells
    wanted = {
        "pixels": [crop, crop],
        "image_embedding": [manifest.embed_dim],
        "patch_embeddings": [cells, cells, manifest.embed_dim],
    }
    found = {row.name: row.shape[1:] for row in _rows(session)}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise IntegrityError(
                f"the encoder's {name} have shape {found.get(name)} per image, the manifest says "
                f"{shape}; export the bundle again"
            )


def _rows(session: onnxruntime.InferenceSession) -> list[Any]:
    """Inputs and outputs: name, type, shape."""
    return [*session.get_inputs(), *session.get_outputs()]


def _sizes(shape: list[Any]) -> list[int | None]:
    """None where a size is free, whatever the graph calls it."""
    return [size if isinstance(size, int) else None for size in shape]


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
