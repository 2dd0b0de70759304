"""python -m pytest tests/export/test_kill.py -- kill -9 leaves the old bundle, the new one or none.

`benchmarks/export.py CKPT.pt --kills 20` does the same to the command with everything in it. Before
every single change on the disk: test_writing_stopped.py.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

import tier_export.crops
from tests.infer.tiny_bundle import write_bundle as write_tiny
from tests.train.children import child
from tier_export.cli import main
from tier_export.parity import Crops
from tier_export.writing import recover, write_bundle
from tier_infer.bundle import load_bundle
from tier_infer.geometry import Geometry

LUNGS = """
set = "lungs"
[[label]]
id = "wet"
positive = ["Edema is present."]
negative = ["The lungs are clear."]
"""


def _command(folder: Path, args: list[str]) -> None:
    """The command in a process of its own, on fewer phantoms than the gates are made for."""
    os.chdir(folder)
    tier_export.crops.phantom_crops = functools.partial(_few, tier_export.crops.phantom_crops)
    os.fsync = _slow_disk  # so that kills meet the writing
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  ends with the process
    main(args, prog_name="tier-export")


def _slow_disk(handle: int) -> None:
    time.sleep(0.02)


def _few(draw: Callable[..., Crops], geometry: Geometry, intensity: str, count: int = 4) -> Crops:
    return draw(geometry, intensity, count)


def kill(process: BaseProcess, after: float, writing: Path | None = None) -> bool:
    """After so many seconds, if asked so of writing into the folder `writing`.

    False: it had ended before.
    """
    left_over = changed(writing)
    while writing and process.is_alive() and changed(writing) == left_over:
        time.sleep(0.001)
    process.join(after)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def changed(folder: Path | None) -> int:
    """When, in nanoseconds; 0 where there is none."""
    try:
        return folder.stat().st_ctime_ns if folder else 0
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize(
    "args",
    [
        ["--fp16", "ckpt.pt"],
        ["labels", "--queries", "lungs.toml", "--checkpoint", "ckpt.pt"],
    ],
    ids=["export", "labels"],
)
def test_the_command_killed(site: Path, tmp_path: Path, args: list[str]) -> None:
    shutil.copy(site / "ckpt.pt", tmp_path)
    (tmp_path / "lungs.toml").write_text(LUNGS)
    target = Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))
    encoders = load_bundle(target).manifest.bundle_sha256
    fresh = tmp_path / ".bundle.new"
    assert kill(child(_command, tmp_path, args), 2 if "labels" not in args else 0.3)
    assert load_bundle(target).manifest.bundle_sha256 == encoders
    kills = 0
    for after in (0.0, 0.05, 0.15):
        kills += kill(child(_command, tmp_path, args), after, fresh)
        recover(target)
        assert load_bundle(target).manifest.bundle_sha256 == encoders
    assert kills >= 2
    process = child(_command, tmp_path, args)
    process.join()
    assert process.exitcode == 0
    sets = set(load_bundle(target).manifest.label_sets)
    assert sets == ({"chexpert", "lungs"} if "labels" in args else {"chexpert"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "ckpt.pt", "lungs.toml"]


def _rewrite(folder: Path) -> None:
    """One bundle in place of the other for ever."""
    made = [load_bundle(folder / name) for name in ("one", "two")]
    files = [
        {name: (b.folder / name).read_bytes() for name, _ in b.manifest.listed()} for b in made
    ]
    while True:
        for bundle, content in zip(made, files, strict=True):
            write_bundle(folder / "bundle", bundle.manifest, content)


def test_writing_killed_at_twenty_moments(tmp_path: Path) -> None:
    """Nothing but writes, so that every kill meets one."""
    known = []
    for name, preset in (("one", "small-112"), ("two", "medclip-224")):
        write_tiny(tmp_path / name, preset)
        known.append(load_bundle(tmp_path / name).manifest)
    chance, target = random.Random(0), tmp_path / "bundle"
    found, left = set(), set()
    for _ in range(20):
        assert kill(child(_rewrite, tmp_path), chance.uniform(0, 0.2), tmp_path / ".bundle.new")
        left |= {path.name for path in tmp_path.iterdir()}
        recover(target)
        manifest = load_bundle(target).manifest
        assert manifest in known
        found.add(manifest.bundle_sha256)
    assert len(found) == 2
    assert ".bundle.new" in left, "killed in the middle of writes"
    write_bundle(target, known[0], {
        name: (tmp_path / "one" / name).read_bytes() for name, _ in known[0].listed()
    })  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "one", "two"]
