"""python -m pytest tests/train/test_resume.py -- killed at any moment, it ends the same."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.children import FULL, assert_same, child, make_folder, names, run, saved_step
from tier_infer.errors import UsageError
from tier_train.state import write_whole

torch.set_num_threads(1)
KILLS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("resume") / "tiny", {"train": 24, "val": 12})


def _train(folder: Path, output: Path, changes: dict[str, Any]) -> None:
    run(folder, output, changes, resume=True)


def test_twenty_kills_at_random_moments(folder: Path, tmp_path: Path) -> None:
    """kill -9 within steps, validations and writes: the curve goes on as it would have."""
    changes = FULL | {"steps": 30, "validate_every": 6, "save_every": 4}
    whole = tmp_path / "whole" / "x.pt"
    process = child(_train, folder, whole, changes)
    process.join(1)
    started = time.monotonic()
    process.join()
    long = max(1.0, time.monotonic() - started)
    chance, kills, runs, steps = random.Random(0), 0, 0, set()
    while True:
        output = tmp_path / str(runs) / "x.pt"
        process = child(_train, folder, output, changes)
        process.join(None if kills == KILLS else chance.uniform(0.1, long))
        if process.is_alive():
            process.kill()
            kills += 1
            process.join()
            with contextlib.suppress(FileNotFoundError):
                steps.add(saved_step(output))
            continue
        assert process.exitcode == 0
        assert_same(output, whole)
        runs += 1
        if kills == KILLS:
            break
    assert len(steps) > 5, "killed at different moments"


class Killed(BaseException):
    """What no handler catches: from then on nothing reaches the disk."""


@contextlib.contextmanager
def _failing(functions: tuple[str, ...], at: int, error: BaseException) -> Iterator[list[str]]:
    """The call number `at` of these functions of os raises; all later ones too if it is Killed.

    Calls without effect don't count: removing what isn't there, syncing a folder.
    """
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in functions:
            real = getattr(os, name)

            def call(*args: Any, _real: Any = real, _name: str = name, **more: Any) -> Any:
                if _name == "fsync" and not stat.S_ISREG(os.fstat(args[0]).st_mode):
                    return _real(*args)
                if _name == "unlink" and not more and not os.path.lexists(args[0]):
                    return _real(*args)
                seen.append(_name)
                if len(seen) == at or (len(seen) > at > 0 and isinstance(error, Killed)):
                    raise error
                return _real(*args, **more)

            patch.setattr(os, name, call)
        yield seen


SHORT = FULL | {
    "steps": 2, "validate_every": 1, "keep_best": 1, "save_every": 0, "select_by": "val_loss",
    "warmup": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def earlier(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run, whose place others take."""
    place = tmp_path_factory.mktemp("earlier")
    run(folder, place / "x.pt", SHORT | {"seed": 1})
    return place


def test_a_kill_before_any_change_on_disk(folder: Path, earlier: Path, tmp_path: Path) -> None:
    changes = ("replace", "rename", "unlink", "rmdir")
    whole = shutil.copytree(earlier, tmp_path / "whole") / "x.pt"
    with _failing(changes, 0, Killed()) as calls:
        run(folder, whole, SHORT)
    assert (calls.count("rename"), calls.count("rmdir"), calls.count("unlink")) == (2, 1, 4)
    for at in range(1, len(calls) + 1):
        output = shutil.copytree(earlier, tmp_path / str(at)) / "x.pt"
        with _failing(changes, at, Killed()), pytest.raises(Killed):
            run(folder, output, SHORT)
        run(folder, output, SHORT, resume=True)
        assert_same(output, whole)


def test_a_full_disk_loses_nothing(folder: Path, earlier: Path, tmp_path: Path) -> None:
    """Whatever is being written: a sentence, the old files whole, no others, and --resume."""
    whole = shutil.copytree(earlier, tmp_path / "whole") / "x.pt"
    with _failing(("fsync",), 0, Killed()) as calls:
        run(folder, whole, SHORT)
    # twice best, state, ranking, metrics; then checkpoint, metrics, recipe
    assert len(calls) == 2 * 4 + 3
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for at in range(1, len(calls) + 1):
        output = shutil.copytree(earlier, tmp_path / str(at)) / "x.pt"
        with (
            _failing(("fsync",), at, full),
            pytest.raises(UsageError, match=r"x.*can't be written \(No space left on device\)"),
        ):
            run(folder, output, SHORT)
        assert not [n for n in names(output.parent) if n.endswith(".tmp")]
        run(folder, output, SHORT, resume=True)
        assert_same(output, whole)


def test_what_a_full_disk_says(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real, count = torch.save, [0]

    def full(table: Any, file: Any) -> None:
        if "optimizer" in table:
            count[0] += 1
            if count[0] == 2:
                file = Full(file, 100_000)
        real(table, file)

    monkeypatch.setattr(torch, "save", full)
    output = tmp_path / "x.pt"
    words = r"x\.state\.pt can't be written \(No space left on device\); .*from step 3 with"
    with pytest.raises(UsageError, match=words):
        run(folder, output, {})
    assert names(tmp_path) == ["x.metrics.part.csv", "x.state.pt"]
    assert saved_step(output) == 3


class Full:
    """A file on a disk with room for so many bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [10, 2_000, 500_000, 3_900_000])
def test_a_write_that_fails_says_why_and_leaves_nothing(tmp_path: Path, room: int) -> None:
    """torch hides some of these behind a complaint about its own file format."""
    tensors = {str(i): torch.zeros(1000, 100) for i in range(10)}
    (tmp_path / "x.pt").write_bytes(b"old")
    with pytest.raises(OSError, match=r"can't be written.*No space left") as caught:
        write_whole(tmp_path / "x.pt", lambda file: torch.save(tensors, Full(file, room)))  # type: ignore[arg-type]
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["x.pt"]
    assert (tmp_path / "x.pt").read_bytes() == b"old"
