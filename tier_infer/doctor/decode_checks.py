"""What reads the inputs, tried out: one decoder per transfer syntax, and the child they run in."""

from __future__ import annotations

import io
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tier_infer.doctor.installation import EXTRA, Check, guarded
from tier_infer.doctor.probes import EXPLICIT, dicom_file, film, picture, probe_file
from tier_infer.errors import FailedImage, RefusedImage, UsageError
from tier_infer.reader import Reader

CAP = 2**28  # bytes; small, so that the attempt is harmless where the cap does not hold
BEYOND_THE_CAP = """
import sys
sys.path[:] = {path!r}
from tier_infer.reader_child import limit_resources
limit_resources({bytes})
try:
    bytearray({bytes})
except MemoryError:
    print("held")
else:
    print("not held")
"""


def decode_child() -> Iterator[Check]:
    """The process that parses inputs starts and reads a radiograph, and its memory cap holds."""
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, Reader("minmax") as reader:
            path = Path(folder) / "probe.dcm"
            path.write_bytes(dicom_file(film(), 12, EXPLICIT))
            reader.read(str(path))
    except RefusedImage as refusal:
        yield Check("decode child", "fail", f"it does not read a test picture: {refusal}", 3)
        return
    except UsageError:
        yield Check("decode child", "fail", f"it ends before it is ready ({_last_words()})", 2)
        return
    except OSError as error:
        words = error.strerror or type(error).__name__
        yield Check("decode child", "fail", f"it can't be started ({words})", 2)
        return
    took = time.monotonic() - begun
    yield Check("decode child", "ok", f"starts and reads a test picture in {took:.1f} s")
    yield _memory_cap()


def _last_words() -> str:
    """The exception that the child's imports end in, without the folders that its text may name."""
    done = _like_the_child("import sys; sys.path[:] = {path!r}; import tier_infer.reader_child")
    last = done.stderr.strip().rpartition("\n")[2]
    missing = re.fullmatch(r"ModuleNotFoundError: No module named '[\w.]+'", last)
    return last if missing else last.partition(":")[0] or f"its exit status is {done.returncode}"


def _like_the_child(code: str) -> subprocess.CompletedProcess[str]:
    path = [entry or os.getcwd() for entry in sys.path]
    command = [sys.executable, "-I", "-c", code.format(path=path, bytes=CAP)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _memory_cap() -> Check:
    """A process under the child's own limits asks for more than they allow."""
    done = _like_the_child(BEYOND_THE_CAP)
    if done.stdout.strip() == "held":
        return Check("memory cap", "ok", "more than the cap is refused to the decode child")
    if done.stdout.strip() != "not held":
        return Check("memory cap", "fail", "it can't be tried out: the process ended early", 3)
    if platform.system() == "Linux":
        return Check("memory cap", "fail", "this kernel does not enforce RLIMIT_DATA", 3)
    return Check("memory cap", "warn", f"not enforced on {platform.system()}")


def decoders() -> Iterator[Check]:
    """Each transfer syntax decodes a picture that is known, or says why not."""
    from tier_infer.dicom.syntaxes import SYNTAXES

    for uid, syntax in SYNTAXES.items():
        yield from guarded(syntax.name, partial(_decoder, uid, syntax.name))


def _decoder(uid: str, name: str) -> Iterator[Check]:
    import pydicom

    from tier_infer.dicom.pixel_data import stored_pixels

    probe = probe_file(uid)
    if probe is None:
        yield Check(name, "warn", f"there is no test picture for {uid}, so nothing is proven")
        return
    data, bits, allowed = probe
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored, _ = stored_pixels(pydicom.dcmread(io.BytesIO(data)))
    except FailedImage as refusal:
        if refusal.reason == "decoder_missing":
            yield Check(name, "warn", f"{uid} can't be read: {EXTRA}")
        else:
            yield Check(name, "fail", f"{uid}: the test picture is refused: {refusal}", 2)
        return
    worst = int(np.abs(stored.astype(np.int32) - picture(bits)).max())
    if worst > allowed:
        yield Check(name, "fail", f"{uid}: the test picture comes out wrong by {worst} levels", 2)
    else:
        exact = "exact" if not allowed else f"within {worst} of {2**bits} levels"
        yield Check(name, "ok", f"{uid} decodes, {exact}")
