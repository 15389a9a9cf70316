"""Network trained on signals simulated from the recipe's prior; each answer refined on its data."""

from __future__ import annotations

from dataclasses import replace

from cestprep.inference import fitting
from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate
from cestprep.inference.fitting import Options
from cestprep.inference.network import Network
from cestprep.inference.problem import InverseProblem, Observation

TITLE = "network trained on simulated signals, refined on each voxel's data"
INTERVAL = "central interval of a Gaussian in unconstrained (logit) space"


def learn(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
) -> Network | None:
    """Train on the prior, as known for these voxels; None where none carries signal."""
    prior_only = replace(options or Options(), evidence_steps=0)
    return fitting.learn(problem, observation, seed, progress, prior_only)


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    learned: Network | None = None,
    options: Options | None = None,
) -> Estimate:
    """Answer for every voxel, by a network `learn` made or a new one."""
    learned = learned or learn(problem, observation, seed, progress, options)
    return fitting.estimate(problem, observation, seed, progress, learned, options)
