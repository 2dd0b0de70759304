"""python -m pytest tests/infer/test_wheelhouse_table.py -- is the packaged list right?"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging import tags
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from tests.infer.test_wheelhouse import EXTRAS, TARGETS, on

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "tier_infer/wheels/wheels.json").read_text(encoding="utf-8")
TABLE: list[dict[str, Any]] = json.loads(TEXT)


# The table


def constraints() -> dict[tuple[str, str], set[str]]:
    """(name, version) → hashes."""
    found: dict[tuple[str, str], set[str]] = {}
    key = ("", "")
    for line in (ROOT / "ci/constraints.txt").read_text(encoding="utf-8").splitlines():
        if pinned := re.match(r"([\w.-]+)==(\S+)", line):
            key = (pinned[1], pinned[2])
        found.setdefault(key, set()).update(re.findall(r"sha256:(\w{64})", line))
    return found


def test_every_version_and_hash_is_that_of_the_constraints() -> None:
    """`make constraints` writes both; a table left behind would install what no test ran on."""
    pinned = constraints()
    assert len(TABLE) > 80
    for row in TABLE:
        hashes = pinned[row["name"], row["version"]]
        assert row["sha256"] is None or row["sha256"] in hashes, row["file"]


def test_no_address_is_in_it() -> None:
    assert not re.search(r"://|\.(com|org|io|net)\b", TEXT)


def test_only_what_nvidia_alone_serves_has_no_hash() -> None:
    unknown = {row["file"] for row in TABLE if row["sha256"] is None or row["bytes"] is None}
    assert unknown == {
        "tensorrt_cu13_libs-11.4.0.106-py3-none-manylinux_2_28_x86_64.whl",
        "tensorrt_cu13_libs-11.4.0.106-py3-none-win_amd64.whl",
    }
    archives = {row["name"] for row in TABLE if not row["file"].endswith(".whl")}
    assert archives == {"tensorrt", "tensorrt-cu13", "tensorrt-rtx", "tensorrt-rtx-cu13"}


@pytest.mark.parametrize(("extra", "platform", "python"), TARGETS)
def test_what_tier_cxr_asks_for_is_listed_once(extra: str, platform: str, python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wheels = on(extra, platform, python)
    versions = {wheel["name"]: wheel["version"] for wheel in wheels}
    assert len(versions) == len(wheels)
    for line in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        wanted = Requirement(line)
        assert versions[canonicalize_name(wanted.name)] in wanted.specifier
    for wheel in wheels:
        if wheel["file"].endswith(".whl"):
            found = parse_wheel_filename(wheel["file"])
            assert (found[0], str(found[1])) == (wheel["name"], wheel["version"])
            kinds = {"win" in tag.platform for tag in found[3] if tag.platform != "any"}
            assert kinds <= {platform == "windows"}
            assert not any("aarch64" in tag.platform for tag in found[3])


def closure(extra: str) -> set[str]:
    """Names that the installed tier-cxr[extra] needs here, by the installed metadata."""
    wanted = [("tier-cxr", extra)]
    seen: set[tuple[str, str]] = set()
    while wanted:
        name, asked = wanted.pop()
        if (name, asked) in seen:
            continue
        seen.add((name, asked))
        for line in distribution(name).requires or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": asked}):
                parts = sorted(need.extras) or [""]
                wanted += [(canonicalize_name(need.name), part) for part in parts]
    return {name for name, _ in seen} - {"tier-cxr"}


@pytest.mark.skipif(sys.platform != "linux", reason="the closure of this machine's packages")
@pytest.mark.parametrize("extra", EXTRAS)
def test_it_is_what_the_installed_packages_need(extra: str) -> None:
    """Nothing missing, nothing superfluous, at the versions that this suite runs on."""
    try:
        needed = closure(extra)
    except PackageNotFoundError as absent:
        pytest.skip(f"not installed here: {absent}")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python == "3.14":
        pytest.skip("pyjpegls has no wheel for 3.14")
    wheels = {wheel["name"]: wheel for wheel in on(extra, "linux", python)}
    builders = {"setuptools", "wheel", "packaging"} if extra == "rtx" else set()
    assert needed - set(wheels) == set()
    assert set(wheels) - needed <= builders
    here = set(tags.sys_tags())
    for name in needed:
        assert distribution(name).version == wheels[name]["version"]
        if wheels[name]["file"].endswith(".whl"):
            assert here & parse_wheel_filename(wheels[name]["file"])[3]


# How it is made


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_wheels", ROOT / "ci/make_wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(*endings: str, **more: object) -> dict[str, Any]:
    files = [f"numpy-2.0-{ending}.whl" for ending in endings]
    wheels = [{"name": f, "size": 1, "hashes": {"sha256": "0" * 64}} for f in files]
    return {"name": "numpy", "version": "2.0", "wheels": wheels} | more


@pytest.mark.parametrize(
    ("endings", "platform", "best"),
    [
        (["cp312-cp312-manylinux_2_17_x86_64", "cp312-cp312-manylinux_2_28_x86_64"], "linux", 1),
        (["py3-none-any", "cp39-abi3-manylinux2014_x86_64"], "linux", 1),
        (["cp312-cp312t-win_amd64", "cp312-cp312-win_arm64", "cp312-none-win_amd64"], "windows", 2),
        (["cp313-cp313-win_amd64", "cp311-cp311-win_amd64", "py3-none-any"], "windows", 2),
    ],
)
def test_the_best_fitting_wheel_is_chosen(
    maker: ModuleType, endings: list[str], platform: str, best: int
) -> None:
    assert maker.chosen(package(*endings), platform, "3.12")["file"].endswith(
        f"{endings[best]}.whl"
    )


@pytest.mark.parametrize("tag", ["manylinux_2_34_x86_64", "musllinux_1_2_x86_64", "linux_aarch64"])
def test_a_package_without_a_fitting_wheel_stops_the_making(maker: ModuleType, tag: str) -> None:
    """A source archive would be compiled in the hospital; numpy has one, and it is not taken."""
    with pytest.raises(SystemExit, match=r"numpy 2.0 has no wheel for linux and Python 3.12"):
        maker.chosen(package(f"cp312-cp312-{tag}", sdist={}), "linux", "3.12")


def test_markers_are_those_of_the_target(maker: ModuleType) -> None:
    windows = package(marker="sys_platform == 'win32'")
    new = package(marker="python_full_version >= '3.12' and platform_machine == 'AMD64'")
    assert maker.wanted_on(windows, "windows", "3.11")
    assert not maker.wanted_on(windows, "linux", "3.11")
    assert maker.wanted_on(new, "windows", "3.12")
    assert not maker.wanted_on(new, "windows", "3.11")
