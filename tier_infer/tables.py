"""CSV files of users, read strictly: what is odd is an error with its line, never a guess."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from tier_infer.errors import UsageError

Lines = list[tuple[int, dict[str, str]]]  # line in the file, cells by column


def read_csv(path: Path, required: tuple[str, ...]) -> tuple[bytes, list[str], Lines]:
    """The file's bytes, its columns and its rows. UTF-8 with or without a byte order mark.

    newline="" and strict: a line break inside quotes is text, an open quote is an error.
    """
    try:
        raw = path.read_bytes()
        text = io.StringIO(raw.decode("utf-8-sig"), newline="")
        reader = csv.DictReader(text, strict=True)
        table = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} can't be read as CSV: {error}") from None
    columns = list(reader.fieldnames or [])
    missing = [c for c in required if c not in columns]
    if missing or not table:
        raise UsageError(
            f"{path} needs rows and the columns {', '.join(required)}; "
            f"missing: {', '.join(missing) or 'rows'}"
        )
    twice = sorted({c for c in columns if columns.count(c) > 1})
    if twice:
        raise UsageError(f"{path} has two columns called {', '.join(map(repr, twice))}")
    for number, cells in table:
        if None in cells or None in cells.values():
            raise UsageError(f"{path} line {number} has not {len(columns)} cells as the header")
    return raw, columns, table
