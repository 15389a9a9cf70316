"""Least-squares fits of measured voxels, and the noise their residuals leave."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cestprep.inference import least_squares, linalg
from cestprep.inference.chunks import Progress, over_chunks, voxels_per_chunk
from cestprep.inference.likelihood import Voxels
from cestprep.inference.measured import Measured

_VOXELS_FOR_NOISE = 512


def fit_measured(
    measured: Measured, options: least_squares.Options, progress: Progress | None = None
) -> least_squares.Fit:
    """Least-squares fit of all voxels that carry signal."""
    problem = measured.problem
    size = voxels_per_chunk(problem, options.chunk_memory_mb, measured.data.dtype)
    fit: least_squares.Fit = over_chunks(
        lambda *chunk: least_squares.fit_chunk(problem, options, *chunk),
        [measured.data, measured.known, measured.known_covariance],
        min(size, -(-measured.count // 16) * 16),
        progress,
    )
    return fit


def residual_noise(measured: Measured) -> np.ndarray:
    """SD of one volume over each voxel's scale, shape (F,), from the residuals of fits.

    Thermal noise is alike everywhere, so the median over up to 512 voxels, with n - p degrees of
    freedom, stands for all; misfit counts as noise here, which is why it is the last resort.
    """
    count = min(_VOXELS_FOR_NOISE, measured.count)
    sample = measured.take(np.linspace(0, measured.count - 1, count).round().astype(int))
    fit = fit_measured(sample, least_squares.Options())
    dof = least_squares.degrees_of_freedom(measured.problem)
    sd = np.asarray(fit.residual_norm) / np.sqrt(dof) * sample.scale
    good = np.asarray(fit.converged)
    pooled = float(np.median(sd[good] if good.any() else sd))
    return (pooled / measured.scale).astype(measured.data.dtype)


def voxels_of(measured: Measured) -> Voxels:
    """Voxels as the posterior methods see them."""
    noise = residual_noise(measured) if measured.noise is None else measured.noise
    factor = jax.jit(linalg.cholesky)(jnp.asarray(measured.known_covariance))
    arrays: list[Any] = [measured.data, measured.known, np.asarray(factor), noise]
    return Voxels(*arrays)
