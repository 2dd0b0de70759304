"""Which files a run is about: files as given, folders with all below them, archives opened.

No input is parsed here; the members of an archive are listed by the child that may read it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from tier_infer.errors import RefusedImage, UsageError

ARCHIVE_SUFFIX = ".zip"
IN_ARCHIVE = re.compile(r"\.zip/", re.IGNORECASE)
SHADOW = "/__MACOSX/"  # resource forks, one beside each file of a Mac's archive
MEMBER = "/"  # study.zip/inner/a.dcm


def find_images(
    paths: Iterable[str],
    members: Callable[[str], list[str]] | None = None,
    hidden: list[str] | None = None,
) -> list[str]:
    """Files as given; a folder gives its files, recursively and in a fixed order.

    A folder that is empty or can't be opened stands for itself, so that it gets a row of its own;
    so does an archive that `members` refuses. Hidden files below a folder or in an archive are left
    out and go to `hidden`. A DICOMDIR is a file like others: what it refers to is not followed.
    """
    left_out = hidden if hidden is not None else []
    found: list[str] = []
    for given in paths:
        try:
            is_folder, exists = Path(given).is_dir(), Path(given).exists()
        except PermissionError:  # load_image will say so
            is_folder, exists = False, True
        except (OSError, ValueError):  # a name the file system can't even ask for
            is_folder = exists = False
        if is_folder and given:
            inside = _seen(_files_in(given), given, left_out) or [given]
            found.extend(path for file in inside for path in _opened(file, members, left_out))
        elif exists and given:
            found.extend(_opened(given, members, left_out))
        else:
            raise UsageError(
                f"{given} does not exist; give a DICOM, PNG or JPEG file, a zip of them or a folder"
            )
    return found


def _seen(paths: list[str], top: str, left_out: list[str]) -> list[str]:
    """Without hidden files and macOS's shadow folder, which go to `left_out`."""
    seen: list[str] = []
    for path in paths:
        hidden = os.path.basename(path).startswith(".") or SHADOW in path[len(top) :]
        (left_out if hidden else seen).append(path)
    return seen


def split_member(path: str) -> tuple[str, str]:
    """'a/study.zip/inner/x.dcm' → ('a/study.zip', 'inner/x.dcm'); no member: ''.

    The shortest prefix that is an archive on disk counts; archives inside archives are not opened.
    """
    for end in IN_ARCHIVE.finditer(path):
        archive, member = path[: end.end() - 1], path[end.end() :]
        if os.path.isfile(archive):
            return archive, member
    return path, ""


def _opened(
    path: str, members: Callable[[str], list[str]] | None, left_out: list[str]
) -> list[str]:
    if members is None or not path.lower().endswith(ARCHIVE_SUFFIX):
        return [path]
    try:
        inside = [path + MEMBER + name for name in members(path)]
    except RefusedImage:
        return [path]  # reading it will say why
    return _seen(inside, path, left_out) or [path]


def _files_in(folder: str) -> list[str]:
    """All below a folder. What is no file but could hide one (a folder that can't be opened, a link
    to a folder, a device) stands for itself: reading it will say what it is."""
    closed: list[str] = []
    found: list[str] = []
    for root, folders, names in os.walk(
        folder, onerror=lambda error: closed.append(error.filename)
    ):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found += [os.path.join(root, name) for name in names + links]
    return sorted(found + closed)
