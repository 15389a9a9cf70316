"""Network trained on signals simulated from the recipe's prior; each answer refined on its data."""

from __future__ import annotations

from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate
from cestprep.inference.fitting import Options, answer, learn_prior
from cestprep.inference.measured import Measured
from cestprep.inference.network import Network
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import voxels_of

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
    options = options or Options()
    measured = Measured.of(problem, observation)
    if not measured.count:
        return None
    voxels = voxels_of(measured)
    trained = learn_prior(problem, voxels, options, seed, progress)
    return trained.network


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
    measured = Measured.of(problem, observation)
    if learned is None or not measured.count:
        return measured.blank()
    return answer(measured, voxels_of(measured), learned, options or Options())
