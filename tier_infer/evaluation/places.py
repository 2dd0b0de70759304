"""What the readers of datasets share: paths that stay below a root, splits and views
by all their names."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tier_infer.errors import UsageError

PICTURES = (".png", ".jpg", ".jpeg")
LISTED = 10  # splits that a message names at most: a wrong column may have one per row
FRONTAL = re.compile(  # antero-posterior, ap supine, AP_HORIZONTAL, portable frontal view, …
    "((chest|portable|mobile) )*(ap|pa|frontal|(antero|postero) ?(anterior|posterior))"
    "( (view|supine|erect|horizontal|upright|portable|mobile|sitting|standing|semi|semierect))*"
)
LATERAL = re.compile(
    "(chest )?(l|r|ll|rl|lld|rld|lat|((left|right|l|r|xtable|cross table) )?(lateral|lat)"
    "( (left|right|l|r))?)( (view|erect|upright|horizontal|decubitus))*"
)
SPLIT_NAMES = {"valid": "val", "validate": "val", "validation": "val"}


def split_name(text: str) -> str:
    """One spelling each: valid, validate and val are one split."""
    word = text.strip().lower()
    return SPLIT_NAMES.get(word, word)


def view_name(text: str) -> str | None:
    """frontal, lateral or "" for an empty cell; None for a word that is neither."""
    word = " ".join(re.split(r"[\s_-]+", text.strip().lower()))
    for name, pattern in (("", ""), ("frontal", FRONTAL), ("lateral", LATERAL)):
        if re.fullmatch(pattern, word):
            return name
    return None


def same_patient(name: str) -> str:
    """One spelling each: a spreadsheet makes 7 or 7.0 of 007."""
    number = re.fullmatch(r"0*(\d+)(\.0+)?", name, re.ASCII)
    return number[1] if number else name.casefold()


def resolved(root: Path, places: Iterable[str]) -> Iterator[str]:
    """Where each file is, by its folder's real path: `a.png`, `./a.png` and its absolute path are
    one, `link/../a.png` may be another. Links of files are names of their own, as in an annex."""
    folders: dict[str, str] = {}
    for place in places:
        folder, name = os.path.split(os.path.join(root, place))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        yield os.path.join(folders[folder], name)


def lacks_split(name: str, split: str, present: Iterable[str]) -> UsageError:
    """Nobody's figures are of another split than the one that was asked for."""
    there = ", ".join(sorted({p for p in present if p})[:LISTED]) or "none; leave --split out"
    return UsageError(f"{name} has no row with split {split!r}; it has {there}")


def inside(table: Path, line: int, path: str) -> str:
    """The path as it is; UsageError for one that leaves the root, or is none."""
    parts = path.replace("\\", "/").split("/")
    if not path or ".." in parts or "\0" in path or os.path.isabs(path) or parts[0] == "":
        raise UsageError(
            f"{table} line {line}: an image's path must be relative to the folder of the dataset "
            "and stay below it"
        )
    return posixpath.normpath(path)


def pictures_in(folder: Path) -> list[str]:
    """Names of its image files, sorted; what a file manager leaves beside them is none."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_file()]
    except OSError:
        return []
    return sorted(n for n in names if n.lower().endswith(PICTURES) and not n.startswith("."))
