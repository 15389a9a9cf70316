"""Gaussian likelihood of a voxel whose known parameters are uncertain themselves.

Errors of known parameters (T1, B0, an earlier stage's estimates) enter linearly: the residual has
covariance s^2 I + K K^T, where K holds the signal's derivatives in the known parameters times a
factor of their covariance.  K has few columns, so determinant and quadratic form need matrices of
that size only (Woodbury).  Where the scale of the signal is taken out, residuals are those of
scaled signals, and the noise is the measured one over the same scale.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import linalg
from cestprep.inference.problem import InverseProblem


class Voxels(NamedTuple):
    """Voxels as the posterior methods see them, voxels last; on the host as NumPy arrays.

    Attributes
    ----------
    data : Array, shape (n, V)
        Normalised by the problem.
    known : Array, shape (q, V)
    factor : Array, shape (q, r, V)
        Factor of the covariance of ``known``: lower triangular, or without columns (r = 0) where
        all of them count as exact.
    noise : Array, shape (V,)
        SD of one volume over the voxel's scale.
    """

    data: Array
    known: Array
    factor: Array
    noise: Array

    def take(self, chosen: np.ndarray) -> Voxels:
        """Some of the voxels, by index."""
        return Voxels(*(x[..., chosen] for x in self))


class Metric(NamedTuple):
    """Inverse of s^2 I + K K^T, as (I - W^T W) / s^2.

    Attributes
    ----------
    noise : Array, shape (...)
        s.
    along : Array, shape (r, n, ...)
        W: the directions of carried errors, shortened.
    log_determinant : Array, shape (...)
        Of I + K K^T / s^2.
    """

    noise: Array
    along: Array
    log_determinant: Array


def carried(problem: InverseProblem, theta: Array, voxels: Voxels) -> Array:
    """Signal changes K that one SD of each known parameter causes, shape (r, n, V)."""
    if not voxels.factor.shape[1]:
        return jnp.zeros((0, *voxels.data.shape), jnp.asarray(voxels.data).dtype)
    tangents = problem.known_tangents(theta, jnp.asarray(voxels.known))
    return jnp.einsum("qnv,qrv->rnv", tangents, voxels.factor)


def metric(carried: Array, noise: Array) -> Metric:
    """Metric of residuals with carried errors ``(q, n, ...)`` and noise ``(...)``."""
    q = carried.shape[0]
    if not q:
        return Metric(noise, carried, jnp.zeros_like(noise))
    white = carried / noise
    gram = [[jnp.sum(white[i] * white[j], axis=0) for j in range(q)] for i in range(q)]
    eye = jnp.eye(q, dtype=carried.dtype).reshape(q, q, *[1] * noise.ndim)
    lower = linalg.cholesky(eye + jnp.stack([jnp.stack(row) for row in gram]))
    diagonal = jnp.stack([lower[i, i] for i in range(q)])
    return Metric(noise, linalg.solve_lower(lower, white), 2.0 * jnp.sum(jnp.log(diagonal), axis=0))


def product(metric: Metric, a: Array, b: Array) -> Array:
    """Inner product of vectors ``(n, ...)``."""
    plain = jnp.sum(a * b, axis=0)
    for direction in metric.along:
        plain = plain - jnp.sum(direction * a, axis=0) * jnp.sum(direction * b, axis=0)
    return plain / metric.noise**2


def log_likelihood(metric: Metric, residual: Array) -> Array:
    """Logarithm of the Gaussian density of residuals ``(n, ...)``, without its constant."""
    return -0.5 * (product(metric, residual, residual) + metric.log_determinant)


def information(metric: Metric, jacobian: Array, residual: Array) -> tuple[Array, Array]:
    """Fisher information ``(p, p, ...)`` and gradient ``(p, ...)`` of half the squared distance."""
    rows = range(jacobian.shape[0])
    fisher = [[product(metric, jacobian[i], jacobian[j]) for j in rows] for i in rows]
    gradient = jnp.stack([product(metric, jacobian[i], residual) for i in rows])
    return jnp.stack([jnp.stack(row) for row in fisher]), gradient


class Departure(NamedTuple):
    """How far data are from the signal of fitted parameters.

    Attributes
    ----------
    distance2 : Array, shape (V,)
        Squared, in units of the noise, carried errors accounted for; chi-square with n - p degrees
        of freedom.
    scores : Array, shape (r, V)
        Of each carried error: what the residual says of it over the SD of that; standard normal.
    """

    distance2: Array
    scores: Array


def departure(problem: InverseProblem, theta: Array, voxels: Voxels) -> Departure:
    """Departure of voxels from the signal of parameters ``(p, V)``."""
    errors = carried(problem, theta, voxels)
    metric_ = metric(errors, jnp.asarray(voxels.noise))
    fitted, jacobian = problem.linearize(theta, jnp.asarray(voxels.known))
    residual = jnp.asarray(voxels.data) - fitted
    return Departure(
        product(metric_, residual, residual), scores(metric_, errors, jacobian, residual)
    )


def scores(metric: Metric, carried: Array, jacobian: Array, residual: Array) -> Array:
    """Scores of carried errors ``(r, n, V)`` after the fit of free parameters, shape (r, V).

    A wrong map moves the signal along its own direction, which a test of that direction sees long
    before a test of all volumes does.
    """
    fisher, gradient = information(metric, jacobian, residual)
    found = []
    for error in carried:
        shared = jnp.stack([product(metric, row, error) for row in jacobian])
        fitted = linalg.solve(fisher, shared[:, None])[:, 0]
        along = product(metric, error, residual) - jnp.sum(fitted * gradient, axis=0)
        variance = product(metric, error, error) - jnp.sum(fitted * shared, axis=0)
        found.append(jnp.where(variance > 0, along / jnp.sqrt(jnp.maximum(variance, 1e-30)), 0.0))
    return jnp.stack(found) if found else jnp.zeros((0, *residual.shape[1:]), residual.dtype)
