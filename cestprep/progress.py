"""Progress of long steps, as plain lines that read well in a log file and a terminal."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field


@dataclass
class ProgressLine:
    """Says every few seconds how far a step is and how long it will take.

    Attributes
    ----------
    what : str
        Name of the step.
    unit : str
        What is counted.
    every_s : float
        Least time between two lines, in s.
    """

    what: str
    unit: str = "voxels"
    every_s: float = 10.0
    _started: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)
    _first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` are finished."""
        now = time.monotonic()
        if done >= total:
            self._say(done, total, f"took {now - self._started:.0f} s")
        elif done == 0:
            self._say(done, total, "compiling")
        elif self._first is None:  # compilation belongs to the first part only
            self._first = now, done
        elif now - self._last >= self.every_s:
            self._last = now
            started, before = self._first
            left = (now - started) / (done - before) * (total - done)
            self._say(done, total, f"about {left:.0f} s left")

    def phase(self, what: str, unit: str) -> ProgressLine:
        """Line of a part of the step, named after both."""
        return ProgressLine(f"{self.what}, {what}", unit, self.every_s)

    def _say(self, done: int, total: int, tail: str) -> None:
        print(f"{self.what}: {done}/{total} {self.unit}, {tail}", file=sys.stderr, flush=True)
