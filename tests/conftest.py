"""Fixtures of the whole suite. Nothing here needs a network, a GPU or files beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.trained import make_site

DATA = Path(__file__).with_name("data")


@pytest.fixture(scope="session", autouse=True)
def tier_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test writes into the home of whoever runs it; child processes inherit this."""
    folder = tmp_path_factory.mktemp("cache") / "tier"
    before = os.environ.get("TIER_CACHE")
    os.environ["TIER_CACHE"] = str(folder)
    yield folder
    os.environ.pop("TIER_CACHE")
    if before is not None:
        os.environ["TIER_CACHE"] = before


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three commands ran: manifest.csv, ckpt.pt, bundle/, study.dcm.

    Shared by all tests: read only. Copy what you change.
    """
    return make_site(tmp_path_factory.mktemp("site") / "phantoms")


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()
