"""python -m pytest tests/infer/test_fuzz.py -- a slice of benchmarks/fuzz_dicom.py, and its finds.

Each file of tests/data/fuzz once did what no file may: another exception than a refusal, a child
that hung, a picture that was not in the file. They were made by the mutator out of this project's
own test files.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.fuzz import elements
from benchmarks.fuzz.mutate import mutated
from benchmarks.fuzz.seeds import Seed, all_seeds
from benchmarks.fuzz_dicom import fuzz, summary
from tests.conftest import DATA
from tests.infer.encodings import codecs
from tier_infer.errors import FailedImage
from tier_infer.intensity import PRESETS
from tier_infer.reader import Reader

INPUTS = 2500
FOUND = {
    "sequence_for_text.dcm": "bad_value",  # str() of a sequence parsed all below it
    "sequence_of_nonsense.dcm": "unreadable",  # the same, behind a tag that stands twice
    "jp2_box_without_end.dcm": "",  # pydicom walked through the boxes for ever; its picture is good
    "pixels_without_vr.dcm": "bad_value",
    "member_without_name.zip": "archive",  # zipfile asked for the last letter of ""
    "rows_missing.png": "truncated",  # Pillow painted 20 rows black
    "claims_64_mpixel.jpg": "expansion",  # 700 MiB and 4 s for 1 kB
}


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return all_seeds()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


def test_a_slice_of_the_fuzzing(seeds: list[Seed]) -> None:
    rows = [
        {key: str(value) for key, value in row.items()} for row in fuzz(seeds, 7, range(INPUTS))
    ]
    wrong = [row for row in rows if row["bug"] or row["death"] or float(row["seconds"]) > 20]
    assert not wrong, wrong[:3]
    assert len({row["outcome"] for row in rows}) > 15
    assert 0.1 < sum(row["outcome"] == "scored" for row in rows) / INPUTS < 0.6
    assert f"{INPUTS} inputs" in summary(rows)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("name", "reason"), FOUND.items())
def test_what_was_found(name: str, reason: str, preset: str, reader: Reader) -> None:
    reader.intensity = preset
    found = ""
    try:
        reader.read(str(DATA / "fuzz" / name), display=True)
    except FailedImage as refusal:
        found = refusal.reason
    assert found == reason
    assert reader.deaths == 0


def test_every_find_has_its_line() -> None:
    files = {path.name for path in (DATA / "fuzz").iterdir()}
    assert files == set(FOUND)
    assert all((DATA / "fuzz" / name).stat().st_size < 6000 for name in files)


def test_an_input_is_the_same_every_time(seeds: list[Seed]) -> None:
    """But not the same as the next one, nor as that of another run."""
    made = [mutated(seeds, 1, 5), mutated(seeds, 1, 5), mutated(seeds, 1, 6), mutated(seeds, 2, 5)]
    assert made[0] == made[1]
    assert len({data for _, data, _ in made}) == 3


def test_every_syntax_is_among_the_seeds(seeds: list[Seed]) -> None:
    names = " ".join(seed.name for seed in seeds)
    wanted = ["explicit", "implicit", "deflated", "big", "rle", "jpeg", "jpegls", "j2k", "no_meta"]
    if codecs.imagecodecs is not None:
        wanted += ["extended", "lossless", "htj2k"]
    assert all(f"-{name}" in names for name in wanted)
    assert all(suffix in {s.suffix for s in seeds} for suffix in (".dcm", ".png", ".jpg", ".zip"))


def test_an_unchanged_file_is_written_as_it_was_read(seeds: list[Seed]) -> None:
    for seed in seeds:
        if seed.suffix == ".dcm":
            file = elements.read(seed.data)
            again = elements.read(elements.written(file))
            assert (again.meta, again.body) == (file.meta, file.body), seed.name
