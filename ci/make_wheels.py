"""Writes tier_infer/wheels/wheels.json from ci/constraints.txt: what an air-gapped machine needs.

python ci/make_wheels.py [FILE] -- needs .uv/bin/uv and an index; no address goes into the table.

One row per file: name, version, file, sha256, bytes, and for which extras, platforms and Pythons it
is the right one. Platforms are x86-64: linux with glibc 2.28 or newer, windows. A file that NVIDIA
alone serves has neither hash nor size: on the public index lies a stub that fetches it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging import tags
from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "tier_infer/wheels/wheels.json"
EXTRAS = ("cpu", "gpu", "rtx", "tensorrt", "jpeg-lossless", "query")  # trt-ep: can't be resolved
PYTHONS = ("3.11", "3.12", "3.13")  # 3.14: pyjpegls 1.5.1 is there as source only
LINUX = [
    name
    for minor in range(28, 4, -1)
    for name in (
        f"manylinux_2_{minor}_x86_64",
        *{17: ["manylinux2014_x86_64"], 12: ["manylinux2010_x86_64"], 5: ["manylinux1_x86_64"]}.get(
            minor, []
        ),
    )
]
PLATFORMS = {"linux": LINUX, "windows": ["win_amd64"]}
MARKERS = {
    "linux": {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux"},
    "windows": {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows"},
}
MACHINES = {"linux": "x86_64", "windows": "AMD64"}
SOURCES = {
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "tensorrt-rtx-cu13",
}  # Python only, NVIDIA's
STUBS = {"tensorrt-cu13-libs"}  # a source archive that does nothing but fetch NVIDIA's wheel
STUB_TAGS = {"linux": "py3-none-manylinux_2_28_x86_64", "windows": "py3-none-win_amd64"}


def resolve(*extras: str, also: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The packages of pylock.toml for these extras, at the versions of ci/constraints.txt."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, lock = Path(folder, "wanted.in"), Path(folder, "pylock.toml")
        wanted.write_text("\n".join(also))
        command = [".uv/bin/uv", "pip", "compile", "-q", "--universal", "--no-header"]
        command += ["--python-version", PYTHONS[0], "--format", "pylock.toml", "-o", str(lock)]
        command += ["-c", "ci/constraints.txt", *(f"--extra={extra}" for extra in extras)]
        environment = os.environ | {"UV_FIND_LINKS": ""}
        subprocess.run(
            [*command, "pyproject.toml", str(wanted)], cwd=ROOT, env=environment, check=True
        )
        found: list[dict[str, Any]] = tomllib.loads(lock.read_text())["packages"]
    return found


def supported(platform: str, python: str) -> list[tags.Tag]:
    """Best first."""
    major, minor = (int(part) for part in python.split("."))
    version, names = (major, minor), PLATFORMS[platform]
    interpreter = f"cp{major}{minor}"
    native = tags.cpython_tags(version, abis=[interpreter], platforms=names)
    return [*native, *tags.compatible_tags(version, interpreter, names)]


def wanted_on(package: dict[str, Any], platform: str, python: str) -> bool:
    environment = MARKERS[platform] | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": MACHINES[platform],
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    return "marker" not in package or Marker(package["marker"]).evaluate(environment)


def chosen(package: dict[str, Any], platform: str, python: str) -> dict[str, Any]:
    """File, sha256 and bytes of the one file that is right there."""
    name, version = package["name"], package["version"]
    if name in STUBS:
        file = f"{name.replace('-', '_')}-{version}-{STUB_TAGS[platform]}.whl"
        return {"file": file, "sha256": None, "bytes": None}
    if name in SOURCES and "wheels" not in package:
        return _facts(package["sdist"])
    order = {tag: rank for rank, tag in reversed(list(enumerate(supported(platform, python))))}
    ranked = []
    for wheel in package.get("wheels", []):
        facts = _facts(wheel)
        fits = [order[tag] for tag in parse_wheel_filename(facts["file"])[3] if tag in order]
        if fits:
            ranked.append((min(fits), facts["file"], facts))
    if not ranked:
        raise SystemExit(f"{name} {version} has no wheel for {platform} and Python {python}")
    return min(ranked)[2]


def _facts(entry: dict[str, Any]) -> dict[str, Any]:
    file = entry.get("name") or entry["url"].rpartition("/")[2]
    return {"file": file, "sha256": entry["hashes"]["sha256"], "bytes": entry["size"]}


def rows() -> list[dict[str, Any]]:
    targets: dict[str, set[tuple[str, str]]] = {}
    extras: dict[str, list[str]] = {}
    table: dict[str, dict[str, Any]] = {}
    for extra in EXTRAS:
        packages = resolve(extra)
        if any(package["name"] in SOURCES for package in packages):
            packages = resolve(extra, also=("setuptools", "wheel"))  # pip builds the archives
        used: dict[str, set[tuple[str, str]]] = {}
        for package in packages:
            for platform in PLATFORMS:
                for python in PYTHONS:
                    if wanted_on(package, platform, python):
                        facts = chosen(package, platform, python)
                        file = facts["file"]
                        table[file] = {k: package[k] for k in ("name", "version")} | facts
                        used.setdefault(file, set()).add((platform, python))
        for file, here in used.items():
            extras.setdefault(file, []).append(extra)
            if targets.setdefault(file, here) != here:
                raise SystemExit(f"{file} is needed on other platforms by {extra}")
    for file, row in table.items():
        row["extras"] = extras[file]
        row["platforms"] = [p for p in PLATFORMS if any(p == t for t, _ in targets[file])]
        row["pythons"] = [v for v in PYTHONS if any(v == t for _, t in targets[file])]
        if len(row["platforms"]) * len(row["pythons"]) != len(targets[file]):
            raise SystemExit(f"{file}: platforms and Pythons do not multiply")
    return sorted(table.values(), key=lambda row: (row["name"], row["file"]))


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE
    lines = ",\n ".join(json.dumps(row) for row in rows())
    target.parent.mkdir(exist_ok=True)
    target.write_text(f"[{lines}]\n")


if __name__ == "__main__":
    main()
