"""python -m pytest tests/infer/test_shared_dicom.py -- real DICOM files beside the checkout.

They are not part of the repository (licences, 27 MB); `benchmarks/dicom_table.py` prints the table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.dicom_table import Row, judge
from tests.infer.encodings.reference import PRESETS
from tier_infer.images import load_image

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "dicom"
COPIES = ("d_01", "d_02", "d_03", "d_04", "d_05", "d_07", "d_10", "d_14", "d_17", "d_33", "d_36")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="shared/data/dicom is not there")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    pytest.importorskip("imagecodecs", reason="two of the files need it")
    return judge(FOLDER)


def test_every_file_is_judged(rows: list[Row]) -> None:
    assert len(rows) == 83 * len(PRESETS)
    assert {row.outcome for row in rows} == {"scored", "flagged", "refused"}  # no crash, no hang


def test_none_is_wrong(rows: list[Row]) -> None:
    assert [(row.file, row.preset, row.problem) for row in rows if row.problem] == []


@pytest.mark.parametrize("preset", PRESETS)
def test_lossless_copies_equal_the_plain_file(preset: str) -> None:
    """Bit for bit: the same stored values, in other bytes, signed, or with junk above them."""
    names = sorted((FOLDER / "derived").glob("d_*.dcm"))
    plain = load_image(names[0], preset).grey
    same = [name for name in names if name.name[:4] in COPIES]
    assert len(same) == len(COPIES)
    for name in same:
        assert np.array_equal(load_image(name, preset).grey, plain), name.name


def test_derived_films_were_compared(rows: list[Row]) -> None:
    compared = {row.file for row in rows if row.file.startswith("derived/") and row.check}
    assert len(compared) == 23
    by_twin = [row for row in rows if "twin" in row.check]
    assert [row.preset for row in by_twin] == ["voi", "minmax"]
