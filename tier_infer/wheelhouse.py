"""Which files a machine without a network needs, and whether a folder holds exactly those.

The table `wheels/wheels.json` is made by ci/make_wheels.py from the versions that the tests ran on;
it names no address, so any index or mirror can serve it. x86-64 only; linux means glibc 2.28 or
newer. Files whose sha256 is None come from NVIDIA alone: the public index has a stub that fetches
them, so neither hash nor size is known here.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tier_infer.errors import UsageError

PLATFORMS = {"linux": "linux", "win32": "windows"}
EITHER = ("cpu", "gpu")  # onnxruntime and onnxruntime-gpu overwrite one another
NVIDIA_ONLY = "sha256 not known here: NVIDIA serves it; write it down when you fetch it"
ARCHIVE = ".tar.gz"  # Python without compiled code; pip builds it on the target


@dataclass(frozen=True)
class Target:
    """What is to be installed where; `python` as 3.11."""

    extras: tuple[str, ...]
    platform: str
    python: str

    def __str__(self) -> str:
        glibc = ", glibc 2.28 or newer" if self.platform == "linux" else ""
        return (
            f"tier-cxr[{','.join(self.extras)}] {version('tier-cxr')} on {self.platform} "
            f"(x86-64{glibc}), Python {self.python}"
        )


@dataclass(frozen=True)
class Wheel:
    """One file; `sha256` in hex and `bytes` are None where NVIDIA alone serves it."""

    name: str
    version: str
    file: str
    sha256: str | None
    bytes: int | None


@cache
def _table() -> list[dict[str, Any]]:
    text = resources.files("tier_infer").joinpath("wheels/wheels.json").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)
    return rows


def _known(key: str) -> list[str]:
    """The extras, platforms or pythons of the table, in its order."""
    return list(dict.fromkeys(value for row in _table() for value in row[key]))


def own_wheel() -> str:
    """The file this very installation comes from; a wheel can't hold its own hash."""
    return f"tier_cxr-{version('tier-cxr')}-py3-none-any.whl"


def target(extras: str, platform_name: str | None, python: str | None) -> Target:
    """What was asked, this machine where nothing was. `extras`: A[,B]. UsageError: not listed."""
    named = tuple(dict.fromkeys(part.strip() for part in extras.split(",")))
    for extra in named:
        if extra not in _known("extras"):
            allowed = ", ".join(sorted(_known("extras")))
            raise UsageError(f"--extra {extra}: wheels are listed for {allowed}")
    if set(EITHER) <= set(named):
        raise UsageError("--extra: cpu and gpu overwrite one another; name one of them")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if (python or here) not in _known("pythons"):
        raise UsageError(
            f"Python {python or here}: wheels are listed for {', '.join(_known('pythons'))}, "
            "the versions for which every package has one; name one with --python"
        )
    return Target(named, platform_name or _platform(), python or here)


def _platform() -> str:
    machine = platform.machine()
    if sys.platform in PLATFORMS and machine.lower() in ("x86_64", "amd64"):
        return PLATFORMS[sys.platform]
    raise UsageError(
        f"{sys.platform} {machine}: wheels are listed for linux and windows on x86-64; "
        "name the target with --platform"
    )


def wheels(target: Target) -> list[Wheel]:
    """Every file beside tier-cxr's own, by name."""
    keys = ("name", "version", "file", "sha256", "bytes")
    return [
        Wheel(**{key: row[key] for key in keys})
        for row in _table()
        if set(row["extras"]) & set(target.extras)
        and target.platform in row["platforms"]
        and target.python in row["pythons"]
    ]


def total(files: list[Wheel]) -> str:
    """How many files and how large, as far as known."""
    unknown = sum(wheel.bytes is None for wheel in files)
    size = f"{sum(wheel.bytes or 0 for wheel in files) / 1e6:.1f} MB"
    return f"{len(files)} files, {size}" + (f" and {unknown} of unknown size" if unknown else "")


def to_lines(target: Target, files: list[Wheel]) -> Iterator[str]:
    yield f"{own_wheel()}  the one you were given"
    for wheel in files:
        if wheel.sha256 is None or wheel.bytes is None:
            yield f"{wheel.file}  {NVIDIA_ONLY}"
        else:
            yield f"{wheel.file}  {wheel.bytes:,} bytes  sha256 {wheel.sha256}"
    yield f"{target}: {total(files)} beside the first"


def to_json(target: Target, files: list[Wheel]) -> str:
    """Keys may be added, not renamed."""
    own = {"name": "tier-cxr", "version": version("tier-cxr"), "file": own_wheel()}
    listed = [{**vars(wheel), "served_by_nvidia_only": wheel.sha256 is None} for wheel in files]
    found = {
        "schema": "tier-wheelhouse/1",
        "extras": target.extras,
        "platform": target.platform,
        "python": target.python,
        "bytes": sum(wheel.bytes or 0 for wheel in files),
        "wheels": [
            {**own, "sha256": None, "bytes": None, "served_by_nvidia_only": False},
            *listed,
        ],
    }
    return json.dumps(found, indent=1)


def requirements(target: Target, files: list[Wheel]) -> Iterator[str]:
    """A file for pip: fetch with it where there is a network, install with it where there is none.

    What NVIDIA alone serves stands as a comment: pip takes no line without a hash beside others.
    """
    yield f"# {target}: {total(files)}"
    yield "# Fetch, on a machine with a network:"
    yield f"#   python -m pip download {fetch_options(target, files)} -r THIS_FILE -d wheelhouse"
    yield f"# Put {own_wheel()} into the folder wheelhouse, too. Install, without a network:"
    install = "#   python -m pip install --no-index --find-links wheelhouse"
    yield f"{install} --require-hashes -r THIS_FILE"
    yield f'{install} "wheelhouse/{own_wheel()}[{",".join(target.extras)}]"'
    for wheel in files:
        if wheel.sha256 is None:
            yield f"# {wheel.file}  {NVIDIA_ONLY},"
            yield "# put it into the line below and take the # away:"
            yield f"# {wheel.name}=={wheel.version} --hash=sha256:"
        else:
            yield f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}  # {wheel.file}"


def fetch_options(target: Target, files: list[Wheel]) -> str:
    """Of pip download, for another platform or Python than its own: pip expands no platform tag,
    so each that a file name carries is named."""
    tags = {
        tag
        for wheel in files
        if wheel.file.endswith(".whl") and wheel.sha256 is not None
        for tag in wheel.file.removesuffix(".whl").rpartition("-")[2].split(".")
    }
    platforms = [f"--platform {tag}" for tag in sorted(tags - {"any"})]
    archives = any(wheel.file.endswith(ARCHIVE) for wheel in files)
    only = [] if archives else ["--only-binary=:all:"]
    python = f"--implementation cp --python-version {target.python}"
    return " ".join(["--no-deps --require-hashes", *only, python, *platforms])


def check(folder: Path, files: list[Wheel]) -> tuple[list[str], list[str]]:
    """What is wrong, and hashes of the files whose right ones aren't known here; a line each.

    Right is: each listed file with its bytes, and nothing else. UsageError: no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"--check {folder}: no such folder; fetch with --requirements first")
    wanted: dict[str, Wheel | None] = {own_wheel(): None} | {wheel.file: wheel for wheel in files}
    wrong, told = [], []
    for path in sorted(folder.iterdir()):
        if path.name not in wanted or path.is_symlink() or not path.is_file():
            wrong.append(f"foreign: {path.name}")
    for name, wheel in wanted.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            wrong.append(f"missing: {name}")
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if wheel is None or wheel.sha256 is None:
            whose = "the one you were given" if wheel is None else "of NVIDIA"
            told.append(f"{name}  sha256 {found}  {whose}: compare it with the one you wrote down")
        elif found != wheel.sha256:
            wrong.append(f"changed: {name} has sha256 {found}, listed is {wheel.sha256}")
    return wrong, told
