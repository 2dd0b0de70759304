"""What this machine offers: processor, memory, disk, and what stands between it and its GPU.

Read from the operating system alone. A question that the platform can't answer is None, not zero.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "f16c", "asimd", "asimddp")


def threads() -> tuple[int, int]:
    """Threads that this process may use, and those of the machine."""
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota = _read("/sys/fs/cgroup/cpu.max").split()  # of a container: microseconds per period
    if len(quota) == 2 and all(part.isdigit() for part in quota):
        usable = max(1, min(usable, int(quota[0]) // int(quota[1])))
    return usable, total


def cpu_flags() -> list[str]:
    """Instruction sets that speed the encoder up, as Linux names them; empty elsewhere."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    found = set(line.group(1).split()) if line else set()
    return [flag for flag in FLAGS if flag in found]


def memory() -> tuple[int | None, int | None]:
    """Bytes (available, total), the container's limit counted in; None where nothing tells."""
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE))
    total = int(rows["MemTotal"]) * 1024 if "MemTotal" in rows else _physical_memory()
    available = int(rows["MemAvailable"]) * 1024 if "MemAvailable" in rows else None
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if total is not None and limit.isdigit() and int(limit) < total:
        used = _read("/sys/fs/cgroup/memory.current").strip()
        total = int(limit)
        left = total - (int(used) if used.isdigit() else 0)
        available = left if available is None else min(available, left)
    return available, total


def free_disk() -> tuple[str, int, bool]:
    """Which folder temporary files go to (by name, not by path), bytes free, may it be written."""
    cache = os.environ.get("TIER_CACHE")
    name = "TIER_CACHE" if cache else "the temporary folder"
    place = Path(cache or tempfile.gettempdir())
    while not place.exists() and place != place.parent:  # it is made when it is needed
        place = place.parent
    return name, shutil.disk_usage(place).free, os.access(place, os.W_OK)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
