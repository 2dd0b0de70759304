"""python -m pytest tests/infer/test_gpu_facts.py -- what the driver is asked, and how.

There is no driver here, so its C interface is played by callbacks of the same C signatures: what
is called with another type or size goes wrong, as it would there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char, c_int, c_uint
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from tier_infer import gpu as facts
from tier_infer.errors import DeviceError
from tier_infer.gpu import Gpu, gpu, obstacles

DEVICE = 7  # a handle, not an index
BYTES = bytes(range(16))
OUT = POINTER(c_int)
TEXT = POINTER(c_char)


def put(target: Any, value: int) -> int:
    target[0] = value
    return 0


def text(target: Any, size: int, value: bytes) -> int:
    assert size > len(value)
    ctypes.memmove(target, value + b"\0", len(value) + 1)
    return 0


class Driver:
    """libcuda.so.1 as cuda.h declares it; with `broken`, one call that returns an error."""

    def __init__(self, broken: str = "", version: int = 13000, name: bytes = b"NVIDIA L4") -> None:
        self.calls: list[str] = []
        attributes = {75: 8, 76: 9}

        def capability(target: Any, which: int, device: int) -> int:
            assert device == DEVICE
            return put(target, attributes[which])

        def identity(target: Any, device: int) -> int:
            assert device == DEVICE
            ctypes.memmove(target, BYTES, 16)
            return 0

        def named(target: Any, size: int, device: int) -> int:
            assert device == DEVICE
            return text(target, size, name)

        self.table: dict[str, tuple[Any, Callable[..., int]]] = {
            "cuInit": (CFUNCTYPE(c_int, c_uint), lambda flags: flags),
            "cuDeviceGetCount": (CFUNCTYPE(c_int, OUT), lambda n: put(n, 1)),
            "cuDeviceGet": (CFUNCTYPE(c_int, OUT, c_int), lambda d, i: put(d, DEVICE + i)),
            "cuDriverGetVersion": (CFUNCTYPE(c_int, OUT), lambda v: put(v, version)),
            "cuDeviceGetName": (CFUNCTYPE(c_int, TEXT, c_int, c_int), named),
            "cuDeviceGetUuid_v2": (CFUNCTYPE(c_int, TEXT, c_int), identity),
            "cuDeviceGetAttribute": (CFUNCTYPE(c_int, OUT, c_int, c_int), capability),
        }
        for call, (kind, function) in self.table.items():
            code = 999 if call == broken else None
            setattr(self, call, kind(self.noted(call, function, code)))

    def noted(self, call: str, function: Callable[..., int], code: int | None) -> Any:
        def noting(*arguments: Any) -> int:
            self.calls.append(call)
            return function(*arguments) if code is None else code

        return noting


def nvml(version: bytes = b"580.65.06", refuses: str = "") -> SimpleNamespace:
    started = CFUNCTYPE(c_int)(lambda: int(refuses == "init"))
    told = CFUNCTYPE(c_int, TEXT, c_uint)(
        lambda target, size: int(refuses == "version") or text(target, size, version)
    )
    return SimpleNamespace(
        nvmlInit_v2=started, nvmlSystemGetDriverVersion=told, nvmlShutdown=CFUNCTYPE(c_int)(int)
    )


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(driver: Any, second: Any = None, system: str = "Linux") -> None:
        linux = {"libcuda.so.1": driver, "libnvidia-ml.so.1": second}
        windows = {"nvcuda.dll": driver, "nvml.dll": second}
        libraries = {"Linux": linux, "Windows": windows}[system]

        def load(name: str) -> Any:
            if libraries.get(name) is None:
                raise OSError(f"{name}: cannot open shared object file")
            return libraries[name]

        monkeypatch.setattr(facts.ctypes, "CDLL", load)
        monkeypatch.setattr(facts.platform, "system", lambda: system)
        monkeypatch.setattr(facts, "glob", lambda _: ["/dev/nvidia0"])

    return install


@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_the_driver_tells_what_an_engine_is_bound_to(
    installed: Callable[..., None], system: str
) -> None:
    installed(Driver(), nvml(), system)
    uuid = f"GPU-{UUID('00010203-0405-0607-0809-0a0b0c0d0e0f')}"
    assert gpu() == Gpu("NVIDIA L4", uuid, "sm89", "580.65.06", "13.0")


def test_versions_are_read_as_cuda_numbers_them(installed: Callable[..., None]) -> None:
    """1000 × major + 10 × minor (cuda.h)."""
    for number, text_ in ((12080, "12.8"), (13010, "13.1"), (11040, "11.4")):
        installed(Driver(version=number))
        assert gpu().cuda == text_


@pytest.mark.parametrize("second", [None, nvml(refuses="init"), nvml(refuses="version")])
def test_without_nvml_the_driver_has_no_number(installed: Callable[..., None], second: Any) -> None:
    installed(Driver(), second)
    assert (gpu().driver, gpu().name) == ("", "NVIDIA L4")


def test_an_old_driver_without_the_second_uuid_call(installed: Callable[..., None]) -> None:
    driver = Driver()
    vars(driver)["cuDeviceGetUuid"] = vars(driver).pop("cuDeviceGetUuid_v2")
    installed(driver)
    assert gpu().uuid.startswith("GPU-00010203-")


@pytest.mark.parametrize("broken", list(Driver().table))
def test_a_driver_that_refuses_is_named_by_its_call(
    installed: Callable[..., None], broken: str
) -> None:
    installed(Driver(broken))
    with pytest.raises(DeviceError, match=f"{broken} returns 999; use --device cpu"):
        gpu()


def test_what_is_no_obstacle_is_asked_first(installed: Callable[..., None]) -> None:
    installed(None)
    with pytest.raises(DeviceError, match=r"the driver library libcuda\.so\.1 can't be loaded"):
        gpu()
    installed(Driver())
    assert obstacles() == []


def test_here() -> None:
    """On whatever machine runs this: a GPU, or the reasons why there is none."""
    if found := obstacles():
        with pytest.raises(DeviceError, match=r"no NVIDIA GPU: .*use --device cpu") as caught:
            gpu()
        assert all(reason in str(caught.value) for reason in found)
    else:
        assert gpu().sm.removeprefix("sm").isdigit()


@pytest.mark.gpu
def test_this_gpu_as_nvidia_smi_knows_it() -> None:
    """Needs an NVIDIA GPU with its driver and nvidia-smi."""
    import shutil
    import subprocess

    if obstacles() or not shutil.which("nvidia-smi"):
        pytest.skip("needs an NVIDIA GPU with its driver and nvidia-smi")
    query = "--query-gpu=name,uuid,compute_cap,driver_version"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines()]
    found = gpu()
    row = next(row for row in rows if row[1] == found.uuid)
    assert [found.name, found.sm, found.driver] == [row[0], f"sm{row[2].replace('.', '')}", row[3]]
