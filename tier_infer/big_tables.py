"""CSV tables of hundreds of thousands of rows, plain or gzip, read row by row; their labels."""

from __future__ import annotations

import csv
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tier_infer.errors import UsageError

Lines = Iterator[tuple[int, list[str]]]  # line in the file and its cells
MAX_LINE, MAX_TABLE = 2**20, 2**30  # characters; MIMIC-CXR's largest table has 60 million
LABEL_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": None, "-1.0": None, "": None}


def read_table(
    path: Path, required: Sequence[str], nameless: bool = False
) -> tuple[list[str], Lines]:
    """The columns, and rows of as many cells.

    Raises UsageError for a missing file or column, two columns of one name or one without, and,
    while reading, for a damaged file or one too long to be such a table. nameless: the publisher's
    own table has columns without a name, which nobody asks for.
    """
    rows = _rows(path)
    _, columns = next(rows, (0, []))
    odd = [
        at
        for at, name in enumerate(columns, 1)
        if (not nameless if not name.strip() else name in columns[: at - 1])
    ]
    if odd:
        raise UsageError(
            f"{path}: column {odd[0]} has no name or that of another; fetch the table again, or "
            "leave the column out"
        )
    missing = [column for column in required if column not in columns]
    if missing:
        raise UsageError(
            f"{path} needs the columns {', '.join(required)}; missing: {', '.join(missing)}"
        )
    return columns, rows


def known_labels(
    table: Path, line: int, cells: list[str], columns: list[tuple[int, str]]
) -> dict[str, int]:
    """column name → 1 or 0, uncertain and blank left out; `columns`: index and name."""
    try:
        read = [(name, LABEL_VALUES[cells[i]]) for i, name in columns]
    except KeyError:
        raise UsageError(f"{table} line {line}: a label is not 1.0, 0.0, -1.0 or empty") from None
    return {name: value for name, value in read if value is not None}


def whole_table(found: Sequence[Path]) -> Path:
    """The plain file before the packed one (.gz). Both are refused where one can't be the other: an
    interrupted gunzip leaves a shorter table."""
    plain, *packed = sorted(found)
    if packed and _unpacked_size(packed[0]) != plain.stat().st_size % 2**32:
        raise UsageError(
            f"{plain} is not as long as {packed[0].name} unpacked; delete the one that is not whole"
        )
    return plain


def _unpacked_size(path: Path) -> int:
    """Bytes modulo 2**32, as the last four of a gzip file say (RFC 1952)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4))
        return int.from_bytes(file.read(), "little")


def _rows(path: Path) -> Lines:
    at, width = 0, 0
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise UsageError(f"{path} is no regular file")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as data:
            text = io.TextIOWrapper(data, encoding="utf-8-sig", newline="")
            reader = csv.reader(_short_lines(path, text), strict=True)
            for row in reader:
                at = reader.line_num
                width = width or len(row)
                if len(row) == width:
                    yield at, row
                elif row:  # an empty line is none
                    raise UsageError(f"{path} line {at} has {len(row)} cells, the header {width}")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 after line {at}") from None
    except csv.Error as error:
        raise UsageError(f"{path} line {at + 1} is no CSV: {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UsageError(
            f"{path} is damaged after line {at}; fetch it again and compare it with the "
            "publisher's SHA256SUMS.txt"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} can't be opened: {error.strerror}") from None


def _short_lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    """So that a small archive can't fill the memory, or be read for hours."""
    total = 0
    while line := text.readline(MAX_LINE + 1):
        total += len(line)
        if len(line) > MAX_LINE or total > MAX_TABLE:
            raise UsageError(
                f"{path} has a line of more than {MAX_LINE} characters, or more than {MAX_TABLE} "
                "in all; that is no table of this dataset, fetch it again"
            )
        yield line
