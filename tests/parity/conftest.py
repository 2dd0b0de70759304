"""One pair of sides for the whole folder: read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.sides import Sides


@pytest.fixture(scope="session")
def sides(site: Path) -> Sides:
    return Sides(site)
