"""Least-squares fits of measured voxels, and the noise their residuals leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cestprep.inference import least_squares, likelihood, linalg
from cestprep.inference.chunks import Progress, over_chunks, replaced, voxels_per_chunk
from cestprep.inference.estimate import USABLE, Estimate, Validity
from cestprep.inference.likelihood import Departure, Voxels
from cestprep.inference.measured import Measured
from cestprep.inference.problem import InverseProblem, Observation

_VOXELS_FOR_NOISE = 512


def fit_measured(
    measured: Measured,
    options: least_squares.Options,
    progress: Progress | None = None,
    start: np.ndarray | None = None,
) -> least_squares.Fit:
    """Least-squares fit of all voxels that carry signal, from ``start`` ``(p, F)`` if given."""
    problem = measured.problem
    size = voxels_per_chunk(problem, options.chunk_memory_mb, measured.data.dtype)
    given = least_squares.Given(
        measured.data,  # type: ignore[arg-type]  # NumPy arrays become JAX's in each chunk
        measured.known,  # type: ignore[arg-type]
        measured.known_covariance,  # type: ignore[arg-type]
        measured.noise if measured.thermal else None,  # type: ignore[arg-type]
        start,  # type: ignore[arg-type]
    )
    arrays, whole = jax.tree_util.tree_flatten(given)
    fit: least_squares.Fit = over_chunks(
        lambda *chunk: least_squares.fit_chunk(
            problem, options, jax.tree_util.tree_unflatten(whole, chunk)
        ),
        arrays,
        size,
        progress,
    )
    return fit


def fitted_again(
    measured: Measured, fit: least_squares.Fit, poor: np.ndarray, start: np.ndarray | None = None
) -> least_squares.Fit:
    """The fit, with some voxels (indices) fitted again and replaced where that is better."""
    if not poor.size:
        return fit
    other = fit_measured(measured.take(poor), least_squares.Options(), None, start)
    better = np.asarray(other.residual_norm) < np.asarray(fit.residual_norm)[poor]
    chosen: least_squares.Fit = replaced(
        fit, poor[better], jax.tree.map(lambda x: np.asarray(x)[..., better], other)
    )
    return chosen


def estimate_of(
    measured: Measured, fit: least_squares.Fit, codes: Mapping[Validity, Any] | None = None
) -> Estimate:
    """Estimate of a least-squares fit; without codes, voxels that did not converge are marked."""
    if codes is None:
        codes = {Validity.NOT_CONVERGED: ~np.asarray(fit.converged)}
    return measured.finish(
        fit.theta,
        fit.covariance,
        fit.fitted,
        at_bound=fit.at_bound,
        departure=departures(measured, fit.theta),
        codes=codes,
    )


_departure = jax.jit(likelihood.departure, static_argnums=0)


def with_noise(problem: InverseProblem, observation: Observation) -> Observation:
    """The observation, with the noise that residuals of fits leave where none is known.

    Thermal noise is alike everywhere, so the median over up to 512 voxels, with n - p degrees of
    freedom, stands for all; misfit counts as noise here, which is why it is the last resort.
    """
    if observation.noise_sd is not None:
        return observation
    measured = Measured.of(problem, observation)
    if not measured.count:
        return observation
    count = min(_VOXELS_FOR_NOISE, measured.count)
    sample = measured.take(np.linspace(0, measured.count - 1, count).round().astype(int))
    fit = fit_measured(sample, least_squares.Options())
    dof = least_squares.degrees_of_freedom(problem)
    sd = np.asarray(fit.residual_norm) / np.sqrt(dof) * sample.scale
    good = np.asarray(fit.converged)
    pooled = float(np.median(sd[good] if good.any() else sd))
    return replace(observation, noise_sd=np.full(observation.data.shape[1], pooled))


def residual_sd(problem: InverseProblem, estimate: Estimate, data: np.ndarray) -> float | None:
    """SD of residuals with n - p degrees of freedom, median over voxels with a fit; else None.

    Parameters
    ----------
    problem : InverseProblem
    estimate : Estimate
    data : ndarray, shape (n, V)
        What was fitted; the result is in its units.
    """
    fitted = np.isin(estimate.validity, (*USABLE, Validity.MISFIT))
    if not fitted.any():
        return None
    away = np.linalg.norm((estimate.fitted - data)[:, fitted], axis=0)
    return float(np.median(away) / np.sqrt(least_squares.degrees_of_freedom(problem)))


def voxels_of(measured: Measured) -> Voxels:
    """Voxels as the posterior methods see them.

    Raises
    ------
    ValueError
        If the noise is not known (`with_noise`).
    """
    if measured.noise is None:
        raise ValueError("a posterior needs the noise level")
    covariance = measured.known_covariance
    if not covariance.any():
        factor = np.zeros((len(covariance), 0, measured.count), covariance.dtype)
    else:
        factor = np.asarray(jax.jit(linalg.cholesky)(jnp.asarray(covariance)))
    arrays: list[Any] = [measured.data, measured.known, factor, measured.noise]
    return Voxels(*arrays)


def departures(measured: Measured, theta: Any) -> Departure | None:
    """Departure of the data from the signal of ``theta`` ``(p, F)`` in units of the noise.

    None where the noise is not thermal: a distance in units of the residual says nothing.
    """
    if not measured.thermal:
        return None
    problem, voxels = measured.problem, voxels_of(measured)
    size = voxels_per_chunk(problem, None, measured.data.dtype)
    found: Departure = over_chunks(
        lambda theta, *chunk: _departure(problem, theta, Voxels(*chunk)),
        [np.asarray(theta), *voxels],
        size,
    )
    return found
