"""Physics-structured variational autoencoder: a network's Gaussian posterior, decoded by physics.

Source: arXiv 2602.03317.  Here the evidence bound has each voxel's own noise level, errors of known
parameters enter the likelihood, parameters are unconstrained, and the network starts from the
posterior of simulated voxels.
"""

from __future__ import annotations

from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate
from cestprep.inference.fitting import Options, answer, learn_prior, learn_subject
from cestprep.inference.measured import Measured
from cestprep.inference.network import Network
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import voxels_of

TITLE = "physics-structured variational autoencoder, refined on each voxel's data"
INTERVAL = "central interval of a Gaussian in unconstrained (logit) space"


def learn(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
) -> Network | None:
    """Train on the prior, then on these voxels; None where none carries signal."""
    options = options or Options()
    measured = Measured.of(problem, observation)
    if not measured.count:
        return None
    voxels = voxels_of(measured)
    trained = learn_prior(problem, voxels, options, seed, progress)
    trained = learn_subject(problem, voxels, trained, options, seed)
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
