"""python benchmarks/kill_resume.py [KILLS] -- `tier-train run` under kill -9 at random moments.

One run of phantoms in peace; the same run killed KILLS times, each time resumed with `--resume`;
then the two metrics files are compared in every column but the timings, and the checkpoints weight
by weight. Prints a line per kill: when, what was saved, and what lay there half-written.
"""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tier_train.checkpoint import flat_state, load_checkpoint

TRAIN = Path(sys.executable).parent / "tier-train"
RECIPE = [
    f"--set={item}"
    for item in (
        *("steps=120", "batch_size=8", "validate_every=10", "save_every=3", "keep_best=3"),
        *("text_dropout=0.1", "text_layers=1", "rotate=5", "vocab_size=200"),
    )
]


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "phantoms"
        counts = ("--train", "64", "--val", "24", "--test", "0")
        subprocess.run([TRAIN, "data", "phantoms", "-o", folder, *counts], check=True)
        started = time.monotonic()
        start(folder, "whole.pt").communicate()
        whole = time.monotonic() - started
        print(f"uninterrupted: {whole:.1f} s")
        same = torment(folder, kills, whole)
    sys.exit(0 if same else 1)


def start(folder: Path, output: str) -> subprocess.Popen[bytes]:
    command = [str(TRAIN), "run", *RECIPE, "--threads", "1", "--resume", "-o", output]
    return subprocess.Popen(
        command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def torment(folder: Path, kills: int, whole: float) -> bool:
    """Whether every run that survived `kills` kills ended as the uninterrupted one."""
    chance, killed, runs, same = random.Random(0), 0, 0, True
    print(f"{'kill':>4}  {'after':>6}  {'saved step':>10}  half-written")
    while same:
        output = f"run{runs}.pt"
        process = start(folder, output)
        after = chance.uniform(2, whole)
        try:
            process.wait(after if killed < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            left = [path.name for path in folder.rglob(".*.tmp")]
            print(f"{killed:>4}  {after:>4.1f} s  {saved(folder, runs):>10}  {' '.join(left)}")
            continue
        same = process.returncode == 0 and equal(folder, output)
        print(f"run {runs} complete; {'equal to' if same else 'DIFFERENT FROM'} the uninterrupted")
        runs += 1
        if killed == kills:
            break
    return same


def saved(folder: Path, run: int) -> str:
    path = folder / f"run{run}.state.pt"
    return str(torch.load(path, weights_only=True)["step"]) if path.is_file() else "none"


def equal(folder: Path, output: str) -> bool:
    ours, theirs = (
        flat_state(load_checkpoint(folder / name).model) for name in (output, "whole.pt")
    )
    weights = all(torch.equal(value, theirs[key]) for key, value in ours.items())
    tables = [rows(folder / f"{Path(name).stem}.metrics.csv") for name in (output, "whole.pt")]
    return weights and tables[0] == tables[1]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "pairs_per_s")} for row in table]


if __name__ == "__main__":
    main()
