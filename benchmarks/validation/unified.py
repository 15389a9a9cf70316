"""All methods on one brain: time of each part, how well they fit, how much they smooth."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.validation import cases
from cestprep.inference import methods, solving

VOXELS = 194_000
#: The grid is timed and judged on some of them.
GRID_VOXELS = 2000


def study(stage: str = "mt", snr: float = 100.0) -> dict[str, Any]:
    """MT stage of 194 000 voxels of white and grey matter, exact maps; compilation counts.

    Smoothing is the spread of ``k_ssw`` within white matter over that of the direct fit: below 1 a
    method takes away noise that the data have, as a prior does.
    """
    problem = cases.problem(stage)
    truth = cases.brain(problem, VOXELS, seed=1)
    observation = cases.observe(
        problem, truth, cases.engine(problem, truth), snr, seed=2, propagate=False
    )
    rows: dict[str, Any] = {}
    spread = None
    for name in ("voxelwise", "dictionary", "supervised", "nbmf", "psvae", "grid"):
        method = methods.load(name)
        count = GRID_VOXELS if name == "grid" else VOXELS
        chosen, heard, learned = observation.take(np.arange(count)), Clock(), None
        if methods.trains(method):
            learned = solving.learn(method, problem, chosen, 0, heard)
        found = solving.estimate(method, problem, chosen, 0, heard, None, learned)
        seconds = heard.seconds()
        white = (truth.known[0, :count] < 1.1) & found.valid
        here = float(np.std(found.mean[1][white] - truth.theta[1, :count][white]))
        spread = here if spread is None else spread
        rows[name] = {
            "voxels": count,
            "generation, s": seconds.get("generation"),
            "matching, s": seconds.get("matching"),
            "training, s": seconds.get("training"),
            "inference, s": seconds.get("inference"),
            "all, s": sum(seconds.values()),
            "NRMSE, %": 100 * float(found.nrmse[found.valid].mean()),
            "smoothing": here / spread,
        }
    return rows


#: What a method says it does, and where that belongs in the table.
PARTS = {
    "simulated voxels": "generation",
    "dictionary": "generation",
    "matching": "matching",
    "training": "training",
    "training on its own voxels": "training",
}


class Clock:
    """Listener that adds up the seconds of each phase."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._part, self._since = "inference", time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        """Hear of progress, which says nothing about phases."""

    def phase(self, what: str, unit: str) -> Clock:
        """Another part has begun."""
        self._turn(PARTS.get(what, "inference"))
        return self

    def _turn(self, part: str) -> None:
        now = time.perf_counter()
        self.spent[self._part] = self.spent.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now

    def seconds(self) -> dict[str, float]:
        """Of each part of the table."""
        self._turn("inference")
        return {part: s for part, s in self.spent.items() if s > 0.05}
