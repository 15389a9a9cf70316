"""Voxelwise bounded least squares: multi-start Levenberg-Marquardt with Fisher covariance."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate, Meaning
from cestprep.inference.least_squares import Options
from cestprep.inference.measured import LEAST_SQUARES, Measured
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import departures, estimate_of, fit_measured

__all__ = ["NEEDS_NOISE", "TITLE", "Options", "estimate", "meaning"]

TITLE = "voxelwise bounded least squares (multi-start Levenberg-Marquardt)"
NEEDS_NOISE = False


def meaning(options: Options) -> Meaning:
    """What means and intervals are."""
    del options
    return LEAST_SQUARES


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
) -> Estimate:
    """Fit every voxel; the method is deterministic, so ``seed`` changes nothing.

    Returns
    -------
    Estimate
        Values at the best optimum and, as covariance, inverse Fisher information scaled by the
        variance of the noise or, where that is not known independently, of the residual with
        its degrees of freedom; plus the known parameters' covariance
        carried through the linearised fit.
    """
    del seed
    measured = Measured.of(problem, observation)
    if not measured.count:
        return measured.blank()
    first, nothing = (
        measured.take(np.arange(1)),
        np.zeros((len(problem.free), 1), measured.data.dtype),
    )
    with ThreadPoolExecutor(1) as beside:  # what judges the fit is compiled meanwhile
        ready = beside.submit(departures, first, nothing)
        fit = fit_measured(measured, options or Options(), progress)
    ready.result()
    return estimate_of(measured, fit)
