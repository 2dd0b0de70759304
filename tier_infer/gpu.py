"""The NVIDIA GPU of this machine, asked of its driver: what it is, or why there is none.

Before any library of NVIDIA's is loaded: without a driver some of them end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from glob import glob
from pathlib import Path
from uuid import UUID

from tier_infer.errors import DeviceError

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute in cuda.h


@dataclass(frozen=True)
class Gpu:
    """What an engine is bound to. GPU 0 of those that CUDA_VISIBLE_DEVICES shows."""

    name: str  # NVIDIA H100 80GB HBM3
    uuid: str  # of this very board
    sm: str  # compute capability, sm90
    driver: str  # 580.65.06, of the kernel module; "" where NVML does not tell
    cuda: str  # 13.0, the newest that this driver runs


def obstacles() -> list[str]:
    """Why the driver offers no GPU to any program here; empty when it offers one."""
    system = platform.system()
    if system not in ("Linux", "Windows"):
        return [f"there is no CUDA for {system or 'this system'}"]
    found = []
    if system == "Linux" and not (glob("/dev/nvidia[0-9]*") or os.path.exists("/dev/dxg")):
        found.append(
            "there is no NVIDIA device node (no GPU, no driver, or a container without --gpus)"
        )
    library = "libcuda.so.1" if system == "Linux" else "nvcuda.dll"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return [*found, f"the driver library {library} can't be loaded"]
    count = ctypes.c_int(0)
    for call, code in (
        ("cuInit", driver.cuInit(0)),
        ("cuDeviceGetCount", driver.cuDeviceGetCount(ctypes.byref(count))),
    ):
        if code:
            return [*found, f"the driver refuses: {call} returns {code}"]
    return found if count.value else [*found, "the driver knows no GPU (CUDA_VISIBLE_DEVICES?)"]


def missing_libraries(message: str) -> list[str]:
    """Shared libraries that a loader's message names, without their folders."""
    names = re.findall(r"([\w+.-]+\.(?:so[.\d]*|dll))(?=[:\"',;\s]|\.\s|$)", message)
    return list(dict.fromkeys(n for n in names if not n.startswith("libonnxruntime")))


def gpu() -> Gpu:
    """The first GPU that CUDA_VISIBLE_DEVICES shows, asked of the driver: no package is needed.

    DeviceError where `obstacles` finds some, or where the driver answers with an error.
    """
    found = obstacles()
    if found:
        raise DeviceError(f"no NVIDIA GPU: {'; '.join(found)}; use --device cpu")
    driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    device, version = ctypes.c_int(), ctypes.c_int()
    name, uuid = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    major, minor = ctypes.c_int(), ctypes.c_int()
    uuid_of = "cuDeviceGetUuid_v2" if hasattr(driver, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    for call, *arguments in (
        ("cuInit", 0),
        ("cuDeviceGet", ctypes.byref(device), 0),
        ("cuDriverGetVersion", ctypes.byref(version)),
        ("cuDeviceGetName", name, len(name), device),
        (uuid_of, uuid, device),
        ("cuDeviceGetAttribute", ctypes.byref(major), CAPABILITY_MAJOR, device),
        ("cuDeviceGetAttribute", ctypes.byref(minor), CAPABILITY_MINOR, device),
    ):
        code = getattr(driver, str(call))(*arguments)
        if code:
            raise DeviceError(
                f"no NVIDIA GPU: the driver refuses: {call} returns {code}; use --device cpu"
            )
    return Gpu(
        name=name.value.decode(errors="replace"),
        uuid=f"GPU-{UUID(bytes=uuid.raw)}",
        sm=f"sm{major.value}{minor.value}",
        driver=_driver_version(),
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def _driver_version() -> str:
    """Of the kernel module, from NVML; "" where it does not tell."""
    told = ctypes.create_string_buffer(80)
    try:
        nvml = ctypes.CDLL("nvml.dll" if platform.system() == "Windows" else "libnvidia-ml.so.1")
        if nvml.nvmlInit_v2():
            return ""
        refused = nvml.nvmlSystemGetDriverVersion(told, len(told))
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return ""
    return "" if refused else told.value.decode(errors="replace")


@cache
def machine() -> str:
    """What the numbers of a CPU may depend on: its model and instruction sets, hashed."""
    told = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features")
        told += "".join(sorted({row for row in lines if row.partition(":")[0].strip() in wanted}))
    return hashlib.sha256(told.encode()).hexdigest()
