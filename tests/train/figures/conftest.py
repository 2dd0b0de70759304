"""What the tests of the figures share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.train.figures.twins import load_pair, write_films, write_twins
from tier_train.figures.pair import Pair

torch.set_num_threads(1)


@pytest.fixture(scope="package", autouse=True)
def environment() -> Iterator[None]:
    """What the commands set for their process, so that it does not outlive these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="package")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="package")
def pair(twins: tuple[Path, Path]) -> Pair:
    return load_pair(twins)


@pytest.fixture(scope="package")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films"))
