"""Posterior averaged over draws of what is known about a voxel: no linearisation in its errors."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cestprep.inference.chunks import predict_all
from cestprep.inference.estimate import Estimate
from cestprep.inference.interpolation import chebyshev_nodes, lagrange_matrix, mesh
from cestprep.inference.measured import Measured
from cestprep.inference.problem import InverseProblem, Observation

DRAWS = 500
#: The box around the reference in SD, nodes of the signal and cells of the density per axis.
_REACH, _NODES, _CELLS = 6.0, 12, 61


class Average(NamedTuple):
    """Moments ``(2, V)`` and ``(2, 2, V)`` in package units, and draws that carry the weight."""

    mean: np.ndarray
    covariance: np.ndarray
    effective: np.ndarray


def posterior(
    problem: InverseProblem, observation: Observation, around: Estimate, seed: int = 0
) -> Average:
    """Mean of the posterior densities, times their evidence, over draws of the known parameters.

    For each draw the exact signal is found at Chebyshev nodes in the logarithm of the two free
    parameters; between them it is a polynomial.
    """
    measured = Measured.of(problem, observation)
    noise = measured.noise
    assert noise is not None
    assert measured.count == around.mean.shape[1]
    rng = np.random.default_rng(seed)
    parts = []
    for v in range(measured.count):
        alone = np.array([v])
        voxel = measured.take(alone), around.take(alone), float(noise[v])
        parts.append(_one(problem, *voxel, rng))
    return Average(*(np.stack(x, axis=-1) for x in zip(*parts, strict=True)))


def _one(
    problem: InverseProblem,
    voxel: Measured,
    around: Estimate,
    noise: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, float]:
    mean = around.mean[:, 0]
    factor = np.linalg.cholesky(around.covariance[:, :, 0] / np.outer(mean, mean))
    nodes = mesh([_REACH * chebyshev_nodes(_NODES)] * 2)
    at_nodes = mean[:, None] * np.exp(factor @ nodes)
    known = rng.multivariate_normal(voxel.known[:, 0], voxel.known_covariance[:, :, 0], DRAWS).T
    theta = np.tile(at_nodes, (1, DRAWS)).astype(np.float32)
    signals = predict_all(problem, theta, np.repeat(known, nodes.shape[1], 1).astype(np.float32))
    residual = (signals - voxel.data[:, :1]).reshape(len(signals), DRAWS, -1)
    axis = _REACH * ((np.arange(_CELLS) + 0.5) * 2 / _CELLS - 1)
    weights = lagrange_matrix(_REACH * chebyshev_nodes(_NODES), axis)
    density, evidence = map(np.asarray, _density(weights, residual, noise))
    cells = mean[:, None] * np.exp(factor @ mesh([axis] * 2))
    low, high = problem.bounds.T[:, :, None]
    inside = ((cells > low) & (cells < high)).all(axis=0)
    mass = density * inside * cells.prod(axis=0)  # the element of volume in the parameters
    mass = mass / mass.sum()
    centre = cells @ mass
    away = cells - centre[:, None]
    return centre, (away * mass) @ away.T, float(evidence.sum() ** 2 / (evidence**2).sum())


@partial(jax.jit)
def _density(
    weights: np.ndarray, residual: np.ndarray, noise: float
) -> tuple[jax.Array, jax.Array]:
    """Sum of the likelihoods over draws in each cell, and of each draw over cells."""
    n, draws, _ = residual.shape
    w = jnp.asarray(weights, residual.dtype)
    square = residual.reshape(n, draws, _NODES, _NODES)
    distance2 = jnp.sum(jnp.einsum("ndab,xa,yb->ndxy", square, w, w) ** 2, axis=0)
    log = -0.5 * distance2.reshape(draws, -1) / noise**2
    likelihood = jnp.exp(log - jnp.max(log))
    return jnp.sum(likelihood, axis=0), jnp.sum(likelihood, axis=1)
