"""Zip files, read as capped streams in memory; nothing is ever extracted (runs in the child).

What a zip says of its members is only its word: sizes are counted while reading.
"""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path

from tier_infer.errors import FailedImage

MAX_ARCHIVE_BYTES = 4 * 2**30
MAX_MEMBERS = 10_000
MAX_DIRECTORY_BYTES = 8 * 2**20  # of the zip's own table of contents
MAX_RATIO = 1000  # unpacked bytes per packed byte of one member
NESTED = (".zip", ".gz", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def list_members(path: Path) -> list[str]:
    """Names of the files inside, in a fixed order. FailedImage `archive` when anything is odd."""
    found = _opened(path).infolist()
    if len(found) > MAX_MEMBERS:
        raise _refused(f"holds more than {MAX_MEMBERS} files")
    names = [info.filename for info in found if not info.filename.endswith("/")]
    if "" in names:
        raise _refused("holds a file without a name")
    if len(set(names)) != len(names):
        raise _refused("holds two files of one name")
    return sorted(names)


def read_member(path: Path, name: str, limit: int) -> bytes:
    """The bytes of one member, at most `limit`."""
    archive = _opened(path)
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise _refused("does not hold this file") from None
    _check_member(info)
    if info.file_size > limit or info.file_size > MAX_RATIO * max(info.compress_size, 1):
        raise FailedImage("too_large", "the file in the archive unpacks beyond the limit")
    try:
        with archive.open(info) as stream:
            data = stream.read(limit + 1)
    except Exception as error:  # zlib.error, BadZipFile (CRC), RuntimeError (password), ...
        raise _refused(f"can't be unpacked ({type(error).__name__})") from None
    if len(data) > limit or len(data) != info.file_size:
        raise FailedImage("too_large", "the file in the archive unpacks beyond the limit")
    return data


def _check_member(info: zipfile.ZipInfo) -> None:
    mode = info.external_attr >> 16
    if mode & 0o170000 not in (0, 0o100000):  # links and devices
        raise _refused("holds something that is no regular file")
    if info.flag_bits & 0x1:
        raise _refused("is encrypted")
    if info.compress_type not in METHODS:
        raise _refused("is packed with another method than deflate")
    if info.filename.lower().endswith(NESTED):
        raise _refused("is an archive inside an archive")
    parts = info.filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise _refused("names a place outside the archive")


def _opened(path: Path) -> zipfile.ZipFile:
    """The archive; the last one stays open, or each of its members would parse it anew."""
    try:
        state = path.stat()
        if not path.is_file():
            raise FailedImage("unreadable", "it is no regular file")
        if state.st_size > MAX_ARCHIVE_BYTES:
            raise _refused(f"is over {MAX_ARCHIVE_BYTES // 2**30} GiB")
        return _parsed(path, (state.st_ino, state.st_size, state.st_mtime_ns))
    except FailedImage:
        raise
    except OSError as error:
        raise FailedImage("unreadable", f"the file can't be opened ({error.strerror})") from None
    except MemoryError:
        raise FailedImage("too_large", "the archive needs more memory than is allowed") from None
    except Exception as error:
        raise _refused(f"is no readable zip ({type(error).__name__})") from None


@lru_cache(maxsize=1)
def _parsed(path: Path, state: tuple[int, int, int]) -> zipfile.ZipFile:
    _check_directory(path)
    return zipfile.ZipFile(path)


def _check_directory(path: Path) -> None:
    """The end record's own count and size, before Python builds an object for each member."""
    with path.open("rb") as file:
        file.seek(0, 2)
        size = file.tell()
        file.seek(max(0, size - 65_557))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise _refused("is no readable zip (no end record)")
    count = int.from_bytes(tail[at + 10 : at + 12], "little")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    if count > MAX_MEMBERS or directory > MAX_DIRECTORY_BYTES:  # 65,535 stands for zip64's own
        raise _refused(f"holds more than {MAX_MEMBERS} files")


def _refused(words: str) -> FailedImage:
    return FailedImage("archive", f"the archive, or the file named in it, {words}")
