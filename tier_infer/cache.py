"""TIER_CACHE: what a workstation makes for itself, and the proof that it made it.

Engines are executable code and a proof is a permission, so nothing in the folder is believed by its
name: every file has a seal, HMAC-SHA-256 under a key that this installation drew for itself. A file
that is changed, or comes from another installation, reads as if it were not there.

TIER_CACHE/              0700, of the user who runs
  key                    0600, 32 random bytes; a new key disowns everything else
  proofs/<digest>.json   golden vectors that an encoder passed, see `proof`
  engines/…              plans with sidecars, see `trt.store`
  NAME.seal              of each file NAME
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from tier_infer.errors import IntegrityError
from tier_infer.files import write_atomic

KEY_BYTES = 32


def cache_folder() -> Path:
    """TIER_CACHE, else the platform's folder for what can be made again."""
    named = os.environ.get("TIER_CACHE")
    if named:
        return Path(named)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "tier-cxr"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tier-cxr"


class Cache:
    """The folder, made when it is not there. IntegrityError where it or its key is open to others,
    OSError where it can't be made."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(self.folder)
        self._key = self._read_key()

    def read(self, name: str) -> bytes | None:
        """The bytes, or None: not there, changed, or sealed by another installation."""
        path = self.folder / name
        try:
            if path.is_symlink():
                return None
            data, seal = path.read_bytes(), _seal_of(path).read_text(encoding="ascii")
        except (OSError, ValueError):
            return None
        return data if self.holds(name, data, seal) else None

    def write(self, name: str, data: bytes) -> Path:
        """Data before seal: killed between them, the file reads as not there."""
        path = self.folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            _seal_of(path).unlink()
        write_atomic(path, data)
        write_atomic(_seal_of(path), self.seal(name, data).encode())
        return path

    def remove(self, name: str) -> None:
        for path in (_seal_of(self.folder / name), self.folder / name):
            path.unlink(missing_ok=True)

    def seal(self, name: str, data: bytes) -> str:
        """Over the name, too: no file can stand in for another."""
        digest = hashlib.sha256(data).digest()
        return hmac.new(self._key, name.encode() + b"\0" + digest, hashlib.sha256).hexdigest()

    def holds(self, name: str, data: bytes, seal: str) -> bool:
        return hmac.compare_digest(self.seal(name, data).encode(), seal.encode())

    def _read_key(self) -> bytes:
        path = self.folder / "key"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        _check_private(path)
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise IntegrityError(
                f"the key of TIER_CACHE has {len(key)} bytes, {KEY_BYTES} are allowed; delete the "
                "folder, then run tier-infer warmup"
            )
        return key


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal")


def _check_private(path: Path) -> None:
    """Whoever can write here can run code as this user."""
    if os.name == "nt":  # the user's own profile, by its access control list
        return
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise IntegrityError(
            f"TIER_CACHE is not private: {path.name} must belong to the user who runs this and be "
            f"closed to others (0700, its key 0600); found {stat.filemode(found.st_mode)}; "
            "chmod it, or name another folder in TIER_CACHE"
        )
