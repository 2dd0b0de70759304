"""python -m pytest tests/train/test_torchrun.py -- jobs as users start them; one is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.children import TINY, make_folder, run, table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torchrun") / "tiny"
    return make_folder(path, {"train": 24, "val": 12})


def _torchrun(folder: Path, *options: str) -> subprocess.Popen[str]:
    settings = [f"--set={key}={value}" for key, value in TINY.items() if key != "steps"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*launcher, "-m", "tier_train.cli", "run", "--device=cpu", "--threads=1"]
    return subprocess.Popen(
        [*command, *settings, *options], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_torchrun_trains_and_only_one_process_talks(folder: Path) -> None:
    job = _torchrun(folder, "--set=steps=6", "-o", "job.pt")
    out, err = job.communicate(timeout=200)
    assert job.returncode == 0, err
    assert len(re.findall("step 6/6 ", err)) == 1
    assert len(re.findall("wrote job.pt", out)) == 1
    run(folder, folder / "single.pt", {})
    ours, alone = table(folder / "job.metrics.csv"), table(folder / "single.metrics.csv")
    for row, other in zip(ours, alone, strict=True):
        assert row.keys() == other.keys()
        assert [row[k] for k in ("step", "epoch", "lr")] == [
            other[k] for k in ("step", "epoch", "lr")
        ]
        # BatchNorm sees half the rows
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=0.05)


def test_a_killed_process_ends_the_job(folder: Path) -> None:
    job = _torchrun(folder, "--set=steps=1000000", "-o", "killed.pt")
    end = time.monotonic() + 120
    while not (folder / "killed.state.pt").is_file():
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    _, err = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "SIGKILL" in err or "-9" in err
    assert not (folder / "killed.pt").exists()
