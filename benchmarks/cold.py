"""What one DICOM costs from a cold start: `tier-infer`, `import torch`, torchxrayvision.

    python benchmarks/cold.py BUNDLE STUDY.dcm [--peer PYTHON] [--rounds 11] [-o cold.csv]
    python benchmarks/cold.py --check cold.csv

Every row is a process of its own, children counted. They take turns, so that a machine whose speed
drifts treats them alike. `--peer` is an interpreter that has torchxrayvision: it reads the same
file, crops, resizes to 224 and runs its DenseNet-121 (random weights, nothing is downloaded). The
outputs are other findings of another network, so they can't be compared; what is checked first is
that both take the file and give finite numbers. Printed: medians, and ratios to `tier-infer`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PEER = """
import sys, warnings; warnings.simplefilter("ignore")
import torch, torchxrayvision as xrv
image = xrv.utils.read_xray_dcm(sys.argv[1])[None]
image = xrv.datasets.XRayResizer(224)(xrv.datasets.XRayCenterCrop()(image))
net = xrv.models.DenseNet(weights=None, num_classes=18).eval()
with torch.inference_mode():
    assert torch.isfinite(net(torch.from_numpy(image)[None].float())).all()
"""
FIELDS = ("command", "round", "wall_s", "cpu_s", "peak_mb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--peer")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("-o", "--output")
    parser.add_argument("--check")
    asked = parser.parse_args()
    if asked.check:
        with open(asked.check, newline="") as file:
            report(list(csv.DictReader(file)))
        return
    bundle, study = asked.paths
    here = str(Path(sys.executable).with_name("tier-infer"))
    commands = {
        "tier-infer": [here, study, "--json", "--bundle", bundle],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    if asked.peer:
        commands["torchxrayvision"] = [asked.peer, "-c", PEER, study]
    scores = json.loads(subprocess.run(commands["tier-infer"], capture_output=True).stdout)
    assert scores["studies"][0]["images"][0]["status"] == "scored", scores
    rows: list[dict[str, str]] = []
    for turn in range(asked.rounds + 1):
        for name, command in commands.items():
            figures = measure(command)
            if turn:  # the first turn warms the file cache
                rows.append(dict(zip(FIELDS, (name, str(turn), *figures), strict=True)))
    if asked.output:
        with open(asked.output, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
    report(rows)


def measure(command: list[str]) -> tuple[str, str, str]:
    """Wall seconds, CPU seconds and peak MB of a command with its children."""
    peak, done = [0], threading.Event()
    with tempfile.TemporaryFile() as sink:
        start, before = time.perf_counter(), os.times()
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, done))
        watcher.start()
        code = process.wait()
        wall, after = time.perf_counter() - start, os.times()
        done.set()
        watcher.join()
        sink.seek(0)
        assert code == 0, sink.read().decode()[-500:]
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return f"{wall:.4f}", f"{cpu:.2f}", f"{peak[0] / 1024:.0f}"


def _watch(pid: int, peak: list[int], done: threading.Event) -> None:
    """Sum of the proportional set sizes (Pss, kB) of a process and its children, every 5 ms."""
    while not done.wait(0.005):
        total = 0
        for one in [pid, *_children(pid)]:
            try:
                lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        peak[0] = max(peak[0], total)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in path.read_text().split()]
        except OSError:
            continue
    return found


def report(rows: list[dict[str, str]]) -> None:
    names = list(dict.fromkeys(row["command"] for row in rows))
    rounds = len({row["round"] for row in rows})
    print(f"{rounds} rounds, medians (ratio to tier-infer)")
    print(f"{'':<18}{'wall s':>16}{'CPU s':>16}{'peak MB':>16}")
    base: dict[str, float] = {}
    for name in names:
        cells = []
        for field in FIELDS[2:]:
            median = statistics.median(float(r[field]) for r in rows if r["command"] == name)
            base.setdefault(field, median)
            digits = 0 if field == "peak_mb" else 2
            cells.append(f"{median:.{digits}f} ({median / base[field]:.1f})")
        print(f"{name:<18}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
