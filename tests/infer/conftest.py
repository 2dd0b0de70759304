"""Fixtures of the runtime's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tier_infer.cli import main

Infer = Callable[..., Result]


@pytest.fixture
def infer(site: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> Infer:
    """`tier-infer` in the trained folder; however it ends, not with a traceback."""
    monkeypatch.chdir(site)

    def run(*args: object) -> Result:
        result = runner.invoke(main, [str(arg) for arg in args])
        assert "Traceback" not in result.output
        return result

    return run
