"""Fixtures of the export's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.export.swapped import LUNGS
from tests.spoken import speaking


@pytest.fixture(scope="session")
def talking(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's bundle with its text tower, and files that came later; read only."""
    folder = speaking(site, tmp_path_factory.mktemp("labels") / "bundle")
    for name in ("calibration/site.json", "engines/sm90.engine"):
        (folder / name).parent.mkdir()
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def bundle(talking: Path, tmp_path: Path) -> Path:
    """A copy of it to change, beside lungs.toml."""
    (tmp_path / "lungs.toml").write_text(LUNGS)
    return Path(shutil.copytree(talking, tmp_path / "bundle"))
