"""python -m pytest tests/infer/trt/test_library.py -- which TensorRT is here, what is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.infer.trt.recorded import VERSIONS, Recorded
from tier_infer.errors import DeviceError
from tier_infer.trt.library import Library, collector, find_library

# What ld.so and NVIDIA's own __init__ said, word for word, of wheels without their libraries.
NO_LIBRARY = "libnvinfer.so.11: cannot open shared object file: No such file or directory"
NO_DLL = "Could not find: nvinfer_11.dll. Is it on your PATH?\\nNote: Paths searched were:\\n['']"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Packages as given, by their code, and no others of NVIDIA's."""

    def install(**codes: str) -> None:
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.delitem(sys.modules, name, raising=False)
            code = codes.get(name, f"raise ModuleNotFoundError('no {name}', name='{name}')")
            (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    yield install
    for name in ("tensorrt", "tensorrt_rtx"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_known_version(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, number = version.partition(" ")
    monkeypatch.setitem(sys.modules, name, Recorded(version).module)
    found = find_library(name)
    assert (found.name, found.version, found.rtx) == (name, number, name == "tensorrt_rtx")
    assert str(found).split() == [{True: "TensorRT-RTX", False: "TensorRT"}[found.rtx], number]


def test_tensorrt_comes_before_rtx(installed: Any) -> None:
    installed(tensorrt="__version__ = '11.4.0.106'", tensorrt_rtx="__version__ = '1.7.1.116'")
    assert find_library().name == "tensorrt"
    assert find_library("tensorrt_rtx").name == "tensorrt_rtx"


def test_rtx_where_tensorrt_does_not_load(installed: Any) -> None:
    installed(tensorrt=f"raise ImportError('{NO_LIBRARY}')", tensorrt_rtx="__version__ = '1.7.1'")
    assert find_library().name == "tensorrt_rtx"
    with pytest.raises(DeviceError, match=r"tensorrt can't load libnvinfer\.so\.11 "):
        find_library("tensorrt")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (f"raise ImportError('{NO_LIBRARY}')", "tensorrt can't load libnvinfer.so.11 "),
        (f'raise FileNotFoundError("{NO_DLL}")', "tensorrt can't load nvinfer_11.dll "),
        ("import tensorrt_bindings_of_nobody", "lacks the package tensorrt_bindings_of_nobody "),
        ("__version__ = '8.6.1'", "tensorrt is of version 8.6.1, 10 or 11 is known "),
        ("__version__ = '12.0'", "tensorrt is of version 12.0, 10 or 11 is known "),
        ("__version__ = 'dev'", "tensorrt tells no version "),
        ("", "tensorrt tells no version "),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(installed: Any, code: str, said: str) -> None:
    installed(tensorrt=code)
    with pytest.raises(DeviceError) as caught:
        find_library()
    assert said + "(pip install 'tier-cxr[tensorrt]')" in str(caught.value)
    assert "tensorrt_rtx is not installed (pip install 'tier-cxr[rtx]')" in str(caught.value)


def test_neither_is_installed() -> None:
    """In a process whose path has neither, as after `pip install tier-cxr[cpu]`."""
    code = (
        "from importlib.machinery import PathFinder\n"
        "real = PathFinder.find_spec\n"
        "hidden = lambda kind, name, *rest: None if 'tensorrt' in name else real(name, *rest)\n"
        "PathFinder.find_spec = classmethod(hidden)\n"
        "from tier_infer.trt.library import find_library\n"
        "from tier_infer.errors import DeviceError\n"
        "try: find_library()\n"
        "except DeviceError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "no TensorRT: the package tensorrt is not installed (pip install 'tier-cxr[tensorrt]'); "
        "the package tensorrt_rtx is not installed (pip install 'tier-cxr[rtx]')\n"
    )


def test_the_collector_keeps_errors_alone(library: Library) -> None:
    logger = collector(library)
    levels = library.module.ILogger.Severity
    for name, level in levels.__members__.items():
        logger.log(level, name)
    assert logger.errors == ["INTERNAL_ERROR", "ERROR"]


def test_the_collector_lets_no_interrupt_into_nvidias_code(library: Library) -> None:
    class Impatient:
        def __int__(self) -> int:
            raise KeyboardInterrupt

    logger = collector(library)
    logger.log(Impatient(), "anything")
    assert isinstance(logger.interrupted, KeyboardInterrupt)
