"""Network trained on signals simulated from the recipe's prior."""

from __future__ import annotations

from dataclasses import dataclass

from cestprep.inference import fitting
from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate
from cestprep.inference.methods.psvae import adapted, meaning
from cestprep.inference.methods.psvae import estimate as answer
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.training import Store, Trained

TITLE = "network trained on simulated signals"
NEEDS_NOISE = True
__all__ = ["NEEDS_NOISE", "TITLE", "Options", "adapted", "estimate", "learn", "meaning"]


@dataclass(frozen=True)
class Options(fitting.Options):
    """The same, without the subject's own voxels unless ``own_steps`` asks to mix them in."""

    own_steps: int = 0


def learn(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
    store: Store | None = None,
) -> Trained | None:
    """Train on the prior, as known for these voxels; None where none carries signal."""
    return fitting.learn(problem, observation, options or Options(), seed, progress, store)


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
    learned: Trained | None = None,
) -> Estimate:
    """Answer for every voxel, by what `learn` made."""
    return answer(problem, observation, seed, progress, options or Options(), learned)
