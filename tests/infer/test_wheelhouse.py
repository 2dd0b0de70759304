"""python -m pytest tests/infer/test_wheelhouse.py -- the list for a machine without a network."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from packaging.utils import parse_wheel_filename

from tier_infer import wheelhouse as room
from tier_infer.cli import main

EXTRAS = ("cpu", "gpu", "rtx", "tensorrt", "jpeg-lossless", "query")
TARGETS = [
    (extra, platform, python)
    for extra in EXTRAS
    for platform in ("linux", "windows")
    for python in ("3.11", "3.12", "3.13")
]


def ask(*args: str) -> Result:
    return CliRunner().invoke(main, ["wheelhouse", *args])


def listed(*args: str) -> list[dict[str, Any]]:
    """Of --json, without tier-cxr's own wheel."""
    done = ask(*args, "--json")
    assert done.exit_code == 0, done.output
    wheels: list[dict[str, Any]] = json.loads(done.stdout)["wheels"]
    assert wheels[0]["file"] == own()
    return wheels[1:]


def own() -> str:
    return f"tier_cxr-{distribution('tier-cxr').version}-py3-none-any.whl"


def on(extra: str, platform: str, python: str) -> list[dict[str, Any]]:
    return listed("--extra", extra, "--platform", platform, "--python", python)


# What is printed


def test_the_list_of_this_machine_for_people() -> None:
    done = ask()
    lines = done.stdout.splitlines()
    wheels = listed()
    assert done.exit_code == 0
    assert lines[0] == f"{own()}  the one you were given"
    for line, wheel in zip(lines[1:-1], wheels, strict=True):
        assert line == f"{wheel['file']}  {wheel['bytes']:,} bytes  sha256 {wheel['sha256']}"
    megabytes = sum(wheel["bytes"] for wheel in wheels) / 1e6
    assert f": {len(wheels)} files, {megabytes:.1f} MB beside the first" in lines[-1]
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in lines[-1]


def test_what_nvidia_alone_serves_is_named_as_such() -> None:
    args = ("--extra", "tensorrt", "--platform", "windows", "--python", "3.12")
    (line,) = (line for line in ask(*args).stdout.splitlines() if "libs" in line)
    assert line == (
        "tensorrt_cu13_libs-11.4.0.106-py3-none-win_amd64.whl  sha256 not known here: "
        "NVIDIA serves it; write it down when you fetch it"
    )
    alone = [wheel["name"] for wheel in listed(*args) if wheel["served_by_nvidia_only"]]
    assert alone == ["tensorrt-cu13-libs"]
    assert "and 1 of unknown size" in ask(*args).stdout
    asked = ask(*args, "--requirements").stdout
    assert "# tensorrt-cu13-libs==11.4.0.106 --hash=sha256:\n" in asked  # to be filled in


def test_several_extras_are_one_list() -> None:
    both = {wheel["file"] for wheel in listed("--extra", "cpu,query")}
    assert both == {w["file"] for extra in ("cpu", "query") for w in listed("--extra", extra)}
    assert len(listed("--extra", "cpu, cpu")) == len(listed("--extra", "cpu"))


@pytest.mark.parametrize(("extra", "platform", "python"), TARGETS)
def test_requirements_pin_every_file_and_name_its_platform(
    extra: str, platform: str, python: str
) -> None:
    args = ("--extra", extra, "--platform", platform, "--python", python)
    text, wheels = ask(*args, "--requirements").stdout, on(extra, platform, python)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    known = [wheel for wheel in wheels if wheel["sha256"]]
    for line, wheel in zip(lines, known, strict=True):
        pinned = f"{wheel['name']}=={wheel['version']} --hash=sha256:{wheel['sha256']}"
        assert line == f"{pinned}  # {wheel['file']}"
    (fetch,) = re.findall(r"^#   python -m (pip download .*)$", text, re.M)
    named = set(re.findall(r"--platform (\S+)", fetch))
    for wheel in known:
        if wheel["file"].endswith(".whl"):
            found = {tag.platform for tag in parse_wheel_filename(wheel["file"])[3]}
            assert found & (named | {"any"})
    archives = any(wheel["file"].endswith(".tar.gz") for wheel in wheels)
    assert ("--only-binary=:all:" in fetch) is not archives  # pip would refuse them
    assert f"--python-version {python} " in fetch
    assert f'"wheelhouse/{own()}[{extra}]"' in text


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--extra", "trt-ep"], "--extra trt-ep: wheels are listed for cpu, gpu, jpeg-lossless"),
        (["--extra", "cpu,"], "--extra : wheels are listed for cpu"),
        (["--extra", "gpu,cpu"], "cpu and gpu overwrite one another"),
        (["--python", "3.14"], "Python 3.14: wheels are listed for 3.11, 3.12, 3.13,"),
        (["--platform", "macos"], "'macos' is not one of 'linux', 'windows'"),
        (["--json", "--requirements"], "exclude one another"),
        (["--requirements", "--check", "."], "exclude one another"),
        (["--check", "nowhere"], "--check nowhere: no such folder"),
    ],
)
def test_what_is_not_listed_is_refused(args: list[str], said: str) -> None:
    done = ask(*args)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("name", "machine"), [("darwin", "arm64"), ("linux", "aarch64")])
def test_another_kind_of_machine_must_name_the_target(
    name: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", name)
    monkeypatch.setattr("platform.machine", lambda: machine)
    done = ask("--python", "3.12")
    assert done.exit_code == 2
    assert "name the target with --platform" in done.stderr
    assert ask("--python", "3.12", "--platform", "windows").exit_code == 0


# --check


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is as listed: a list of three small files, one of them NVIDIA's."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    rows = []
    for name in ("click", "numpy", "tensorrt_cu13_libs"):
        file = folder / f"{name}-1.0-py3-none-any.whl"
        file.write_bytes(name.encode())
        known = {"sha256": hashlib.sha256(name.encode()).hexdigest(), "bytes": len(name)}
        if name.startswith("tensorrt"):
            known = dict.fromkeys(known)
        where = {"extras": ["cpu"], "platforms": ["linux"], "pythons": ["3.12"]}
        rows.append({"name": name, "version": "1.0", "file": file.name, **known, **where})
    (folder / own()).write_bytes(b"ours")
    monkeypatch.setattr(room, "_table", lambda: rows)
    return folder


def check(folder: Path) -> Result:
    return ask("--check", str(folder), "--platform", "linux", "--python", "3.12")


def test_a_folder_that_is_as_listed(house: Path) -> None:
    done = check(house)
    assert done.exit_code == 0
    first, second, last = done.stdout.splitlines()
    ours, theirs = (hashlib.sha256(b).hexdigest() for b in (b"ours", b"tensorrt_cu13_libs"))
    assert first.startswith(f"{own()}  sha256 {ours}  the one you were given")
    assert second.startswith(f"tensorrt_cu13_libs-1.0-py3-none-any.whl  sha256 {theirs}  of NVIDIA")
    assert last.startswith("all there and nothing else: tier-cxr[cpu]")


def spoil(folder: Path, how: str) -> None:
    numpy = folder / "numpy-1.0-py3-none-any.whl"
    if how == "changed":
        numpy.write_bytes(b"numpx")
    elif how == "missing":
        numpy.unlink()
    elif how == "own":
        (folder / own()).unlink()
    elif how == "nvidia":
        (folder / "tensorrt_cu13_libs-1.0-py3-none-any.whl").unlink()
    elif how == "older":
        (folder / "numpy-0.9-py3-none-any.whl").write_bytes(b"numpy")
    elif how == "folder":
        (folder / "more").mkdir()
    elif how == "name":
        (folder / "a\nmissing: b.whl").write_bytes(b"")
    else:  # a link could point somewhere else by the time pip reads it
        numpy.rename(folder.parent / "kept.whl")
        numpy.symlink_to(folder.parent / "kept.whl")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("changed", ["changed: numpy-1.0-py3-none-any.whl has sha256 "]),
        ("missing", ["missing: numpy-1.0-py3-none-any.whl"]),
        ("own", [f"missing: {own()}"]),
        ("nvidia", ["missing: tensorrt_cu13_libs-1.0-py3-none-any.whl"]),
        ("older", ["foreign: numpy-0.9-py3-none-any.whl"]),
        ("folder", ["foreign: more"]),
        ("name", ["foreign: a\\nmissing: b.whl"]),
        ("link", ["foreign: numpy-1.0-py3-", "missing: numpy-1.0-py3-"]),
    ],
)
def test_a_folder_that_is_not_as_listed(house: Path, how: str, said: list[str]) -> None:
    spoil(house, how)
    done = check(house)
    assert done.exit_code == 4
    assert f"not as listed: {len(said)};" in done.stderr
    lines = done.stdout.splitlines()
    for line, start in zip(lines, said, strict=False):
        assert line.startswith(start)
    assert not any(line.startswith("all there") for line in lines)
