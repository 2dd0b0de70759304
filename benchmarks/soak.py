"""Thousands of reads in one reader: does memory or the number of open files grow?

    python benchmarks/soak.py [--reads 10000] [-o soak.csv]
    python benchmarks/soak.py --check soak.csv

Good files of every transfer syntax, a mutated one after every twelve. Sampled every 50 reads:
resident memory and open files of parent and child. The slope is that of a straight line through the
samples after the first tenth, in KiB per read (goal: below 1).
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fuzz.mutate import mutated
from benchmarks.fuzz.seeds import all_seeds
from benchmarks.fuzz_dicom import RAM, WatchedReader, kib
from tier_infer.errors import RefusedImage

FIELDS = ("read", "scored", "deaths", "parent_kib", "child_kib", "parent_files", "child_files")
EVERY, GOOD = 50, 12


def soak(reads: int) -> Iterator[dict[str, Any]]:
    seeds = [seed for seed in all_seeds() if seed.suffix != ".zip"]
    folder = RAM if os.access(RAM, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=folder) as name, WatchedReader("mimic-jpg") as reader:
        paths = []
        for number, seed in enumerate(seeds):
            paths.append(Path(name) / f"{number}{seed.suffix}")
            paths[-1].write_bytes(seed.data)
        scored = 0
        for read in range(1, reads + 1):
            path = paths[read % len(paths)]
            if read % (GOOD + 1) == 0:
                seed, data, _ = mutated(seeds, 1, read)
                path = Path(name) / f"mutated{seed.suffix}"
                path.write_bytes(data)
            try:
                reader.read(str(path), display=bool(read % 2))
                scored += 1
            except RefusedImage:
                pass
            if read % EVERY == 0:
                yield _sample(reader, read, scored)


def _sample(reader: WatchedReader, read: int, scored: int) -> dict[str, Any]:
    assert reader._child is not None
    parent, child = Path("/proc/self"), Path(f"/proc/{reader._child.pid}")
    return {
        "read": read,
        "scored": scored,
        "deaths": reader.deaths,
        "parent_kib": kib(parent, "VmRSS"),
        "child_kib": kib(child, "VmRSS"),
        "parent_files": len(list((parent / "fd").iterdir())),
        "child_files": len(list((child / "fd").iterdir())),
    }


def summary(rows: list[dict[str, str]]) -> str:
    table = {field: np.array([float(row[field]) for row in rows]) for field in FIELDS}
    late = slice(len(rows) // 10, None)
    slopes = {
        side: float(np.polyfit(table["read"][late], table[f"{side}_kib"][late], 1)[0])
        for side in ("parent", "child")
    }
    files = {side: sorted({int(n) for n in table[f"{side}_files"]}) for side in ("parent", "child")}
    last = rows[-1]
    lines = [f"{last['read']} reads, {last['scored']} scored, {last['deaths']} deaths of the child"]
    for side in ("parent", "child"):
        now = table[f"{side}_kib"][-1] / 1024
        lines.append(
            f"{side}: {slopes[side]:+.3f} KiB a read, now {now:.0f} MiB, open files {files[side]}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--check", type=Path, metavar="CSV")
    parser.add_argument("-o", "--output", type=Path, default=Path("soak.csv"))
    asked = parser.parse_args()
    if asked.check is None:
        with asked.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(soak(asked.reads))
    with (asked.check or asked.output).open(newline="") as file:
        print(summary(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()
