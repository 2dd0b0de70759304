"""What an installation is made of, each part tried out: packages, runtime, machine.

Every function yields `Check`s; a TierError that one raises is a failed line with its exit code.
"""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata

from tier_infer.doctor import machine
from tier_infer.errors import TierError, UsageError

GIB = 2**30
NEEDED_MEMORY = 2 * GIB  # the decode child may take one, the encoder less than another
NEEDED_DISK = GIB
PACKAGES = {  # distribution → module
    "numpy": "numpy",
    "pillow": "PIL",
    "pydicom": "pydicom",
    "click": "click",
    "pyjpegls": "jpeg_ls",
}
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
EXTRA = "pip install 'tier-cxr[jpeg-lossless]'"


@dataclass(frozen=True)
class Check:
    """One line of the doctor."""

    name: str
    status: str  # ok, warn, fail
    sentence: str
    code: int = 0  # exit code when it failed


def guarded(name: str, check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """What the check says up to where it fails; a doctor that crashes helps nobody."""
    try:
        yield from check()
    except TierError as error:
        yield Check(name, "fail", str(error), error.exit_code)
    except Exception as error:  # its text could hold a path of this machine
        yield Check(name, "fail", f"the check itself failed ({type(error).__name__})", 1)


def packages() -> Iterator[Check]:
    """The versions of what scoring imports, and whether they are as new as the package asks."""
    system = f"{platform.system()} {platform.machine()}"
    yield Check("tier-cxr", "ok", metadata.version("tier-cxr"))
    python = f"{platform.python_implementation()} {platform.python_version()}, {system}"
    yield Check("python", "ok", python)
    for distribution, module in PACKAGES.items():
        yield from guarded(distribution, partial(_package, distribution, module))


def _package(distribution: str, module: str) -> Iterator[Check]:
    try:
        importlib.import_module(module)
        version = metadata.version(distribution)
    except (ImportError, metadata.PackageNotFoundError):
        raise UsageError("is not installed or can't be loaded; pip install tier-cxr") from None
    needed = _lowest(distribution)
    if _numbers(version) < _numbers(needed):
        raise UsageError(f"{version}, at least {needed} is needed; pip install -U tier-cxr")
    yield Check(distribution, "ok", version + (_codecs() if distribution == "pillow" else ""))


def _codecs() -> str:
    """The C libraries inside Pillow; without one of them a whole family of files can't be read."""
    from PIL import features

    found = {name: features.version(name) for name in ("jpg", "jpg_2000")}
    if None in found.values():
        raise UsageError("this Pillow was built without JPEG or JPEG 2000; pip install -U pillow")
    turbo = "libjpeg-turbo" if features.check("libjpeg_turbo") else "libjpeg"
    jpeg = features.version("libjpeg_turbo") or found["jpg"]
    return f", {turbo} {jpeg}, OpenJPEG {found['jpg_2000']}"


def _lowest(distribution: str) -> str:
    """The version that pyproject.toml asks for; "0" when it names none."""
    pattern = rf"{re.escape(distribution)}(?:\[[^]]*\])?\s*>=\s*([\d.]+)"
    rows = (re.match(pattern, row, re.IGNORECASE) for row in metadata.requires("tier-cxr") or ())
    return next((row.group(1) for row in rows if row), "0")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def runtime() -> Iterator[Check]:
    """Exactly one distribution may own the module onnxruntime: two overwrite each other's files,
    and who uninstalls one takes files of the other away."""
    owners = {name: version for name in RUNTIMES if (version := _version(name))}
    if len(owners) > 1:
        yield Check(
            "onnxruntime",
            "fail",
            f"{' and '.join(owners)} are installed together and overwrite each other; "
            f"{_anew(owners)}",
            2,
        )
    try:
        import onnxruntime

        version, providers = str(onnxruntime.__version__), onnxruntime.get_available_providers()
    except (ImportError, AttributeError):  # the folder alone may be left, without the module
        raise UsageError(_broken(owners)) from None
    needed = _lowest("onnxruntime")
    if _numbers(version) < _numbers(needed):
        raise UsageError(f"{version}, at least {needed} is needed; pip install -U 'tier-cxr[cpu]'")
    if owners and _numbers(version) not in map(_numbers, owners.values()):
        told = " and ".join(f"{name} {number}" for name, number in owners.items())
        raise UsageError(
            f"the module is of version {version}, installed is {told}; {_anew(owners)}"
        )
    name = next(iter(owners), "onnxruntime of no known package")
    yield Check("onnxruntime", "ok", f"{version} ({name})")
    yield Check("providers", "ok", ", ".join(providers))


def _broken(owners: dict[str, str]) -> str:
    if not owners:
        return (
            "can't be loaded; pip install 'tier-cxr[cpu]' (or 'tier-cxr[gpu]' on a machine with an "
            "NVIDIA GPU, never both)"
        )
    return (
        f"{' and '.join(owners)} is installed and its files are not whole, as when another "
        f"onnxruntime was uninstalled beside it; {_anew(owners)}"
    )


def _anew(owners: dict[str, str]) -> str:
    """`pip install` alone would find that the requirement is already satisfied."""
    return f"pip uninstall {' '.join(owners)}, then pip install 'tier-cxr[cpu]' or 'tier-cxr[gpu]'"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def processor() -> Iterator[Check]:
    usable, total = machine.threads()
    flags = ", ".join(machine.cpu_flags()) or "instruction sets unknown on this platform"
    yield Check("processor", "ok", f"{usable} of {total} threads usable; {flags}")


def memory() -> Iterator[Check]:
    available, total = machine.memory()
    if available is None or total is None:
        whole = "" if total is None else f" of {total / GIB:.1f} GiB"
        yield Check("memory", "ok", f"free part{whole} unknown on this platform")
        return
    sentence = f"{available / GIB:.1f} of {total / GIB:.1f} GiB free"
    if available < NEEDED_MEMORY:
        sentence += f"; large images may need {NEEDED_MEMORY // GIB} GiB"
    yield Check("memory", "warn" if available < NEEDED_MEMORY else "ok", sentence)


def disk() -> Iterator[Check]:
    name, free, writable = machine.free_disk()
    sentence = f"{free / GIB:.1f} GiB free in {name}"
    if not writable:
        yield Check("disk", "warn", f"{name} can't be written")
    elif free < NEEDED_DISK:
        yield Check("disk", "warn", f"{sentence}, which is little")
    else:
        yield Check("disk", "ok", sentence)


def jpeg_lossless() -> Iterator[Check]:
    """The extra that reads the JPEG syntaxes which no base package decodes."""
    version = _version("imagecodecs")
    if version is None:
        yield Check("imagecodecs", "warn", f"not installed; {EXTRA} for JPEG lossless and extended")
        return
    yield from _package("imagecodecs", "imagecodecs")
