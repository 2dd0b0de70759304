"""python benchmarks/evaluate_padchest.py BUNDLE [ROWS] -- an evaluation of PadChest's size.

Draws ROWS (40,000) 16-bit PNG files and a label table in PadChest's layout, some files missing,
some cut, then runs `tier-infer evaluate BUNDLE --dataset padchest:ROOT` in peace; then again,
killed with -9 three times on its way. Prints throughput, the largest memory of the process and of
its reader at a tenth and at the end, and whether both runs left the same bytes.
"""

from __future__ import annotations

import csv
import filecmp
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
from PIL import Image

INFER = Path(sys.executable).parent / "tier-infer"
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "MethodLabel", "Labels")
FINDINGS = ("cardiomegaly", "pleural effusion", "atelectasis", "normal", "consolidation", "nodule")
FILES = ("scores.csv", "report.json", "report.csv", "report.md")


def main(bundle: str, rows: int = 40_000) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw(root, rows)
        command = [INFER, "evaluate", bundle, "--dataset", f"padchest:{root}", "--draws", "200"]
        whole, torn = root / "whole", root / "torn"
        seconds = watched([*command, "-o", whole], rows, whole)
        print(f"uninterrupted: {seconds:.0f} s, {rows / seconds:.1f} images per second")
        chance = random.Random(0)
        for kill in range(3):
            after = seconds * chance.uniform(0.15, 0.3)
            process = subprocess.Popen([*command, "-o", torn], stdout=DEVNULL, stderr=DEVNULL)
            time.sleep(after)
            process.kill()
            process.wait()
            print(f"kill {kill + 1} after {after:.0f} s: {lines(torn)} rows")
        done = subprocess.run([*command, "-o", torn], stdout=DEVNULL, stderr=DEVNULL, check=False)
        same = [filecmp.cmp(whole / f, torn / f, shallow=False) for f in FILES]
        print(
            f"resumed: exit {done.returncode}; "
            + ", ".join(
                f"{f} {'same bytes' if s else 'DIFFERS'}" for f, s in zip(FILES, same, strict=True)
            )
        )
        sys.exit(0 if all(same) else 1)


def draw(root: Path, rows: int) -> None:
    """Grey ramps with a blob each; every 500th file is missing, every 700th cut in half."""
    chance = np.random.default_rng(0)
    y, x = np.mgrid[0:160, 0:144] / 160
    with (root / TABLE).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("", *COLUMNS))
        for i in range(rows):
            a, b, c = chance.uniform(0.2, 0.7, 3)
            found = [f for f in FINDINGS if chance.random() < 0.15]
            table.writerow(
                (
                    i,
                    f"{i}.png",
                    i % 12,
                    f"s{i // 2}",
                    f"{10**20 + i // 3}",
                    "PA",
                    "Physician",
                    repr(found or ["unchanged"]),
                )
            )
            (root / str(i % 12)).mkdir(exist_ok=True)
            if i % 500 == 499:
                continue
            noise = chance.normal(0, 0.02, x.shape)
            picture = 0.3 + 0.5 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (0.05 + 0.1 * c)) + noise
            buffer = io.BytesIO()
            Image.fromarray((picture.clip(0, 1) * 65535).astype(np.uint16)).save(
                buffer, "PNG", compress_level=1
            )
            data = buffer.getvalue()
            cut = len(data) // 2 if i % 700 == 699 else len(data)
            (root / str(i % 12) / f"{i}.png").write_bytes(data[:cut])


def watched(command: list[object], rows: int, folder: Path) -> float:
    """Seconds; prints the peak memory of the process and of its children on the way."""
    start, early = time.monotonic(), False
    process = subprocess.Popen([str(c) for c in command], stdout=DEVNULL, stderr=DEVNULL)
    peaks = (0.0, 0.0)
    while process.poll() is None:
        time.sleep(1)
        found = memory(process.pid) or peaks  # of an ended process: zeros
        peaks = max(peaks[0], found[0]), max(peaks[1], found[1])
        if not early and lines(folder) > rows / 10:
            early = True
            print(f"at a tenth: process {peaks[0]:.0f} MiB, reader {peaks[1]:.0f} MiB")
    print(
        f"at the end: process {peaks[0]:.0f} MiB, reader {peaks[1]:.0f} MiB, "
        f"exit {process.returncode}"
    )
    return time.monotonic() - start


def memory(pid: int) -> tuple[float, float] | None:
    """Peak resident MiB of a process and the largest of its children; None once it has ended."""

    def peak(p: int) -> float:
        status = Path(f"/proc/{p}/status").read_text()
        found = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(found[0].split()[1]) / 1024 if found else 0.0

    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return peak(pid), max((peak(int(c)) for c in children), default=0.0)
    except (OSError, ValueError):
        return None


def lines(folder: Path) -> int:
    try:
        return (folder / "scores.csv").read_bytes().count(b"\n") - 1
    except OSError:
        return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main(sys.argv[1], *map(int, sys.argv[2:]))
