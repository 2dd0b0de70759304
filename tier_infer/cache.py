"""TIER_CACHE: what a workstation makes for itself, and the proof that it made it.

Engines are executable code and a proof is a permission, so nothing in the folder is believed by its
name: every file has a seal, HMAC-SHA-256 under a key that this installation drew for itself. A file
that is changed, or comes from another installation, reads as if it were not there.

TIER_CACHE/              0700, of the user who runs
  key                    0600, 32 random bytes; a new key disowns everything else
  proofs/<digest>.json   golden vectors that an encoder passed, see `proof`
  engines/…              plans with sidecars, see `trt.store`
  NAME.seal              of each file NAME

What everything rests on is that nobody else knows the key. So owner and mode are asked of the open
key and not of its path; then a parent folder that others may write to is no harm: they can take the
cache away, and it is made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from tier_infer.errors import IntegrityError
from tier_infer.files import sync_folder, write_atomic

KEY_BYTES = 32
SEAL_CHARACTERS = 64
NAME = re.compile(
    r"(?!.*\.seal$)(?:[A-Za-z0-9][\w.+-]{0,199}/)*[A-Za-z0-9][\w.+-]{0,199}", re.ASCII
)
ELSEWHERE = "name another folder in TIER_CACHE"


def cache_folder() -> Path:
    """TIER_CACHE, else the platform's folder for what can be made again. OSError: there is none."""
    named = os.environ.get("TIER_CACHE")
    if named:
        return Path(named)
    base, below = _base()
    try:
        return Path(base).expanduser() / below / "tier-cxr"
    except RuntimeError:  # an account of a service may have no home
        words = "there is no home folder to keep it in; name a folder in TIER_CACHE"
        raise OSError(errno.ENOENT, words, "TIER_CACHE") from None


def shown_folder() -> str:
    """The folder as a shell takes it. A path only where the user gave one: others hold names."""
    if os.environ.get("TIER_CACHE"):
        return "$TIER_CACHE"
    windows = os.name == "nt"
    variable = "LOCALAPPDATA" if windows else "XDG_CACHE_HOME"
    base, below = _base()
    told = (f"%{variable}%" if windows else f"${variable}") if base != "~" else base
    return "/".join(part for part in (told, below, "tier-cxr") if part)


def _base() -> tuple[str, str]:
    """A folder, and the one in it. The XDG specification leaves relative paths out of account."""
    if os.name == "nt":
        return os.environ.get("LOCALAPPDATA") or "~", ""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (named, "") if os.path.isabs(named) else ("~", ".cache")


class Cache:
    """The folder, made when it is not there. IntegrityError where it or its key is open to others,
    OSError where it can't be made; an OSError names the file within TIER_CACHE, not its path."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder
        with _named(""):
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except FileExistsError:
                words = f"is no folder; {ELSEWHERE}"
                raise NotADirectoryError(errno.ENOTDIR, words, "TIER_CACHE") from None
            _check_private(self.folder.lstat(), "")
        with _named("key"):
            self._key = self._read_key() or self._draw_key()

    def read(self, name: str) -> bytes | None:
        """The bytes, or None: not there, changed, or sealed by another installation."""
        path = self._path(name)
        if self._link_in(name):
            return None
        try:
            with _seal_of(path).open("rb") as file:
                seal = file.read(SEAL_CHARACTERS + 1).decode("ascii")
            data = path.read_bytes()
        except (OSError, ValueError):
            return None
        return data if self.holds(name, data, seal) else None

    def write(self, name: str, data: bytes) -> Path:
        """Data before seal: killed between them, the file reads as not there."""
        path = self._path(name)
        link = self._link_in(name)
        if link:
            raise IntegrityError(
                f"TIER_CACHE/{link} is a symbolic link, and what is kept must lie in TIER_CACHE; "
                "delete the link"
            )
        with _named(name):
            write_atomic(path, data)
            write_atomic(_seal_of(path), self.seal(name, data).encode())
        return path

    def remove(self, name: str) -> None:
        path = self._path(name)
        if self._link_in(name) not in (None, name):
            return  # what lies behind a linked folder is not ours
        with _named(name):
            for each in (_seal_of(path), path):
                each.unlink(missing_ok=True)

    def seal(self, name: str, data: bytes) -> str:
        """Over the name, too: no file can stand in for another."""
        digest = hashlib.sha256(data).digest()
        return hmac.new(self._key, name.encode() + b"\0" + digest, hashlib.sha256).hexdigest()

    def holds(self, name: str, data: bytes, seal: str) -> bool:
        given = seal.encode(errors="replace")
        return hmac.compare_digest(self.seal(name, data).encode(), given)

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name) or name == "key":
            raise ValueError(f"no name of a file in TIER_CACHE: {name!r}")
        return self.folder / name

    def _link_in(self, name: str) -> str | None:
        """The first part of the name that is a symbolic link: it leaves the folder."""
        parts = name.split("/")
        paths = ("/".join(parts[: n + 1]) for n in range(len(parts)))
        return next((path for path in paths if (self.folder / path).is_symlink()), None)

    def _read_key(self) -> bytes | None:
        """None: there is none, or one that was cut off and so proves nothing."""
        try:
            handle = os.open(
                self.folder / "key",
                os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0),
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise _not_private("key", "a symbolic link", "delete it") from None
        with os.fdopen(handle, "rb") as file:
            _check_private(os.fstat(handle), "key")
            key = file.read(KEY_BYTES + 1)
        return key if len(key) == KEY_BYTES else None

    def _draw_key(self) -> bytes:
        """Whole or not at all, and of two that draw at once the first: a link replaces nothing."""
        path = self.folder / "key"
        drawn = self.folder / f".key.{secrets.token_hex(8)}.tmp"
        try:
            with os.fdopen(os.open(drawn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
                f.write(secrets.token_bytes(KEY_BYTES))
                f.flush()
                os.fsync(f.fileno())
            try:
                os.link(drawn, path)
            except FileExistsError:  # another was first, or it was cut off
                if self._read_key() is None:
                    drawn.replace(path)
            except OSError:  # a file system without links
                drawn.replace(path)
            sync_folder(self.folder)
        finally:
            with contextlib.suppress(OSError):
                drawn.unlink(missing_ok=True)
        key = self._read_key()
        if key is None:
            raise OSError(errno.EIO, "does not hold what was written", str(path))
        return key


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """An OSError with the name of the file in TIER_CACHE: its path may hold a user's name."""
    try:
        yield
    except OSError as error:
        inside = f"TIER_CACHE/{name}" if name else "TIER_CACHE"
        raise OSError(error.errno, error.strerror or type(error).__name__, inside) from None


def _check_private(found: os.stat_result, name: str) -> None:
    """Whoever else can write here can run code as this user."""
    if not hasattr(os, "getuid"):  # Windows: the user's own profile, by its access control list
        return
    mode = "700" if not name else "600"
    place = shown_folder() + (f"/{name}" if name else "")
    if stat.S_ISLNK(found.st_mode):
        raise _not_private(name, "a symbolic link", "name the folder it leads to in TIER_CACHE")
    if found.st_uid != os.getuid():
        raise _not_private(name, "one of another user", ELSEWHERE)
    if found.st_mode & 0o077:
        mend = f'chmod {mode} "{place}"'.replace('"~/', '~/"')
        raise _not_private(name, stat.filemode(found.st_mode), mend)


def _not_private(name: str, found: str, mend: str) -> IntegrityError:
    return IntegrityError(
        f"TIER_CACHE{'/' * bool(name)}{name} is not private: found {found}, allowed is what "
        f"belongs to the user who runs this and is closed to others; {mend}"
    )
