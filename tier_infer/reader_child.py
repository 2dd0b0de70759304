"""The child that opens, parses and decodes files. Started by `reader`, never imported by it.

Limits are set before the first file is opened: memory, CPU time per file, no core dump, no writing
of files. What decoders print to stderr is a sign of damage (reliability: hazard 33) and is read
back, not shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tier_infer import archive, wire
from tier_infer.errors import FailedImage, RefusedImage
from tier_infer.images import MAX_FILE_BYTES, load_bytes, load_image, suffix_of
from tier_infer.inputs import split_member
from tier_infer.radiograph import Radiograph

CPU_MARGIN = 2.0  # seconds more than the wall limit before the kernel steps in


def main() -> None:
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not forge an answer
    printed = _catch_stderr()
    set_cpu_limit = limit_resources(int(sys.argv[1]))
    _write(answers, wire.request(ready=True))
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        set_cpu_limit(float(asked["seconds"]))
        for part in wire.answer(_result(asked, printed)):
            _write(answers, part)


def _result(asked: dict[str, Any], printed: int) -> Radiograph | RefusedImage | list[str]:
    _drain(printed)  # what listing or a failure before has left
    try:
        if "members_of" in asked:
            return archive.list_members(Path(asked["members_of"]))
        image = read_any(asked["path"], asked["intensity"], asked["display"], asked["high_byte"])
    except RefusedImage as refusal:
        return refusal
    except MemoryError:
        return FailedImage("too_large", "reading the file needs more memory than is allowed")
    except Exception as error:
        words = f"a bug of ours on this file ({type(error).__name__}); please report it"
        return FailedImage("bug", words)
    if _drain(printed):
        return FailedImage("decode", "the decoder complained about the pixels")
    return image


def read_any(path: str, intensity: str, display: bool, high_byte: bool) -> Radiograph:
    """A file, or a member of an archive written study.zip/inner/a.dcm."""
    outer, member = split_member(path)
    if member:
        data = archive.read_member(Path(outer), member, MAX_FILE_BYTES)
        return load_bytes(data, suffix_of(Path(member).name), intensity, display, high_byte)
    if path.lower().endswith(".zip") and os.path.isfile(path):
        archive.list_members(Path(path))
        raise FailedImage("archive", "the archive holds no files, or hidden ones only")
    return load_image(Path(path), intensity, display, high_byte)


def limit_resources(memory_bytes: int) -> Callable[[float], None]:
    """Sets what the kernel enforces; returns how to set the CPU time of the next file."""
    try:
        import resource
    except ImportError:  # Windows has none of this; `tier-infer doctor` says so
        return lambda seconds: None
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the file
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    def cpu_limit(seconds: float) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + seconds + CPU_MARGIN) + 1
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))

    return cpu_limit


def _catch_stderr() -> int:
    """fd 2 becomes a pipe that is never full: returns its reading end, or -1 where pipes block."""
    if not hasattr(os, "set_blocking"):  # Windows before Python 3.12
        return -1
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    os.dup2(writing, 2)
    return reading


def _drain(reading: int) -> bool:
    """True when something had been printed."""
    printed = False
    if reading < 0:
        return printed
    with contextlib.suppress(BlockingIOError):
        while os.read(reading, 2**16):
            printed = True
    return printed


def _write(out: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


if __name__ == "__main__":
    main()
