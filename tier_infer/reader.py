"""The parent's side of reading: a kept-alive child opens, parses and decodes, under hard limits.

No byte of an input is parsed in the process that holds the model. A child that dies, hangs or
outgrows its memory costs one image and is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from tier_infer import wire
from tier_infer.errors import FailedImage, RefusedImage, UsageError

MEMORY_BYTES = 2**30
RESTING_BYTES = 128 * 2**20  # with libraries loaded and no file at hand it has about 80 MiB
SECONDS = 20.0
START_SECONDS = 60.0  # for the child to import its libraries, on a loaded machine
CHUNK = 2**20
if TYPE_CHECKING:
    from tier_infer.radiograph import Radiograph

T = TypeVar("T")
CHILD = "import sys; sys.path[:] = {path!r}; from tier_infer.reader_child import main; main()"


class Reader:
    """Reads files one after another in a child process. A context manager.

    The child is started at once and not waited for: it imports while the caller loads the model,
    whose bundle then says which `intensity` preset files go through, and whether of 16-bit pictures
    the `high_byte` counts.
    """

    def __init__(
        self, intensity: str = "", *, memory_bytes: int = MEMORY_BYTES, seconds: float = SECONDS
    ) -> None:
        self.intensity, self._memory, self._seconds = intensity, memory_bytes, seconds
        self.high_byte = False
        self._child: subprocess.Popen[bytes] | None = None
        self._ready = self._ever_ready = False
        self.deaths = 0
        self._start()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, path: str, display: bool = False) -> Radiograph:
        """Raises NotEvaluated or FailedImage like `images.load_image`, also for a lost child."""
        return self._ask(wire.radiograph, path=path, display=display, high_byte=self.high_byte)

    def members(self, path: str) -> list[str]:
        """The files in an archive. Raises FailedImage when it is refused."""
        return self._ask(wire.members, members_of=path)

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()

    def _start(self) -> None:
        self.close()
        path = [entry or os.getcwd() for entry in sys.path]
        options = ["-I", "-B", "-X", f"utf8={sys.flags.utf8_mode}"]  # paths must mean the same
        self._child = subprocess.Popen(
            [sys.executable, *options, "-c", CHILD.format(path=path), str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print what they like, names among it
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._ready = False

    def _ask(self, parse: Callable[[dict[str, Any], bytearray], T], **fields: Any) -> T:
        """`parse` turns the answer into a result or a refusal; any other exception of it means
        that the child said nonsense, and costs the child."""
        child = self._greeted()
        assert child.stdin is not None
        try:
            message = wire.request(intensity=self.intensity, seconds=self._seconds, **fields)
            child.stdin.write(message)
            child.stdin.flush()
            answer = _answer(child, time.monotonic() + self._seconds)
            self._rest(child)
            return parse(*answer)
        except RefusedImage:
            raise
        except TimeoutError:
            self._lose()
            words = f"reading the file took longer than {self._seconds:g} s"
            raise FailedImage("time_limit", words) from None
        except Exception:  # whatever bytes came instead of an answer
            self._lose()
            words = "the process that decodes died on this file"
            raise FailedImage("decode", words) from None
        except BaseException:  # interrupted: an answer may be on its way
            self.close()
            raise

    def _greeted(self) -> subprocess.Popen[bytes]:
        """A child that is ready. Starting one may fail for reasons that are no fault of a file: it
        is tried twice; a run that has read files goes on with the next one."""
        for _ in range(2):
            try:
                if self._child is None or self._child.poll() is not None:
                    self._start()
                child = self._child
                assert child is not None
                if not self._ready:
                    _answer(child, time.monotonic() + START_SECONDS)
                    self._ready = self._ever_ready = True
                return child
            except (OSError, EOFError, ValueError, TimeoutError):
                self.close()
        words = "the process that reads files can't start; `tier-infer doctor` looks for the cause"
        raise FailedImage("decode", words) if self._ever_ready else UsageError(words)

    def _rest(self, child: subprocess.Popen[bytes]) -> None:
        """What a decoder keeps after failing (OpenJPEG: a quarter GiB) would be missing for the
        next file, so its answer would depend on the files before: a new child instead."""
        with contextlib.suppress(OSError):  # no /proc
            pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
            if pages * os.sysconf("SC_PAGE_SIZE") > max(self._memory // 4, RESTING_BYTES):
                self._start()

    def _lose(self) -> None:
        self.deaths += 1
        self.close()


def _answer(child: subprocess.Popen[bytes], deadline: float) -> tuple[dict[str, Any], bytearray]:
    """One line and its pixels, or TimeoutError, EOFError, ValueError."""
    assert child.stdout is not None
    out = child.stdout.fileno()
    received = bytearray()
    while b"\n" not in received:
        if len(received) > wire.MAX_LINE:
            raise ValueError("line")
        received += _piece(out, deadline)
    head, _, rest = received.partition(b"\n")
    line = json.loads(head)
    if not isinstance(line, dict):
        raise ValueError("line")
    pixels, size = rest, wire.pixels_announced(line)
    while len(pixels) < size:
        pixels += _piece(out, deadline)
    if len(pixels) != size:
        raise ValueError("pixels")
    return line, pixels


def _piece(out: int, deadline: float) -> bytes:
    if os.name == "posix":  # elsewhere pipes can't be waited for; there the time is not limited
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([out], [], [], left)[0]:
            raise TimeoutError
    piece = os.read(out, CHUNK)
    if not piece:
        raise EOFError
    return piece
