"""python -m pytest tests/train/test_cache_writer.py -- interrupted, damaged or full: it goes on."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.train.cache_tools import (
    ALL,
    BAD,
    PAIRS,
    RECIPE,
    SMALL,
    check_same,
    content,
    pictures_of,
    written,
)
from tests.train.mimic_tree import image_path, plain, write_tree
from tier_infer.errors import UsageError
from tier_train.data import cache_shards
from tier_train.data.cache import read_cache
from tier_train.data.datasets import open_dataset


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("mimic") / "root", ALL)


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the tree; read only."""
    folder = tmp_path_factory.mktemp("cache") / "cache"
    written(tree, folder)
    return folder


@pytest.fixture
def copied(tree: Path, tmp_path: Path) -> Path:
    """A tree to be damaged; same times, as shards are kept by them."""
    return Path(shutil.copytree(tree, tmp_path / "root"))


@pytest.mark.parametrize("workers", [1, 2])
def test_equal_inputs_give_equal_bytes(
    tree: Path, whole: Path, tmp_path: Path, workers: int
) -> None:
    written(tree, tmp_path / "again", workers=workers)
    assert content(tmp_path / "again") == content(whole)
    assert read_cache(tmp_path / "again", RECIPE).sha256 == read_cache(whole, RECIPE).sha256


def test_an_interrupted_cache_goes_on(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, begun = tmp_path / "cache", []

    def stop_at_the_fourth(job: cache_shards.Job) -> dict[str, Any]:
        begun.append(job.number)
        if len(begun) == 4:
            (folder / ".pixels-00003.u8.1.tmp").write_bytes(b"half a sha")
            raise KeyboardInterrupt
        return original(job)

    original: Callable[..., dict[str, Any]] = cache_shards.write_shard
    monkeypatch.setattr(cache_shards, "write_shard", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        written(tree, folder)
    with pytest.raises(UsageError, match=r"is not finished; the same .*data cache"):
        open_dataset(f"cache:{folder}", RECIPE)
    written(tree, folder)
    assert begun == [0, 1, 2, 3, 3, 4, 5, 6, 7], "what is done is kept"
    assert content(folder) == content(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_cache_leaves_no_process_and_goes_on(
    tree: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    code = (
        "import sys, time; from pathlib import Path; from tests.train import cache_tools as t\n"
        "say = lambda line: time.sleep(99 * ('a second' in line))\n"  # it gets no further
        "t.written(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, shard=5, say=say)\n"
    )
    command = [sys.executable, "-c", code, str(tree), str(folder)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        _wait(lambda: len(list(folder.glob("pixels-*.json"))) >= 2, 60)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.kill()
        process.wait()
    assert len(children) >= 2
    _wait(lambda: not any(_runs(child) for child in children), 10)
    assert not (folder / "cache.json").exists()
    written(tree, folder)
    assert content(folder) == content(whole)


def _wait(done: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_corrupt_image_is_counted_listed_and_left_out(copied: Path, tmp_path: Path) -> None:
    path = image_path(copied, BAD)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    facts = written(copied, tmp_path / "cache")
    assert (facts["pictures"], facts["left_out"]) == (PAIRS - 1, 1)
    cached = read_cache(tmp_path / "cache", RECIPE)
    line = 2 + sum(len(s.views) for s in ALL[: ALL.index(BAD)])
    assert line not in {row.number for row in cached.rows}
    assert cached.notes[-1] == "left out, image refused: 1 (see left_out.csv)"
    listed = (tmp_path / "cache/left_out.csv").read_text().splitlines()
    assert listed[0] == "line,reason"
    assert listed[1].startswith(f"{line},")
    assert len(pictures_of(cached)) == PAIRS - 1
    path.write_bytes(good)  # mended: its shard is written again and no other
    before = _times(tmp_path / "cache")
    assert written(copied, tmp_path / "cache")["pictures"] == PAIRS
    changed = [name for name, t in _times(tmp_path / "cache").items() if before[name] != t]
    assert len(changed) == 1
    check_same(open_dataset(f"mimic:{copied}", RECIPE), read_cache(tmp_path / "cache", RECIPE))


def _times(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.u8")}


def test_more_than_a_twentieth_is_refused(copied: Path, tmp_path: Path) -> None:
    gone = plain(30)[1]
    for study in (BAD, gone):
        image_path(copied, study).unlink()
    image = image_path(copied, BAD)
    image.write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(
        UsageError, match=r"2 of 36 images are refused, more than 5%.*first is line"
    ) as e:
        written(copied, tmp_path / "cache")
    assert str(gone.subject) not in str(e.value)
    assert written(copied, tmp_path / "cache", skip_bad=True)["left_out"] == 2
    with pytest.raises(UsageError, match="2 of 36 images"):  # although nothing is left to do
        written(copied, tmp_path / "cache")
    with pytest.raises(UsageError, match="2 of 36 images"):  # ends its processes
        written(copied, tmp_path / "other", workers=2)
    assert multiprocessing.active_children() == []
    for path in (copied / "files").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(UsageError, match="all 36 images are refused"):
        written(copied, tmp_path / "none", skip_bad=True)


def test_a_folder_of_something_else_is_refused(tree: Path, whole: Path, tmp_path: Path) -> None:
    before = content(whole)
    tier = replace(RECIPE, impressions="tier")
    with pytest.raises(
        UsageError, match="a cache of another source, recipe; choose another folder"
    ):
        written(tree, whole, recipe=tier)
    with pytest.raises(UsageError, match="another resized"):
        written(tree, whole, geometry=replace(SMALL, resize=96))
    other = write_tree(tmp_path / "other", plain(8))
    with pytest.raises(UsageError, match="another source, images"):
        written(other, whole)
    assert content(whole) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no cache"):
        written(tree, tmp_path / "full")
    with pytest.raises(UsageError, match="can't be made"):
        written(tree, tmp_path / "full/notes.txt")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_the_disk_is_asked_first(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    usage = shutil.disk_usage(tmp_path)._replace(free=700_000)
    monkeypatch.setattr("tier_train.data.cache_writer.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"has 0\.7 MB free, the cache needs about 0\.7 MB"):
        written(tree, tmp_path / "cache", say=said.append)
    assert said == [f"36 pictures need about 0.7 MB in {tmp_path / 'cache'}, 0.7 MB are free"]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["plan.json"]
    written(
        tree, tmp_path / "cache", geometry=SMALL, skip_bad=True
    ) if usage.free > 738_000 else None


def test_progress_is_told_at_most_twenty_times(tree: Path, tmp_path: Path) -> None:
    said: list[str] = []
    written(tree, tmp_path / "cache", shard=1, say=said.append)
    told = [line for line in said if "a second" in line]
    assert 2 <= len(told) <= 20
    assert told[-1].startswith("36 of 36 images")
    said.clear()
    written(tree, tmp_path / "cache", shard=1, say=said.append)
    assert said == ["36 of 36 shards are there already"]


def test_a_worker_that_is_killed_is_a_sentence(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(futures: list[Future[Any]]) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(cache_shards, "as_completed", out_of_memory)
    with pytest.raises(UsageError, match="--workers N"):
        written(tree, tmp_path / "cache", workers=2)
    written(tree, tmp_path / "cache")
    assert content(tmp_path / "cache") == content(whole)
