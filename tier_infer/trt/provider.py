"""TensorRT inside onnxruntime: an engine that onnxruntime makes, keeps in one file and runs.

`warm_provider` compiles the encoder graph into an EP-context model: an ONNX file of one node that
holds the engine's bytes. It is sealed into TIER_CACHE with a note of all that it depends on.
`open_provider` hands exactly those bytes to onnxruntime, from memory: onnxruntime's own caches of
engines and timings are off, since TensorRT would load them from files that nobody authenticated.

TIER_CACHE/contexts/<bundle12>/sm86-fp16.onnx, .json   each with its .seal, see `cache`
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tier_infer.bundle import ENCODERS, Bundle, canonical, sha256
from tier_infer.cache import Cache
from tier_infer.devices import check_driver
from tier_infer.embeddings import Encoder
from tier_infer.errors import DeviceError
from tier_infer.gpu import gpu
from tier_infer.sessions import (
    OnnxEncoder,
    check_libraries,
    linked_tensorrt,
    open_session,
    prepare,
    runtime_version,
)
from tier_infer.trt.sidecar import WARMUP
from tier_infer.trt.store import open_cache

DEVICE = "tensorrt-ep"
SCHEMA = "tier-ep-context/1"
PROFILE = (1, 8, 32)  # images: least, best, most
NEXT = f"run {WARMUP} --device {DEVICE}"
CALLED = {  # what an engine depends on → what people call it
    "onnxruntime": "",
    "tensorrt": "TensorRT ",
    "gpu": "GPU ",
    "sm": "",
    "driver": "driver ",
    "graph": "graph ",
    "profile": "batches ",
}
Facts = dict[str, Any]


def warm_provider(
    bundle: Bundle,
    precision: str,
    cache: Cache,
    say: Callable[[str], None],
    rebuild: bool = False,
) -> None:
    """Leaves one that fits as it is, unless `rebuild`. DeviceError where there is no GPU, or no
    TensorRT that this onnxruntime is linked with; UsageError for a precision without a graph."""
    graph = bundle.encoder(precision)
    here = _facts(bundle, precision)
    if not rebuild and not isinstance(_find(bundle, here, cache), str):
        say(f"{DEVICE} {precision}: there is an engine for this machine")
        return
    say(f"{DEVICE} {precision}: onnxruntime builds an engine; this takes minutes")
    context = _compile(graph, bundle.manifest.resolved_geometry().crop, cache.folder)
    told = here | {"context_sha256": sha256(context), "context_bytes": len(context)}
    name = _name(bundle, here)
    cache.remove(f"{name}.json")  # a kill leaves the old pair or none
    cache.write(f"{name}.onnx", context)
    cache.write(f"{name}.json", canonical(told).encode())


def open_provider(bundle: Bundle, precision: str) -> Encoder:
    """DeviceError where nothing sealed fits this machine; it never builds."""
    bundle.encoder(precision)  # UsageError where there is none, IntegrityError where it is changed
    here = _facts(bundle, precision)
    found = _find(bundle, here, open_cache())
    if isinstance(found, str):
        raise DeviceError(f"device {DEVICE} is not available: {found}; {NEXT}")
    session = open_session(found, DEVICE, fused=False)
    depends = {"tensorrt": str(here["tensorrt"]), "engine": sha256(found)}
    return OnnxEncoder(bundle, DEVICE, precision, session, depends)


def _facts(bundle: Bundle, precision: str) -> Facts:
    """What an engine for this machine depends on."""
    check_driver(DEVICE)
    prepare(DEVICE)
    check_libraries(DEVICE)
    board = gpu()
    return {
        "schema": SCHEMA,
        "precision": precision,
        "graph": str(bundle.manifest.files[ENCODERS[precision]]["sha256"]),
        "onnxruntime": runtime_version(),
        "tensorrt": linked_tensorrt(),
        "gpu": board.uuid,
        "sm": board.sm,
        "driver": board.driver,
        "profile": list(PROFILE),
    }


def _find(bundle: Bundle, here: Facts, cache: Cache) -> bytes | str:
    """The context model, or why there is none."""
    name = _name(bundle, here)
    told, context = cache.read(f"{name}.json"), cache.read(f"{name}.onnx")
    if told is None or context is None:
        return "there is no engine of this bundle that this installation sealed"
    then: Facts = json.loads(told)  # sealed, so written by `warm_provider`
    other = [key for key in here if then.get(key) != here[key]]
    if other:
        was, now = (
            ", ".join(f"{CALLED.get(key, key + ' ')}{facts.get(key)}" for key in other)
            for facts in (then, here)
        )
        return f"the engine was made for {was}; here: {now}"
    if sha256(context) != then["context_sha256"]:
        return "the engine and its note are not of one piece"
    return context


def _name(bundle: Bundle, here: Facts) -> str:
    return f"contexts/{bundle.manifest.bundle_sha256[:12]}/{here['sm']}-{here['precision']}"


def _compile(graph: bytes, side: int, folder: Path) -> bytes:
    """Not fused: NVIDIA's parser gets the graph as it was exported."""
    least, best, most = (f"pixels:{n}x{side}x{side}" for n in PROFILE)
    with tempfile.TemporaryDirectory(prefix=".context-", dir=folder) as place:  # 0700
        path = Path(place) / "context.onnx"
        open_session(
            graph,
            DEVICE,
            fused=False,
            settings={
                "trt_dump_ep_context_model": "True",
                "trt_ep_context_file_path": str(path),
                "trt_ep_context_embed_mode": "1",
                "trt_profile_min_shapes": least,
                "trt_profile_opt_shapes": best,
                "trt_profile_max_shapes": most,
            },
        )
        left = sorted(file.name for file in Path(place).iterdir())
        if left != [path.name]:
            raise DeviceError(
                f"device {DEVICE} is not available: onnxruntime wrote "
                f"{', '.join(left) or 'nothing'}, where one file with the engine in it is allowed; "
                "use --device cuda, or --device tensorrt"
            )
        return path.read_bytes()
