"""The shared libraries that onnxruntime's providers are linked with: found, loaded, or named.

onnxruntime-gpu 1.31.1 links CUDA 13, cuDNN 9 and TensorRT 10 (`readelf -d`); what a newer one links
is read from its own files.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import platform
import re
from pathlib import Path
from typing import Any

KINDS = {"cuda": "cuda", "tensorrt-ep": "tensorrt"}  # device → part of the library's name
STRINGS = 1 << 16  # bytes at the start of such a library, among them the names of what it needs
TENSORRT = ("*nvinfer.so.*", "*nvonnxparser.so.*", "nvinfer_[0-9]*.dll", "nvonnxparser_*.dll")


def preload(ort: Any, device: str) -> None:
    """NVIDIA's wheels keep their libraries where no loader looks."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        ort.preload_dlls()
    if device != "tensorrt-ep":
        return
    found = importlib.util.find_spec("tensorrt_libs")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for pattern in TENSORRT:
            for library in sorted(Path(folder).glob(pattern)):
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(library))


def unloadable(ort: Any, device: str) -> list[str]:
    """What the provider's library is linked with and the loader does not find. onnxruntime says it
    in its log only, and of several names one."""
    library = _library(ort, device)
    if not library.is_file():
        return [library.name]
    return [name for name in _linked(library) if not _loads(name)]


def tensorrt_version(ort: Any) -> str:
    """Of the TensorRT that onnxruntime is linked with, 10.16.1; empty where it can't be asked."""
    names = [n for n in _linked(_library(ort, "tensorrt-ep")) if n.startswith("libnvinfer.so")]
    for name in (*names, "nvinfer_10.dll"):
        with contextlib.suppress(OSError, AttributeError):
            code = int(ctypes.CDLL(name).getInferLibVersion())
            return f"{code // 10_000}.{code // 100 % 100}.{code % 100}"
    return ""


def _library(ort: Any, device: str) -> Path:
    stem = f"onnxruntime_providers_{KINDS[device]}"
    name = f"{stem}.dll" if platform.system() == "Windows" else f"lib{stem}.so"
    return Path(ort.__file__).parent / "capi" / name


def _linked(library: Path) -> list[str]:
    """NVIDIA's among the names in an ELF file; none of a DLL, whose loader names nothing either."""
    try:
        with library.open("rb") as file:
            head = file.read(STRINGS)
    except OSError:
        return []
    found = re.findall(rb"\0(lib(?:cu|nv)\w+\.so\.\d+)(?=\0)", head)
    return list(dict.fromkeys(name.decode() for name in found))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
