"""Voxelwise bounded least squares: multi-start Levenberg-Marquardt with Fisher covariance."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from cestprep.inference import least_squares
from cestprep.inference.chunks import Progress, over_chunks, voxels_per_chunk
from cestprep.inference.estimate import Estimate, Validity, high_nrmse, solver_code
from cestprep.inference.problem import InverseProblem, Observation

TITLE = "voxelwise bounded least squares (multi-start Levenberg-Marquardt)"


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
    options = options or least_squares.Options()
    dtype = jnp.zeros(()).dtype
    fittable = np.all(np.isfinite(observation.data), axis=0) & (observation.data.max(axis=0) > 0)
    peak = np.where(fittable, observation.data.max(axis=0), 1).astype(float)
    data = np.where(fittable, observation.data / peak, 0).astype(dtype)  # any scale of the scanner
    scales = np.asarray(problem.scale(jnp.asarray(data)))
    fittable &= scales > 0
    blank = Estimate.blank(
        len(problem.free), data.shape[0], np.where(fittable, Validity.OK, Validity.NO_SIGNAL)
    )
    if not fittable.any():
        return blank
    scale = scales[fittable]
    normalised = data[:, fittable] / scale
    chosen = observation.take(fittable)
    size = voxels_per_chunk(problem, options.chunk_memory_mb, dtype)
    fit = over_chunks(
        lambda *chunk: least_squares.fit_chunk(problem, options, *chunk),
        [normalised, chosen.known.astype(dtype), chosen.known_covariance.astype(dtype)],
        min(size, -(-normalised.shape[1] // 16) * 16),
        progress,
    )
    found = _assemble(fit, normalised, scale * peak[fittable], solver_code(problem.solver))
    return blank.fill(fittable, found)


def _assemble(
    fit: least_squares.Fit, normalised: np.ndarray, scale: np.ndarray, solver: int
) -> Estimate:
    theta, covariance, fitted = (np.asarray(x) for x in (fit.theta, fit.covariance, fit.fitted))
    failed = ~(np.isfinite(theta).all(axis=0) & np.isfinite(covariance).all(axis=(0, 1)))
    theta, covariance, fitted = (np.where(failed, 0, x) for x in (theta, covariance, fitted))
    converged, at_bound = np.asarray(fit.converged) & ~failed, np.asarray(fit.at_bound)
    nrmse = _unit_norm_distance(fitted, normalised)
    spread = normalised - normalised.mean(axis=0)
    total = np.maximum(np.sum(spread**2, axis=0), np.finfo(normalised.dtype).tiny)
    r_squared = np.maximum(1 - np.sum((normalised - fitted) ** 2, axis=0) / total, -1)
    validity = np.full(nrmse.shape, Validity.OK, np.uint8)
    validity[at_bound] = Validity.AT_BOUND
    validity[high_nrmse(nrmse, converged) | (r_squared < 0)] = Validity.MISFIT
    validity[~converged] = Validity.NOT_CONVERGED
    return Estimate(
        mean=theta,
        covariance=covariance,
        fitted=fitted * scale,
        nrmse=nrmse,
        r_squared=r_squared,
        validity=validity,
        solver=np.full(nrmse.shape, solver, np.uint8),
    )


def _unit_norm_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.maximum(np.linalg.norm(x, axis=0), 1e-30) for x in (a, b))
    distance: np.ndarray = np.linalg.norm(a - b, axis=0)
    return distance
