"""python -m pytest tests/train/test_cache.py -- a cache is its dataset, bit by bit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.cache_tools import (
    ALL,
    PAIRS,
    RECIPE,
    SMALL,
    check_same,
    content,
    pictures_of,
    written,
)
from tests.train.mimic_tree import picture, write_tree
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.geometry import GEOMETRIES
from tier_train.data.cache import read_cache
from tier_train.data.datasets import open_dataset
from tier_train.data.pictures import load_pictures
from tier_train.phantoms.phantom import draw_phantom
from tier_train.phantoms.phantom_data import to_dicom


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


def test_the_cache_gives_the_rows_and_pictures_of_the_source(tree: Path, whole: Path) -> None:
    source, cached = open_dataset(f"mimic:{tree}", RECIPE), open_dataset(f"cache:{whole}", RECIPE)
    check_same(source, cached)
    assert len(cached.rows) == PAIRS
    assert {p.shape for p in pictures_of(cached)} == {(160, 128), (128, 160)}, "nothing is cropped"
    numbers = list(dict.fromkeys(row.patient for row in cached.rows))
    assert numbers == [str(i + 1) for i in range(len(numbers))], "running numbers"
    patients = zip(source.rows, cached.rows, strict=True)
    assert len({(a.patient, b.patient) for a, b in patients}) == len(numbers)


def test_any_rows_in_any_order(whole: Path) -> None:
    cached = open_dataset(f"cache:{whole}", RECIPE)
    every = pictures_of(cached)
    order = [30, 2, 17, 2]
    rows, pictures = load_pictures(cached, [cached.rows[i] for i in order], "mimic-jpg", SMALL)
    assert len(pictures) == len(rows) == 4
    for at, i in enumerate(order):
        np.testing.assert_array_equal(pictures[at], every[i])
    pictures[0][:] = 0  # a copy: the file stays as it is
    np.testing.assert_array_equal(pictures[0], every[30])
    again = pickle.dumps(pictures)
    assert len(again) < 2000, "a worker gets the places, not the pixels"
    np.testing.assert_array_equal(pickle.loads(again)[1], every[2])


def test_a_manifest_of_dicom_and_jpeg_is_cached_too(tmp_path: Path) -> None:
    to_dicom(draw_phantom(0, 0), "s", "i").save_as(tmp_path / "a.dcm", enforce_file_format=True)
    Image.fromarray(picture(1)).save(tmp_path / "b.jpg")
    (tmp_path / "m.csv").write_text(
        "image_path,patient_id,split,text,view,intensity,Edema,Big heart\n"
        'a.dcm,Jane Doe,train,"One,\r\ntwo ""three"".",,mimic-jpg,1,\n'
        "b.jpg,Joe,val,,lateral,mimic-jpg,0,1\n",
        newline="",
    )
    spec = f"manifest:{tmp_path / 'm.csv'}"
    written(spec, tmp_path / "cache", shard=1)
    cached = open_dataset(f"cache:{tmp_path / 'cache'}", RECIPE)
    check_same(open_dataset(spec, RECIPE), cached)
    assert [row.patient for row in cached.rows] == ["1", "2"]
    assert not any(b"Jane" in data for data in content(tmp_path / "cache").values())


def test_nothing_of_the_source_is_named(tree: Path, whole: Path) -> None:
    ids = [str(v).encode() for s in ALL for v in (s.subject, s.number, s.dicom(0))]
    for path in whole.iterdir():
        data = path.read_bytes() if path.suffix != ".u8" else b""
        assert not any(value in data for value in ids), path.name
        assert str(tree).encode() not in data


def test_what_the_cache_was_not_written_for_is_refused(whole: Path) -> None:
    cached = read_cache(whole, RECIPE)
    for geometry in ("tier-224-imagenet", "medclip-224"):
        with pytest.raises(UsageError, match=rf"short side 128.*{geometry} needs .*side 2"):
            pictures_of(cached, GEOMETRIES[geometry])
    with pytest.raises(UsageError, match="intensity mimic-jpg, the recipe names voi"):
        load_pictures(cached, list(cached.rows), "voi", SMALL)
    for key, value in (("impressions", "tier"), ("split_by", "official"), ("split_seed", 3)):
        with pytest.raises(UsageError, match=f"written with {key} = .*--set {key}="):
            read_cache(whole, replace(RECIPE, **{key: value}))  # type: ignore[arg-type]


def test_laterals_can_still_be_left_out(tree: Path, whole: Path, tmp_path: Path) -> None:
    frontal = replace(RECIPE, views="frontal")
    cached, source = open_dataset(f"cache:{whole}", frontal), open_dataset(f"mimic:{tree}", frontal)
    assert [r.number for r in cached.rows] == [r.number for r in source.rows]
    assert [r.split for r in cached.rows] == [r.split for r in source.rows]
    assert cached.views == ("frontal",)
    for p, q in zip(pictures_of(cached), pictures_of(source), strict=True):
        np.testing.assert_array_equal(p, q)
    released = replace(RECIPE, split_by="released_code")  # there it would change who is held out
    written(tree, tmp_path / "released", recipe=released)
    with pytest.raises(UsageError, match="written with views = 'all'"):
        open_dataset(f"cache:{tmp_path / 'released'}", replace(released, views="frontal"))
    written(tree, tmp_path / "frontal", recipe=frontal)
    with pytest.raises(UsageError, match="written with views = 'frontal'"):
        open_dataset(f"cache:{tmp_path / 'frontal'}", RECIPE)


def test_a_geometry_of_the_same_resize_can_read_it(whole: Path) -> None:
    """Crop and statistics come later, so they play no part."""
    other = replace(SMALL, name="other", crop=96, mean=(0.1,) * 3, std=(0.2,) * 3)
    assert len(pictures_of(read_cache(whole, RECIPE), other)) == PAIRS


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cache.json", lambda data: b"{}"),
        ("cache.json", lambda data: b"no json"),
        ("cache.json", lambda data: data.replace(b"tier-cache/2", b"tier-cache/9")),
        ("cache.json", lambda data: data.replace(b'"pictures": 36', b'"pictures": 35')),
        ("rows.csv", lambda data: data.replace(b"Edema 3", b"Edema 4", 1)),
        ("rows.csv", None),
        ("pixels-00002.u8", lambda data: data[:-1]),
        ("pixels-00002.u8", None),
        ("pixels-00002.npy", lambda data: data[:-8] + b"\0" * 8),
        ("pixels-00002.npy", None),
    ],
)
def test_a_damaged_cache_is_refused_and_mended(
    tree: Path, whole: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes] | None
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "cache"))
    path = folder / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises((IntegrityError, UsageError), match=r"data cache|format"):
        pictures_of(read_cache(folder, RECIPE))
    written(tree, folder)
    assert content(folder) == content(whole)


def test_what_is_no_cache_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no cache\.json; `tier-train data cache` writes"):
        open_dataset(f"cache:{tmp_path}", RECIPE)


def test_facts_are_plain_json(whole: Path) -> None:
    facts = json.loads((whole / "cache.json").read_bytes())
    assert facts["plan"]["recipe"] == {
        "impressions": "mimic",
        "split_by": "patients",
        "split_seed": 0,
        "views": "all",
    }
    assert sum(shard["pictures"] for shard in facts["shards"]) == facts["pictures"] == PAIRS
    sizes = [shard["bytes"] for shard in facts["shards"]]
    assert sizes == [os.path.getsize(whole / f"pixels-{i:05d}.u8") for i in range(len(sizes))]
