"""What a build says of itself: a line per tenth, of minutes in which nothing else is heard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tier_infer.trt.library import Library

STEP = 10  # %


class Phases:
    """Nested phases of a known number of steps → how much is done.

    TensorRT does the phases of one level one after another, and each within a step of its parent.
    """

    def __init__(self) -> None:
        self.open: dict[str, tuple[str | None, int, int]] = {}  # name → parent, steps, steps done
        self.done = False

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.open[name] = (parent, max(1, steps), 0)

    def step(self, name: str, done: int) -> None:
        if name in self.open:
            parent, steps, _ = self.open[name]
            self.open[name] = (parent, steps, min(steps, done + 1))

    def finish(self, name: str) -> None:
        self.done = self.open.pop(name, ("", 0, 0))[0] is None

    def share(self, name: str | None = None) -> float:
        """Of the phase, 0 to 1; None: of the whole."""
        if self.done:
            return 1.0
        inner = max((self.share(n) for n, row in self.open.items() if row[0] == name), default=0.0)
        if name is None:
            return inner
        _, steps, done = self.open[name]
        return min(1.0, (done + inner) / steps)


def monitor(library: Library, say: Callable[[str], None]) -> Any:
    """An IProgressMonitor that says "engine: building 40 %".

    An exception that leaves a callback ends the process. So it is kept in `interrupted`, and the
    build is cancelled at its next step.
    """
    base: Any = library.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.phases = Phases()
            self.next = 0
            self.interrupted: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.guarded(lambda: self.phases.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.guarded(lambda: self.phases.step(phase_name, step))
            return self.interrupted is None

        def phase_finish(self, phase_name: str) -> None:
            self.guarded(lambda: self.phases.finish(phase_name))

        def guarded(self, change: Callable[[], None]) -> None:
            try:
                change()
                done = 100 * self.phases.share()
                if done >= self.next and self.interrupted is None:
                    self.next = int(done) // STEP * STEP + STEP
                    say(f"engine: building {self.next - STEP} %")
            except BaseException as error:
                self.interrupted = self.interrupted or error

    return Monitor()
