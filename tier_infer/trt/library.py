"""Which TensorRT there is: TensorRT 11 or 10, else TensorRT-RTX. The three share one Python API.

Nothing here needs a driver: a builder of TensorRT-RTX works without one. Whoever makes a Runtime
asks `gpu.obstacles` first, since without a driver NVIDIA's libraries can end the process.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tier_infer.errors import DeviceError
from tier_infer.gpu import missing_libraries

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}  # module → extra; in order of preference
MAJORS = {"tensorrt": (10, 11), "tensorrt_rtx": (1,)}  # whose API tests/data/tensorrt_api.json has


@dataclass(frozen=True)
class Library:
    name: str  # tensorrt, tensorrt_rtx: the module
    version: str  # 11.4.0.106
    module: Any

    @property
    def rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    def __str__(self) -> str:
        return f"{title(self.name)} {self.version}"


def title(name: str) -> str:
    return {"tensorrt_rtx": "TensorRT-RTX"}.get(name, "TensorRT")


def find_library(name: str | None = None) -> Library:
    """The library `name`, else the first of EXTRAS that loads.

    DeviceError that names each missing package or shared library and the pip line.
    """
    reasons = []
    for candidate in EXTRAS if name is None else (name,):
        found = _load(candidate)
        if isinstance(found, Library):
            return found
        reasons.append(found)
    raise DeviceError(f"no TensorRT: {'; '.join(reasons)}")


def _load(name: str) -> Library | str:
    """The library, or why there is none."""
    remedy = f"pip install 'tier-cxr[{EXTRAS[name]}]'"
    try:
        module: ModuleType = importlib.import_module(name)
        version = str(module.__version__)
        major = int(version.partition(".")[0])
    except ModuleNotFoundError as error:
        if error.name == name:
            return f"the package {name} is not installed ({remedy})"
        return f"{name} lacks the package {error.name} ({remedy})"
    except (ImportError, OSError) as error:  # on Windows NVIDIA's own FileNotFoundError
        libraries = ", ".join(missing_libraries(str(error)))
        return f"{name} can't load {libraries or 'its shared libraries'} ({remedy})"
    except (AttributeError, ValueError):
        return f"{name} tells no version ({remedy})"
    if major not in MAJORS[name]:
        allowed = " or ".join(map(str, MAJORS[name]))
        return f"{name} is of version {version}, {allowed} is known ({remedy})"
    return Library(name, version, module)


def collector(library: Library) -> Any:
    """An ILogger that keeps what NVIDIA says of errors in `errors`, and prints nothing.

    It raises nothing either: an exception that leaves a callback ends the process.
    """
    base: Any = library.module.ILogger
    serious = (int(base.Severity.INTERNAL_ERROR), int(base.Severity.ERROR))

    class Collector(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []
            self.interrupted: BaseException | None = None

        def log(self, severity: Any, msg: str) -> None:
            try:
                if int(severity) in serious:
                    self.errors.append(msg)
            except BaseException as error:  # Ctrl-C arrives wherever Python runs
                self.interrupted = error

    return Collector()
