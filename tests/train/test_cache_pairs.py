"""python -m pytest tests/train/test_cache_pairs.py -- no picture of a cache gets another's text."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.train.cache_tools import RECIPE, SMALL, check_same, content, written
from tests.train.mimic_tree import image_path, picture, plain, write_tree
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.files import sha256_of
from tier_infer.geometry import Geometry
from tier_train.cli import main
from tier_train.data import cache_shards, cache_writer
from tier_train.data.cache import read_cache, sealed
from tier_train.data.datasets import open_dataset
from tier_train.data.pictures import load_pictures

STUDIES = plain(12)
BAD = STUDIES[3]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images of one size, one of them broken."""
    root = write_tree(tmp_path_factory.mktemp("mimic") / "root", STUDIES)
    for i, study in enumerate(STUDIES):
        Image.fromarray(np.rot90(picture(1), 2 * (i % 2)) ^ i).save(image_path(root, study))
    image_path(root, BAD).write_bytes(b"\xff\xd8\xff broken")
    return root


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    written(tree, folder, skip_bad=True)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def _check(place: object, *args: str) -> Any:
    return CliRunner().invoke(main, ["data", "check", str(place), "--set", "batch_size=2", *args])


def test_a_changed_digit_of_who_was_left_out_exchanges_no_texts(
    tree: Path, whole: Path, copied: Path
) -> None:
    facts = copied / "pixels-00000.json"
    for line in ("4", "6", "20"):
        changed = facts.read_bytes().replace(b"    5,\n", f"    {line},\n".encode())
        changed = changed.replace(b"   5,\n", f"   {line},\n".encode())
        assert changed != facts.read_bytes()
        facts.write_bytes(changed)
        body = json.loads(changed)
        for data in (changed, json.dumps(sealed({k: body[k] for k in body if k != "sha256"}))):
            facts.write_bytes(data if isinstance(data, bytes) else data.encode())
            written(tree, copied, skip_bad=True)
            assert content(copied) == content(whole)


def test_rows_of_other_lines_are_refused(whole: Path, copied: Path) -> None:
    rows = (copied / "rows.csv").read_text().splitlines(keepends=True)
    rows[1], rows[2] = rows[2], rows[1]
    (copied / "rows.csv").write_text("".join(rows))
    facts = json.loads((copied / "cache.json").read_bytes())
    facts["rows_sha256"] = sha256_of(copied / "rows.csv")
    del facts["sha256"]
    (copied / "cache.json").write_text(json.dumps(sealed(facts)))
    cached = read_cache(copied, RECIPE)
    with pytest.raises(IntegrityError, match="data cache"):
        load_pictures(cached, list(cached.rows), "mimic-jpg", SMALL)


def test_a_run_notices_other_pixels(copied: Path) -> None:
    cached = read_cache(copied, RECIPE)
    one, other = copied / "pixels-00001.u8", copied / "pixels-00000.u8"
    assert len(one.read_bytes()) > 4 * 128 * 128
    one.write_bytes(one.read_bytes()[:-1] + bytes([one.read_bytes()[-1] ^ 1]))
    _, pictures = load_pictures(cached, list(cached.rows), "mimic-jpg", SMALL)
    pictures[0], pictures[7]
    with pytest.raises(IntegrityError, match=r"pixels-00001.u8 .*data cache.*mends"):
        pictures[8]
    data = other.read_bytes()
    size = len(pictures[0].tobytes())
    other.write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])
    _, pictures = load_pictures(cached, list(cached.rows), "mimic-jpg", SMALL)
    with pytest.raises(IntegrityError, match="pixels-00000"):
        pictures[0]


def _without(*path: str) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        for key in path[:-1]:
            facts = facts[key]
        del facts[path[-1]]

    return change


def _with(value: Any, *path: Any) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        for key in path[:-1]:
            facts = facts[key]
        facts[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(_without(key) for key in ("rows_sha256", "notes", "views", "pictures", "shards")),
        _without("plan", "recipe"),
        _with(1, "plan", "recipe", "foo"),
        _with("0", "plan", "recipe", "split_seed"),
        _with({"a": 1}, "shards"),
        _with("../x", "shards", 0, "number"),
        _with(None, "shards", 0),
        _with(["frontbl"], "views"),
        _with([1], "notes"),
        _with("none", "plan", "intensity"),
        _with([], "plan", "resized"),
    ],
)
def test_a_cache_json_that_is_not_ours_is_exit_4(
    copied: Path, change: Callable[[Any], None]
) -> None:
    facts = json.loads((copied / "cache.json").read_bytes())
    change(facts)
    for digest in (facts["sha256"], None):  # the second with a digest that fits
        body = {key: value for key, value in facts.items() if key != "sha256"}
        body = sealed(body) if digest is None else body | {"sha256": digest}
        (copied / "cache.json").write_text(json.dumps(body))
        with pytest.raises(IntegrityError, match=r"cache.json .*data cache"):
            read_cache(copied, RECIPE)


def test_every_changed_fact_is_seen(copied: Path) -> None:
    raw = (copied / "cache.json").read_bytes()
    (copied / "cache.json").write_bytes(raw.replace(b'"mimic-jpg"', b'"minmax"'))
    with pytest.raises(IntegrityError):
        read_cache(copied, RECIPE)


@pytest.mark.parametrize("data", [b"[]", b"[" * 100_000, b"null", b"{}"])
def test_a_plan_that_is_none_is_exit_2(tree: Path, copied: Path, data: bytes) -> None:
    (copied / "plan.json").write_bytes(data)
    with pytest.raises(UsageError, match=r"choose another folder"):
        written(tree, copied, skip_bad=True)


def _manifest(folder: Path, views: str) -> str:
    for i in range(4):
        Image.fromarray(picture(i)).save(folder / f"{i}.png")
    rows = [
        f"{i}.png,p{i},{'train' if i < 3 else 'val'},word,{view},mimic-jpg\n"
        for i, view in enumerate(views.split(","))
    ]
    table = folder / "m.csv"
    table.write_text("image_path,patient_id,split,text,view,intensity\n" + "".join(rows))
    return f"manifest:{table}"


def test_the_views_of_a_manifests_cache_are_kept_to(tmp_path: Path) -> None:
    spec = _manifest(tmp_path, "PA,LL,AP,PA")
    frontal = replace(RECIPE, views="frontal")
    written(spec, tmp_path / "frontal", recipe=frontal)
    assert len(open_dataset(f"cache:{tmp_path / 'frontal'}", frontal).rows) == 3
    with pytest.raises(UsageError, match="views = 'frontal', the recipe has 'all'"):
        open_dataset(f"cache:{tmp_path / 'frontal'}", RECIPE)
    written(spec, tmp_path / "all")
    narrowed = open_dataset(f"cache:{tmp_path / 'all'}", frontal)
    check_same(replace(open_dataset(spec, frontal)), narrowed)


def test_nothing_to_cache_is_exit_2(tmp_path: Path) -> None:
    spec, frontal = _manifest(tmp_path, "LL,LL,RL,lateral"), replace(RECIPE, views="frontal")
    with pytest.raises(UsageError, match="laterals only; --set views=all"):
        open_dataset(spec, frontal)
    empty = replace(open_dataset(spec, RECIPE), rows=())
    with pytest.raises(UsageError, match="holds no pair"):
        cache_writer.write_cache(
            empty, tmp_path / "c", RECIPE, SMALL, intensity="minmax", say=lambda _: None
        )


def test_check_says_what_a_run_would_refuse(tree: Path, tmp_path: Path) -> None:
    args = ["data", "cache", str(tree), "-o", str(tmp_path / "my cache"), "--recipe", "small"]
    args += ["--set", "split_seed=1", "--skip-bad", "--workers", "1"]
    result = CliRunner().invoke(main, args)
    assert f"run --data 'cache:{tmp_path}/my cache' --recipe small --set split_seed=1" in (
        result.stdout
    )
    seeded = ("--set", "split_seed=1")
    place = f"cache:{tmp_path / 'my cache'}"
    assert _check(place, "--recipe", "small", *seeded).exit_code == 0
    for keys, words in ((seeded, "needs short side 256"), (("--set", "intensity=voi"), "voi")):
        recipe = ("--recipe", "small", *seeded) if "voi" in words else ()
        found = _check(place, *recipe, *keys)
        assert found.exit_code == 2
        assert words in found.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no flock there")
def test_two_writers_are_kept_apart(tree: Path, copied: Path) -> None:
    import fcntl

    handle = os.open(copied, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    before = content(copied)
    try:
        with pytest.raises(UsageError, match="another process is writing in"):
            written(tree, copied, skip_bad=True)
    finally:
        os.close(handle)
    assert content(copied) == before
    written(tree, copied, skip_bad=True)


def test_a_full_disk_is_a_sentence(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, intensity: str, geometry: Geometry) -> np.ndarray[Any, Any]:
        if path == image_path(tree, STUDIES[7]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, intensity, geometry)

    original = cache_shards.decode
    monkeypatch.setattr(cache_shards, "decode", full)
    with pytest.raises(UsageError, match=r"No space.* are free .*same command goes on"):
        written(tree, tmp_path / "c", skip_bad=True)
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["pixels-00000.json", "pixels-00000.npy", "pixels-00000.u8", "plan.json"]
    monkeypatch.undo()
    written(tree, tmp_path / "c", skip_bad=True)
    assert content(tmp_path / "c") == content(whole)
