"""Reference posterior: exact signals on a grid refined until it resolves the density."""

from __future__ import annotations

from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate, Validity
from cestprep.inference.grid import explore_all
from cestprep.inference.measured import Measured
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import voxels_of

TITLE = "reference posterior on a refined grid (uniform prior, exact signals)"
INTERVAL = "central interval of the marginal posterior"


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
) -> Estimate:
    """Posterior mean, covariance and intervals of every voxel; deterministic."""
    del seed
    measured = Measured.of(problem, observation)
    if not measured.count:
        return measured.blank()
    found = explore_all(problem, voxels_of(measured), progress)
    return measured.finish(
        found.summary.mean,
        found.summary.covariance,
        found.fitted,
        at_bound=found.summary.at_bound,
        interval=(found.summary.lower, found.summary.upper),
        codes={Validity.NOT_CONVERGED: found.thin},
    )
