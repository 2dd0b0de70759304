"""python -m pytest tests/test_readme.py -- the README says what the code does today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

import tier_export.cli
import tier_infer.cli
import tier_train.cli
from tier_infer.cli import VERBS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS: dict[str, click.Command] = {
    "tier-train": tier_train.cli.main,
    "tier-export": tier_export.cli.main,
    "tier-infer": tier_infer.cli.main,
}
SHOWN = sorted(
    set(
        re.findall(
            r"^(?:\$ |    \$ |    )?((?:tier-train|tier-export|tier-infer) .+)$", README, re.M
        )
    )
)


def leaf(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that a line ends up in, and its arguments."""
    command, rest = COMMANDS[words[0]], words[1:]
    if words[0] == "tier-infer" and rest[0] not in VERBS:
        return tier_infer.cli.main.commands["score"], rest
    if words[0] == "tier-export" and rest[0] not in tier_export.cli.VERBS:
        return tier_export.cli.main.commands["export"], rest
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def test_the_readme_shows_commands() -> None:
    assert len(SHOWN) >= 6


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_shown_takes_its_arguments(line: str) -> None:
    line = line.split(" #")[0].split(" > ")[0]
    command, rest = leaf(shlex.split(line))
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in options, (line, word)


def test_the_first_screen() -> None:
    """One sentence, the two commands, the three card commands, in this order, within 45 lines."""
    screen = "\n".join(README.splitlines()[:45])
    places = [
        screen.index(words)
        for words in (
            "make demo",
            "make test",
            "$ tier-train run",
            "$ tier-export --fp16 ckpt.pt",
            "$ tier-infer study.dcm --labels cardiomegaly,edema",
        )
    ]
    assert places == sorted(places)


def test_the_tree_lists_every_module_and_nothing_else() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text[text.index("## The tree") :].split("```")[1]
    listed = set(re.findall(r"\b(\w+\.py)\b", tree))
    packages = ("tier_infer", "tier_train", "tier_export")
    files = {p.name for package in packages for p in (ROOT / package).rglob("*.py")}
    assert listed == files - {"__init__.py"}
    folders = {p.parent.name for package in packages for p in (ROOT / package).glob("*/*.py")}
    assert folders == set(re.findall(r"^  (\w+)/ ", tree, re.M))


def test_what_was_never_executed_is_said() -> None:
    section = README[README.index("## Never executed") :]
    for word in ("GPU", "Windows", "MIMIC"):
        assert word in section


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"@[A-Z]+@|TODO|TBD", README)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("name", COMMANDS)
def test_versions_and_exit_codes_are_documented(name: str) -> None:
    assert f"{name}" in README
    for code in range(7):
        assert f"| {code} |" in README
    assert "| 8 |" in README
