"""--device: a device by name is granted or refused; `auto` takes the first that can be had.

`auto` never builds: an engine that takes minutes is made by `tier-infer warmup`.
"""

from __future__ import annotations

from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.embeddings import Encoder
from tier_infer.errors import DeviceError, UsageError
from tier_infer.gpu import obstacles
from tier_infer.sessions import OnnxEncoder

GPU_DEVICES = ("tensorrt", "tensorrt-ep", "cuda")  # in the order in which `auto` tries them
DEVICES = ("auto", "cpu", *reversed(GPU_DEVICES))


def choose(bundle: Bundle, device: str, precision: str) -> tuple[Encoder, dict[str, str]]:
    """The encoder, and of `auto` each device passed over with the reason. DeviceError."""
    if device not in DEVICES:
        raise UsageError(f"device {device!r} is unknown; allowed: {', '.join(DEVICES)}")
    if device != "auto":
        return open_encoder(bundle, device, precision), {}
    passed_over: dict[str, str] = {}
    missing = obstacles()
    if precision == "int8":
        passed_over = dict.fromkeys(GPU_DEVICES, "the int8 encoder is made for CPUs")
    elif missing:
        passed_over = dict.fromkeys(GPU_DEVICES, "; ".join(missing))
    else:
        for name in GPU_DEVICES:
            try:
                return open_encoder(bundle, name, precision), passed_over
            except DeviceError as error:
                passed_over[name] = str(error)
    return open_encoder(bundle, "cpu", precision), passed_over


def open_encoder(bundle: Bundle, device: str, precision: str) -> Encoder:
    """Exactly this device; DeviceError where it is not to be had."""
    precision = resolved_precision(bundle, device, precision)
    if device == "tensorrt":
        from tier_infer.trt.run import open_engine

        return open_engine(bundle, precision)
    if device == "tensorrt-ep":
        from tier_infer.trt.provider import open_provider

        return open_provider(bundle, precision)
    return OnnxEncoder(bundle, device, precision)


def resolved_precision(bundle: Bundle, device: str, precision: str) -> str:
    if precision == "auto":  # FP16 gains nothing on a CPU, where it is computed in float32
        half = device != "cpu" and ENCODERS["fp16"] in bundle.manifest.files
        return "fp16" if half else "fp32"
    if precision == "int8" and device != "cpu":
        raise UsageError("the int8 encoder is made for CPUs; use --device cpu, or --precision fp16")
    return precision
