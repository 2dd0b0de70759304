"""CSV files of users, read strictly: what is odd is an error with its line, never a guess."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
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
    except OSError as error:
        raise UsageError(f"{path} can't be opened: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(
            f"{path} is not UTF-8; in a spreadsheet choose `CSV UTF-8, comma delimited`"
        ) from None
    reader = csv.DictReader(text, strict=True)
    try:
        read = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise UsageError(f"{path} line {reader.line_num + 1} is no CSV: {error}") from None
    table = [(n, cells) for n, cells in read if any(map(_filled, cells.values()))]
    columns = list(reader.fieldnames or [])
    if len(columns) == 1 and any(c in columns[0] for c in ";\t"):
        raise UsageError(f"{path} is separated by ; or tabs; save it separated by commas")
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


def _filled(cell: object) -> bool:
    """False for what a spreadsheet leaves in the rows below its table."""
    return bool(cell.strip()) if isinstance(cell, str) else cell is not None


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows ended by "\n". Quoted as if they ended by "\r\n", or a carriage return in a file's name
    would make two rows of one."""
    lines = []
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\r\n").writerow(row)
        lines.append(buffer.getvalue()[:-2] + "\n")
    return "".join(lines)
