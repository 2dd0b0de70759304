"""python benchmarks/export.py CKPT.pt [--kills 20] [-- OPTIONS OF tier-export]

Seconds and peak memory of `tier-export --fp16 CKPT.pt`, stage by stage; then the same command over
an existing bundle, killed (kill -9) at random moments: after each kill the folder is an old bundle
that is whole, a new one that is whole, or not there, and the next export works and leaves nothing
else. Half of the kills fall into the time when files are written, which is short. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tier_infer.bundle import load_bundle

STAGES = ("building", "measuring", "calibrating")  # how the lines begin that tell of one
EXPORT = Path(sys.executable).parent / "tier-export"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("options", nargs="*", default=["--fp16"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        command = [str(EXPORT), *args.options, str(args.checkpoint.resolve())]
        whole = timed(command, Path(name))
        if args.kills:
            torment(command, Path(name), args.kills, whole)


def timed(command: list[str], folder: Path) -> float:
    """Prints a line per stage; the command's seconds."""
    process = start(command, folder, subprocess.PIPE)
    began = last = time.monotonic()
    stage = "start"
    print(f"{'stage':<36} {'seconds':>8} {'peak MB':>8}")
    assert process.stderr is not None
    for raw in itertools.chain(process.stderr, [b""]):
        line, now = raw.decode().strip(), time.monotonic()
        if line and not line.startswith(STAGES):
            print(f"  {line}")
            continue
        print(f"{stage:<36} {now - last:>8.1f} {high_water(process.pid):>8}", flush=True)
        stage, last = line, now
    process.wait()
    whole = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"whole: {whole:.1f} s, {cpu:.1f} CPU s, peak {used.ru_maxrss / 1024:.0f} MB")
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with exit {process.returncode}")
    for path in sorted((folder / "bundle").glob("*.onnx")):
        print(f"{path.name:<28} {path.stat().st_size / 1e6:7.2f} MB")
    return whole


def torment(command: list[str], folder: Path, kills: int, whole: float) -> None:
    """Exits 1 at the first bundle that is neither old nor new."""
    chance, target = random.Random(0), folder / "bundle"
    old = identity(target)
    print(f"{'kill':>4}  {'after':>8}  {'bundle':<7}  left over")
    for number in range(1, kills + 1):
        before = changed(folder / ".bundle.new")
        process, began = start(command, folder, subprocess.DEVNULL), time.monotonic()
        if number % 2:
            wait(process, chance.uniform(0, whole))
        else:  # while files are written
            while process.poll() is None and changed(folder / ".bundle.new") == before:
                time.sleep(0.001)
            wait(process, chance.uniform(0, 0.3))
        if process.poll() is not None:
            print(f"{number:>4}  ended before the kill, which does not count")
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = time.monotonic() - began
        left = sorted(path.name for path in folder.iterdir() if path.name != "bundle")
        state = "none"
        if target.exists():  # load_bundle reads every byte against its hash, or raises
            state = "old" if identity(target) == old else "new"
            old = identity(target)
        print(f"{number:>4}  {after:>6.1f} s  {state:<7}  {' '.join(left)}", flush=True)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    load_bundle(target)
    left = [path.name for path in folder.iterdir()]
    print(f"the next export: a whole bundle, beside it {left[1:] or 'nothing'}")
    if left != ["bundle"]:
        sys.exit(1)


def changed(folder: Path) -> int:
    """When, in nanoseconds; 0 where there is none. A kill may have left one."""
    try:
        return folder.stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def identity(target: Path) -> tuple[str, int]:
    """Equal exports have equal hashes: the folder's inode tells the old from the new."""
    return load_bundle(target).manifest.bundle_sha256, target.stat().st_ino


def start(command: list[str], folder: Path, stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=stderr)


def wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def high_water(pid: int) -> int:
    """Peak resident MB of a process so far; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(text.partition("VmHWM:")[2].split()[0]) // 1024 if "VmHWM:" in text else 0


if __name__ == "__main__":
    main()
