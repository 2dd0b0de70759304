"""python -m pytest tests/infer/test_bombs.py -- files that cost far more than they weigh.

Small versions of all that `benchmarks/bombs.py` measures in full size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.fuzz import bomb_parts, bombs_dicom, bombs_other
from benchmarks.fuzz.bomb_parts import deflated, long_element, repeated_value
from tests.infer.dicom_files import dx, write
from tier_infer.errors import RefusedImage
from tier_infer.reader import Reader

SIZE = 0.03  # of the bombs in benchmarks/bombs.py
BOMBS = {name: (".dcm", maker) for name, maker in bombs_dicom.all_bombs(SIZE).items()}
BOMBS |= bombs_other.all_bombs(SIZE)
HARMLESS = (  # a picture of its own size and nothing else, however odd it looks
    "nested", "1,000,000 elements", "1,000,000 items", "1,000,000 fragments", "pixels of 1:4",
    "fragments of 2 bytes", "character sets", "element of 200 MiB", "patient", "description",
    "frame counts", "JPEG with", "PNG with", "whose Exif", "deflated private", "image type",
    "escape", "window", "VOI LUT", "4 GiB of pixels", "in an item", "in an open item",
)  # fmt: skip


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader("mimic-jpg") as reader:
        yield reader


def answer(reader: Reader, path: Path) -> str:
    try:
        names = reader.members(str(path))[:1] if path.suffix == ".zip" else []
        reader.read("/".join([str(path), *names]))
    except RefusedImage as refusal:
        return refusal.reason
    return "scored"


def test_there_are_enough() -> None:
    assert len(BOMBS) >= 25


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_time(name: str, reader: Reader, tmp_path: Path) -> None:
    suffix, make = BOMBS[name]
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(make())
    before = reader.deaths
    reason = answer(reader, path)  # seconds are measured by benchmarks/bombs.py
    assert reader.deaths == before
    assert reason not in ("bug", "time_limit")
    assert reason != "scored" or any(word in name for word in HARMLESS), name


DECLARED = {
    "declared 100000 x 100000": "too_large",
    "declared 65535 x 65535": "too_large",
    "declared 10,000 frames": "multi_frame",
    "JPEG-LS of 8192 x 8192 in 2 kB": "expansion",
    "JPEG 2000 of 8192 x 8192 in 2 kB": "expansion",
    "JPEG of 65,500 x 65,500": "too_large",
    "PNG of 60,000 x 60,000": "too_large",
    "zip64 that claims 2^40 members": "archive",
}


@pytest.mark.parametrize(("name", "reason"), DECLARED.items())
def test_what_a_header_declares_is_refused_at_once(
    name: str, reason: str, reader: Reader, tmp_path: Path
) -> None:
    suffix, make = BOMBS[name]
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(make())
    assert answer(reader, path) == reason


# Each took more than 5 s, or the child, when it was found by benchmarks/bombs.py.
FULL: dict[str, tuple[Callable[[], bytes], str]] = {
    "elements": (lambda: bomb_parts.many_elements(1_000_000), "too_large"),
    "items": (lambda: bomb_parts.many_items(1_000_000), "too_large"),
    "fragments": (lambda: bomb_parts.many_fragments(1_000_000), "too_large"),
    "numbers": (
        lambda: repeated_value("WindowCenter", b"DS", b"1.5\\", 1_000_000),
        "too_large",
    ),
    "deflated": (
        lambda: deflated(long_element(0x00091001, b"OB", bytes(300 * 2**20))),
        "too_large",
    ),
    "run lengths": (
        lambda: bomb_parts.run_length(4096, 8192, b"\x00\x07", 1),
        "constant_image",
    ),
    "scans": (lambda: bombs_other.many_scans(8192, 4000), "too_large"),
}


@pytest.mark.parametrize(("make", "reason"), FULL.values(), ids=FULL)
def test_what_was_slow_once(
    make: Callable[[], bytes], reason: str, reader: Reader, tmp_path: Path
) -> None:
    path = tmp_path / ("bomb.jpg" if "scans" in str(tmp_path) else "bomb.dcm")
    path.write_bytes(make())
    assert answer(reader, path) == reason


def test_a_film_of_many_private_elements_is_no_bomb(reader: Reader, tmp_path: Path) -> None:
    """Vendors write thousands."""
    path = tmp_path / "film.dcm"
    path.write_bytes(bomb_parts.many_elements(10_000))
    assert answer(reader, path) == "scored"


@pytest.mark.parametrize("start", bombs_other.PREAMBLES.values(), ids=bombs_other.PREAMBLES)
def test_a_film_that_is_a_program_too_is_flagged(
    start: bytes, reader: Reader, tmp_path: Path
) -> None:
    """The preamble is never run and never written anywhere (CVE-2019-11687)."""
    path = tmp_path / "film.dcm"
    path.write_bytes(bombs_other.polyglot(start))
    assert "preamble" in reader.read(str(path)).flags
    clean = write(dx(), tmp_path / "clean.dcm")
    assert "preamble" not in reader.read(str(clean)).flags
