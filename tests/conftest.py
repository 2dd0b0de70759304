"""Fixtures of the whole suite. Nothing here needs a network, a GPU or files beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.trained import make_site

DATA = Path(__file__).with_name("data")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three commands ran: manifest.csv, ckpt.pt, bundle/, study.dcm.

    Shared by all tests: read only. Copy what you change.
    """
    return make_site(tmp_path_factory.mktemp("site") / "phantoms")


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()
