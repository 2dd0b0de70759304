"""docs/offline.md says what the code does: commands, files, sizes, on Linux and on Windows."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from tests.test_docs import ROOT
from tests.test_readme import leaf
from tier_infer import wheelhouse as room
from tier_infer.cli import main

TEXT = (ROOT / "docs/offline.md").read_text(encoding="utf-8")
BLOCKS = [
    [line.strip() for line in block.splitlines()]
    for block in re.findall(r"(?:^    .*\n)+", TEXT, re.M)
]
LINES = [line for block in BLOCKS for line in block]
SHOWN = sorted({found[0] for line in LINES if (found := re.search(r"tier-infer .+", line))})


def steps(number: int) -> list[list[str]]:
    """The blocks of a section."""
    section = next(p for p in re.split(r"^## ", TEXT, flags=re.M) if p.startswith(f"{number}."))
    blocks = re.findall(r"(?:^    .*\n)+", section, re.M)
    return [[line.strip() for line in block.splitlines()] for block in blocks]


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_shown_takes_its_arguments(line: str) -> None:
    command, rest = leaf(shlex.split(re.split(r" [>|] ", line)[0]))
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    assert {word for word in rest if word.startswith("-")} <= options


def test_every_option_of_the_list_is_told() -> None:
    for param in main.commands["wheelhouse"].params:
        if isinstance(param, click.Option) and not {"--debug", "--json"} & set(param.opts):
            assert any(f"{name} " in TEXT for name in param.opts), param.opts


@pytest.mark.parametrize("number", [2, 4])
def test_linux_and_windows_take_the_same_steps(number: int) -> None:
    """The same words, but for paths, tools and the quirks of a shell."""
    linux, windows = steps(number)[:2]
    pip, asked = ("pip install", "pip download", "pip check"), "tier-infer"

    def told(block: list[str]) -> list[list[str]]:
        lines = [re.split(r" [>|] ", x)[0] for x in block if asked in x or any(p in x for p in pip)]
        cut = [re.sub(r"^\S*[/\\](pip|tier-infer|python -m pip)", r"\1", line) for line in lines]
        plain = [line.replace("python -m ", "").replace(".\\", "./") for line in cut]
        return [line.replace("windows", "linux").split() for line in plain]

    assert told(linux) == told(windows)
    assert len(told(linux)) >= 3


def test_pip_is_called_as_the_file_itself_says() -> None:
    done = CliRunner().invoke(main, ["wheelhouse", "--requirements", "--python", "3.11"])
    said = re.findall(r"^#   python -m (pip install .*)$", done.stdout, re.M)
    shown = [re.sub(r"^\S*/bin/", "", line) for line in steps(4)[0] if "pip install" in line]
    assert shown == [line.replace("THIS_FILE", "tier-cxr.txt") for line in said]


def test_sizes_are_those_of_the_list() -> None:
    rows = re.findall(r"^\| `([\w,-]+)` \| .* \| (.+) \| (.+) \|$", TEXT, re.M)
    assert [row[0] for row in rows] == ["--extra", "cpu", "gpu", "cpu,rtx", "cpu,tensorrt"]
    for extra, *said in rows[1:]:
        for platform, cell in zip(("linux", "windows"), said, strict=True):
            total = room.total(room.wheels(room.target(extra, platform, "3.11")))
            size = total.partition(", ")[2].replace("and 1 of", "and one of")
            assert cell == size, (extra, platform)


def test_what_only_nvidia_serves_is_named() -> None:
    alone = [
        wheel
        for platform in ("linux", "windows")
        for wheel in room.wheels(room.target("tensorrt", platform, "3.11"))
        if wheel.sha256 is None
    ]
    first, second = alone
    assert f"`{first.file}`" in TEXT
    assert second.file.endswith(re.findall(r"`…(-py3-none-\w+\.whl)`", TEXT)[0])
    assert f"{first.name.replace('-', '_')}=={first.version} " in TEXT


def test_no_address_is_named() -> None:
    assert "://" not in TEXT
