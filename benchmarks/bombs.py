"""Files that cost more than they weigh, through the real reader: seconds, memory, answer.

    python benchmarks/bombs.py [--rounds 1] [--only TEXT] [-o bombs.csv]
    python benchmarks/bombs.py --check bombs.csv

Goals: each within 5 s (what the header declares within 1 s), child below its cap, no death of the
child, parent growth of at most 50 MiB over 1,000 bombs. Files are made once, on a RAM disk where
there is one (about 4 GiB), and read `--rounds` times.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fuzz import bombs_dicom, bombs_other
from benchmarks.fuzz_dicom import MEMBERS, RAM, UNEXPECTED, WatchedReader, kib
from tier_infer.errors import RefusedImage
from tier_infer.reader import MEMORY_BYTES

FIELDS = ("round", "bomb", "bytes", "outcome", "seconds", "child_kib", "parent_kib", "death")
FIELDS += ("words", "flags")
SECONDS, DECLARED_SECONDS, GROWTH_KIB = 5.0, 1.0, 50 * 1024


def read(rounds: int, only: str) -> Iterator[dict[str, Any]]:
    folder = RAM if os.access(RAM, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=folder) as name, WatchedReader("mimic-jpg") as reader:
        paths = _made(Path(name), only)
        for turn in range(rounds):
            for bomb, path in paths.items():
                reader.lost = None
                reader.peak_kib()
                start = time.perf_counter()
                outcome, words, flags = _answer(reader, path)
                yield {
                    "round": turn,
                    "bomb": bomb,
                    "bytes": path.stat().st_size,
                    "outcome": outcome,
                    "seconds": f"{time.perf_counter() - start:.3f}",
                    "child_kib": reader.peak_kib(),
                    "parent_kib": kib(Path("/proc/self"), "VmRSS") if RAM.exists() else 0,
                    "death": "" if reader.lost is None else reader.lost,
                    "words": words,
                    "flags": flags,
                }


def _made(folder: Path, only: str) -> dict[str, Path]:
    """Every bomb as a file. They are made in a process that ends: it needs a lot of memory."""
    makers = {name: (".dcm", maker) for name, maker in bombs_dicom.all_bombs().items()}
    makers |= bombs_other.all_bombs()
    for name, start in bombs_other.PREAMBLES.items():
        makers[f"preamble {name}"] = (".dcm", lambda s=start: bombs_other.polyglot(s))
    paths = {}
    for number, (name, (suffix, maker)) in enumerate(makers.items()):
        if only not in name:
            continue
        paths[name] = folder / f"{number}{suffix}"
        child = os.fork()
        if child == 0:
            paths[name].write_bytes(maker())
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError(f"{name} could not be made")
    return paths


def _answer(reader: WatchedReader, path: Path) -> tuple[str, str, str]:
    """Reason, sentence, flags; of an archive those of its first members."""
    try:
        names = [str(path)]
        if path.suffix == ".zip":
            names = [f"{path}/{m}" for m in reader.members(str(path))[:MEMBERS]] or names
        for name in names[:-1]:
            try:
                reader.read(name)
            except RefusedImage:
                continue
        image = reader.read(names[-1])
    except RefusedImage as refusal:
        return refusal.reason, str(refusal), ""
    return "scored", "", " ".join(image.flags)


def summary(rows: list[dict[str, str]]) -> str:
    worst: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["bomb"] not in worst or float(row["seconds"]) > float(worst[row["bomb"]]["seconds"]):
            worst[row["bomb"]] = row
    lines = []
    for name, row in worst.items():
        limit = DECLARED_SECONDS if name.startswith("declared") else SECONDS
        peak = max(int(r["child_kib"]) for r in rows if r["bomb"] == name)
        marks = ["SLOW"] * (float(row["seconds"]) > limit)
        marks += ["DIED"] * any(r["death"] for r in rows if r["bomb"] == name)
        marks += ["UNEXPECTED"] * bool(UNEXPECTED.search(row["words"]))
        lines.append(
            f"{name:<46} {int(row['bytes']) / 2**20:8.2f} MiB {float(row['seconds']):7.2f} s "
            f"{peak / 1024:6.0f} MiB  {row['outcome']:<15} {' '.join(marks)}"
        )
    parent = [int(row["parent_kib"]) for row in rows]
    first = parent[min(len(worst), len(parent)) - 1]
    deaths = sum(bool(row["death"]) for row in rows)
    lines.append(
        f"{len(worst)} bombs, {len(rows)} reads; slowest "
        f"{max(float(r['seconds']) for r in rows):.2f} s; largest child "
        f"{max(int(r['child_kib']) for r in rows) / 1024:.0f} of {MEMORY_BYTES // 2**20} MiB; "
        f"deaths {deaths}; parent grew {(max(parent) - parent[0]) / 1024:.1f} MiB, "
        f"{(max(parent) - first) / 1024:.1f} after the first round"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", metavar="TEXT", help="bombs whose name contains it")
    parser.add_argument("--check", type=Path, metavar="CSV")
    parser.add_argument("-o", "--output", type=Path, default=Path("bombs.csv"))
    asked = parser.parse_args()
    if asked.check is None:
        with asked.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(read(asked.rounds, asked.only))
    with (asked.check or asked.output).open(newline="") as file:
        print(summary(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()
