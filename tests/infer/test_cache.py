"""python -m pytest tests/infer/test_cache.py -- only what this installation made is believed."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tier_infer import cache as cache_module
from tier_infer import files
from tier_infer.cache import Cache, cache_folder, shown_folder
from tier_infer.errors import IntegrityError

NAME = "proofs/a.json"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    return Cache()


# What is kept


def test_what_was_written_is_read_by_the_next_process(cache: Cache) -> None:
    for data in (b"", b"a", bytes(range(256)) * 4096 * 8):
        path = cache.write(NAME, data)
        assert Cache().read(NAME) == data
        assert path.read_bytes() == data  # as it is: other tools load plans


def test_the_folder_is_the_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Cache(tmp_path / "deep" / "cache")
        made.write("engines/x/y.engine", b"plan")
    finally:
        os.umask(before)
    assert mode(made.folder) == 0o700
    assert mode(made.folder / "key") == 0o600
    assert len((made.folder / "key").read_bytes()) == 32


def test_the_seal_is_an_hmac_over_name_and_data_under_the_key(cache: Cache) -> None:
    """By hand, from RFC 2104 as the standard library has it."""
    cache.write(NAME, b"data")
    key = (cache.folder / "key").read_bytes()
    told = NAME.encode() + b"\0" + hashlib.sha256(b"data").digest()
    expected = hmac.new(key, told, "sha256").hexdigest()
    assert (cache.folder / f"{NAME}.seal").read_text() == expected


def flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda file, seal: flipped(file),
        lambda file, seal: file.write_bytes(file.read_bytes()[:-1]),
        lambda file, seal: file.write_bytes(file.read_bytes() + b"\0"),
        lambda file, seal: file.unlink(),
        lambda file, seal: flipped(seal),
        lambda file, seal: seal.unlink(),
        lambda file, seal: seal.write_bytes(b""),
        lambda file, seal: seal.write_bytes(b"\xff" * 64),
        lambda file, seal: seal.write_text(seal.read_text() + "0"),
        lambda file, seal: seal.write_bytes(b"0" * 2**20),
        lambda file, seal: flipped(file.parent.parent / "key"),
        lambda file, seal: (file.parent.parent / "key").unlink(),
    ],
)
def test_a_change_of_one_byte_reads_as_not_there(
    cache: Cache, change: Callable[[Path, Path], Any]
) -> None:
    path = cache.write(NAME, b"what was proven")
    change(path, path.with_name("a.json.seal"))
    after = Cache()
    assert after.read(NAME) is None
    after.write(NAME, b"anew")
    assert Cache().read(NAME) == b"anew"


def test_a_file_cannot_stand_in_for_another(cache: Cache) -> None:
    path = cache.write(NAME, b"data")
    for ending in ("", ".seal"):
        shutil.copy(f"{path}{ending}", cache.folder / f"proofs/b.json{ending}")
    assert cache.read("proofs/b.json") is None


def test_nothing_of_another_installation_is_believed(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "other")
    other.write(NAME, b"theirs")
    shutil.copytree(other.folder / "proofs", cache.folder / "proofs")
    assert cache.read(NAME) is None


def test_a_kill_between_data_and_seal_leaves_nothing_to_believe(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write(NAME, b"old")
    real = files.write_atomic

    def killed(path: Path, data: bytes) -> None:
        if path.suffix == ".seal":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(cache_module, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.write(NAME, b"new")
    assert (cache.folder / NAME).read_bytes() == b"new"
    assert cache.read(NAME) is None


def test_remove(cache: Cache) -> None:
    cache.write(NAME, b"data")
    cache.remove(NAME)
    cache.remove(NAME)
    assert os.listdir(cache.folder / "proofs") == []


@pytest.mark.parametrize(
    "name",
    ["", "key", "../a", "a/../../b", "/etc/passwd", "a//b", "a/", ".a", "a/.key", "a\0b", "a\\b",
     "C:a", "a.seal", "proofs/a.json.seal", "a" * 201, "ä", "a\n"],
)  # fmt: skip
def test_names_that_leave_the_folder_or_hit_its_own_files(cache: Cache, name: str) -> None:
    for call in (cache.read, cache.remove, lambda n: cache.write(n, b"")):
        with pytest.raises(ValueError, match="no name of a file in TIER_CACHE"):
            call(name)


def test_the_longest_name(cache: Cache) -> None:
    name = f"{'a' * 200}/{'b' * 200}"
    cache.write(name, b"data")
    assert cache.read(name) == b"data"


# The key


def test_a_key_that_was_cut_off_is_drawn_anew(cache: Cache) -> None:
    """A process that is killed, or a full disk, must not lock the user out for ever."""
    cache.write(NAME, b"data")
    for cut in (b"", b"k" * 31, b"k" * 33):
        (cache.folder / "key").write_bytes(cut)
        after = Cache()
        assert len((cache.folder / "key").read_bytes()) == 32
        assert after.read(NAME) is None
        assert sorted(os.listdir(cache.folder)) == ["key", "proofs"]


KILLED = """
import os, sys
from pathlib import Path
from tier_infer.cache import Cache
kill = sys.argv[2]
real = getattr(os, kill)
def last(*args, **rest):
    os._exit(9)
setattr(os, kill, last)
Cache(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_process_killed_while_it_draws_leaves_no_half_key(tmp_path: Path, step: str) -> None:
    folder = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), step], check=False)
    assert done.returncode == 9
    assert not (folder / "key").exists()
    Cache(folder).write(NAME, b"data")
    assert Cache(folder).read(NAME) == b"data"


RACE = """
import hashlib, sys, time
from pathlib import Path
from tier_infer.cache import Cache
while time.time() < float(sys.argv[2]):
    pass
print(Cache(Path(sys.argv[1])).seal("a", b"b"))
"""


def test_processes_that_start_at_once_end_with_one_key(tmp_path: Path) -> None:
    import time

    start = str(time.time() + 1.0)
    for_each = [sys.executable, "-c", RACE, str(tmp_path / "cache"), start]
    running = [subprocess.Popen(for_each, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    seals = [process.communicate()[0] for process in running]
    assert set(seals) == {Cache(tmp_path / "cache").seal("a", b"b") + "\n"}
    assert os.listdir(tmp_path / "cache") == ["key"]


def test_of_two_that_draw_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In between: another process draws while this one is about to put its own in place."""
    real, first = os.link, []

    def late(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "link", real)
        first.append(Cache(tmp_path / "cache").seal("a", b"b"))
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    assert [Cache(tmp_path / "cache").seal("a", b"b")] == first


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    Cache(tmp_path).write(NAME, b"data")
    assert Cache(tmp_path).read(NAME) == b"data"


# What is open to others


@pytest.mark.parametrize("bits", [0o750, 0o707, 0o770, 0o701, 0o777])
def test_a_folder_open_to_others_is_refused_and_the_line_mends_it(cache: Cache, bits: int) -> None:
    cache.folder.chmod(bits)
    with pytest.raises(IntegrityError, match="TIER_CACHE is not private: found d") as caught:
        Cache()
    assert str(cache.folder) not in str(caught.value)
    command = str(caught.value).partition("; ")[2]
    subprocess.run(["sh", "-c", command], check=True)  # TIER_CACHE is in the environment
    Cache()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o666])
def test_a_key_open_to_others_is_refused_and_the_line_mends_it(cache: Cache, bits: int) -> None:
    (cache.folder / "key").chmod(bits)
    with pytest.raises(IntegrityError, match="TIER_CACHE/key is not private") as caught:
        Cache()
    subprocess.run(["sh", "-c", str(caught.value).partition("; ")[2]], check=True)
    Cache()


def test_the_line_for_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIER_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache/tier-cxr").mkdir(parents=True)
    (tmp_path / ".cache/tier-cxr").chmod(0o755)
    with pytest.raises(IntegrityError) as caught:
        Cache()
    assert str(tmp_path) not in str(caught.value)
    subprocess.run(["sh", "-c", str(caught.value).partition("; ")[2]], check=True)
    assert Cache().folder == tmp_path / ".cache/tier-cxr"


def test_a_folder_of_somebody_else(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(IntegrityError, match=r"found one of another user.* another folder in TIER"):
        Cache()


def test_a_key_of_somebody_else(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put there by whoever may write to a parent folder: they know it."""
    real = os.fstat

    def theirs(handle: int) -> os.stat_result:
        found = list(real(handle))
        found[4] += 1  # st_uid
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", theirs)
    with pytest.raises(IntegrityError, match=r"TIER_CACHE/key is not private.* another user"):
        Cache()


def test_a_parent_that_others_may_write_to_is_no_harm(tmp_path: Path) -> None:
    """Who moves the folder away and puts another in its place does not know the key of it."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    Cache(tmp_path / "shared/cache").write(NAME, b"data")
    (tmp_path / "shared/cache").rename(tmp_path / "shared/away")
    after = Cache(tmp_path / "shared/cache")
    shutil.copytree(tmp_path / "shared/away/proofs", after.folder / "proofs")
    assert after.read(NAME) is None


def test_windows_has_no_user_ids(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write(NAME, b"data")
    for name in ("getuid", "O_NOFOLLOW"):
        monkeypatch.delattr(os, name)
    cache.folder.chmod(0o777)  # modes say nothing there
    assert Cache().read(NAME) == b"data"


# Symbolic links


def test_a_linked_folder(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(cache.folder)
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "link"))
    with pytest.raises(IntegrityError, match="found a symbolic link"):
        Cache()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises((IntegrityError, OSError), match="TIER_CACHE"):
        Cache()
    assert not (tmp_path / "nowhere").exists()


def test_a_linked_key(cache: Cache, tmp_path: Path) -> None:
    (cache.folder / "key").rename(tmp_path / "elsewhere")
    (cache.folder / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="TIER_CACHE/key is not private: found a symbolic"):
        Cache()


def test_a_linked_file_is_not_read_and_is_replaced(cache: Cache, tmp_path: Path) -> None:
    path = cache.write(NAME, b"data")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.read(NAME) is None
    with pytest.raises(IntegrityError, match=f"TIER_CACHE/{NAME} is a symbolic link"):
        cache.write(NAME, b"new")
    cache.remove(NAME)
    cache.write(NAME, b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"data"


def test_nothing_is_written_behind_a_linked_folder(cache: Cache, tmp_path: Path) -> None:
    cache.write(NAME, b"data")
    (cache.folder / "proofs").rename(tmp_path / "elsewhere")
    (cache.folder / "proofs").symlink_to(tmp_path / "elsewhere")
    assert cache.read(NAME) is None
    with pytest.raises(IntegrityError, match="TIER_CACHE/proofs is a symbolic link"):
        cache.write(NAME, b"new")
    cache.remove(NAME)
    assert (tmp_path / "elsewhere/a.json").read_bytes() == b"data"


# A folder that can't be had


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/home/somebody/key")


def test_a_full_disk(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write(NAME, b"data")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        cache.write(NAME, b"new")
    assert caught.value.filename == f"TIER_CACHE/{NAME}"
    assert cache.read(NAME) == b"data"
    with pytest.raises(OSError, match="No space left") as caught:
        Cache(tmp_path / "new")
    assert caught.value.filename == "TIER_CACHE/key"
    assert os.listdir(tmp_path / "new") == []


def test_a_full_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full, the kernel's own full disk, is no folder either."""
    monkeypatch.setenv("TIER_CACHE", "/dev/full")
    with pytest.raises(NotADirectoryError, match="is no folder; name another folder in TIER_CACHE"):
        Cache()


READ_ONLY = """
import os, sys
from pathlib import Path
from tier_infer.cache import Cache
os.setuid(65534)  # root may write anywhere
cache = Cache(Path(sys.argv[1]))
print(cache.read("proofs/a.json"))
try:
    cache.write("proofs/b.json", b"new")
except OSError as error:
    print(error.strerror, error.filename)
"""


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to become somebody else"
)
def test_a_read_only_folder_is_read(tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:  # one that somebody else may enter
        folder = Path(place) / "cache"
        Path(place).chmod(0o755)
        Cache(folder).write(NAME, b"data")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o500 if path.is_dir() else 0o400)
            os.chown(path, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout.splitlines() == [
            "b'data'",
            "can't be written (Permission denied) TIER_CACHE/proofs/b.json",
        ], done.stderr


def test_a_file_where_the_folder_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match="is no folder"):
        Cache()
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(NotADirectoryError) as caught:
        Cache()
    assert str(tmp_path) not in str(caught.value)


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account of a service without HOME, whose user id is in no table."""
    import pwd

    def unknown(*_: Any) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("TIER_CACHE")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(OSError, match="no home folder to keep it in; name a folder in TIER_CACHE"):
        Cache()


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIER_CACHE", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (cache_folder(), shown_folder()) == (Path("here"), "$TIER_CACHE")
    monkeypatch.setenv("TIER_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/x")
    assert (cache_folder(), shown_folder()) == (Path("/var/x/tier-cxr"), "$XDG_CACHE_HOME/tier-cxr")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification: leave it out of account
    assert (cache_folder(), shown_folder()) == (tmp_path / ".cache/tier-cxr", "~/.cache/tier-cxr")
