"""Voxelwise bounded least squares: multi-start Levenberg-Marquardt with Fisher covariance."""

from __future__ import annotations

import numpy as np

from cestprep.inference import least_squares
from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate, Validity
from cestprep.inference.measured import CUT_GAUSSIAN, Measured
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import fit_measured

TITLE = "voxelwise bounded least squares (multi-start Levenberg-Marquardt)"
INTERVAL = CUT_GAUSSIAN


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: least_squares.Options | None = None,
) -> Estimate:
    """Fit every voxel; the method is deterministic, so ``seed`` changes nothing.

    Returns
    -------
    Estimate
        Values at the best optimum and, as covariance, inverse Fisher information scaled by the
        residual variance with its degrees of freedom, plus the known parameters' covariance
        carried through the linearised fit.
    """
    del seed
    measured = Measured.of(problem, observation)
    if not measured.count:
        return measured.blank()
    fit = fit_measured(measured, options or least_squares.Options(), progress)
    return measured.finish(
        fit.theta,
        fit.covariance,
        fit.fitted,
        at_bound=fit.at_bound,
        codes={Validity.NOT_CONVERGED: ~np.asarray(fit.converged)},
    )
