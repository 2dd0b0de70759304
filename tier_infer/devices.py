"""--device: a device by name is granted or refused; `auto` takes the first that can be had.

`auto` never builds: an engine that takes minutes is made by `tier-infer warmup`. It passes over a
device that is not there, and nothing else: a changed engine, an unknown option or a GPU that does
not give the golden vectors ends the run, so that no CPU answers in place of a GPU that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from tier_infer.bundle import ENCODERS, Bundle
from tier_infer.embeddings import Encoder
from tier_infer.errors import DeviceError, UsageError
from tier_infer.gpu import obstacles
from tier_infer.sessions import EXTRAS, OnnxEncoder, missing_package

GPU_DEVICES = ("tensorrt", "tensorrt-ep", "cuda")  # in the order in which `auto` tries them
DEVICES = ("auto", "cpu", *reversed(GPU_DEVICES))
UNAVAILABLE = "device {} is not available: "
NATIVE = "tier-cxr[tensorrt]' or, for workstations, 'tier-cxr[rtx]"


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
                passed_over[name] = str(error).removeprefix(UNAVAILABLE.format(name))
    return open_encoder(bundle, "cpu", precision), passed_over


def choice_words(device: str, passed_over: Mapping[str, str]) -> str:
    """What `auto` chose and why not the others, devices of one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, reason in passed_over.items():
        reasons.setdefault(reason, []).append(name)
    told = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "; ".join([f"device {device}, chosen by auto", *told])


def open_encoder(bundle: Bundle, device: str, precision: str) -> Encoder:
    """Exactly this device; DeviceError where it is not to be had."""
    precision = resolved_precision(bundle, device, precision)
    if device == "cpu":
        return OnnxEncoder(bundle, device, precision)
    check_driver(device)  # NVIDIA's libraries may end a process that has none
    try:
        return _open_gpu(bundle, device, precision)
    except DeviceError as error:
        reason = str(error).removeprefix(UNAVAILABLE.format(device))
        raise DeviceError(UNAVAILABLE.format(device) + reason) from error


def _open_gpu(bundle: Bundle, device: str, precision: str) -> Encoder:
    if device == "tensorrt":
        from tier_infer.trt.run import open_engine

        return open_engine(bundle, precision)
    if device == "tensorrt-ep":
        from tier_infer.trt.provider import open_provider

        return open_provider(bundle, precision)
    return OnnxEncoder(bundle, device, precision)


def check_driver(device: str) -> None:
    """DeviceError where no driver offers a GPU; it names the packages that are missing, too."""
    missing = obstacles()
    if not missing:
        return
    steps = ["install NVIDIA's driver on a machine with its GPU"]
    packages = _missing_packages(device)
    if packages:
        extra = EXTRAS.get(device, NATIVE)
        steps.append(f"pip install '{extra}' in an environment of its own")
    raise DeviceError(
        f"{UNAVAILABLE.format(device)}{'; '.join([*missing, *packages])}; use --device cpu, or "
        f"{' and '.join(steps)}"
    )


def _missing_packages(device: str) -> list[str]:
    """Looked up, not loaded."""
    if device != "tensorrt":
        found = missing_package(device)
        return [found] if found else []
    missing = []
    if not (find_spec("tensorrt") or find_spec("tensorrt_rtx")):
        missing.append("neither tensorrt nor tensorrt_rtx is installed")
    if not (find_spec("cuda") and find_spec("cuda.bindings")):
        missing.append("cuda-bindings is not installed")
    return missing


def resolved_precision(bundle: Bundle, device: str, precision: str) -> str:
    if precision == "auto":  # FP16 gains nothing on a CPU, where it is computed in float32
        half = device != "cpu" and ENCODERS["fp16"] in bundle.manifest.files
        return "fp16" if half else "fp32"
    if precision == "int8" and device != "cpu":
        raise UsageError("the int8 encoder is made for CPUs; use --device cpu, or --precision fp16")
    return precision
