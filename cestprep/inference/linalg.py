"""Tiny linear algebra, one system per voxel, voxels last; no LAPACK (see physics.affine)."""

from __future__ import annotations

from itertools import combinations

import jax.numpy as jnp
import numpy as np
from jax import Array


def solve(matrix: Array, rhs: Array) -> Array:
    """Solve positive-definite systems by elimination, unrolled over the few unknowns.

    Parameters
    ----------
    matrix : Array, shape (p, p, V)
    rhs : Array, shape (p, m, V)

    Returns
    -------
    Array, shape (p, m, V)
    """
    p = matrix.shape[0]
    rows = [jnp.concatenate([matrix[i], rhs[i]]) for i in range(p)]
    for i in range(p):
        rows[i] = rows[i] / rows[i][i]
        for j in range(p):
            if j != i:
                rows[j] = rows[j] - rows[j][i] * rows[i]
    return jnp.stack([row[p:] for row in rows])


def inverse(matrix: Array) -> Array:
    """Inverse of positive-definite matrices, shape (p, p, V)."""
    p = matrix.shape[0]
    eye = jnp.broadcast_to(jnp.eye(p, dtype=matrix.dtype)[:, :, None], matrix.shape)
    return solve(matrix, eye)


def diagonal(values: Array) -> Array:
    """Diagonal matrices ``(p, p, V)`` of ``(p, V)``."""
    return jnp.eye(values.shape[0], dtype=values.dtype)[:, :, None] * values[None]


def cholesky(matrix: Array) -> Array:
    """Lower factor of positive-semidefinite matrices, shape (p, p, V); zero pivots stay zero."""
    p = matrix.shape[0]
    zero = jnp.zeros_like(matrix[0, 0])
    rows: list[list[Array]] = [[zero] * p for _ in range(p)]
    for j in range(p):
        pivot = matrix[j, j] - sum((rows[j][m] ** 2 for m in range(j)), zero)
        positive = pivot > float(np.finfo(matrix.dtype).eps) * matrix[j, j]
        root = jnp.sqrt(jnp.where(positive, pivot, 1.0))
        rows[j][j] = jnp.where(positive, root, 0.0)
        for i in range(j + 1, p):
            rest = matrix[i, j] - sum((rows[i][m] * rows[j][m] for m in range(j)), zero)
            rows[i][j] = jnp.where(positive, rest / root, 0.0)
    return jnp.stack([jnp.stack(row) for row in rows])


def solve_lower(lower: Array, rhs: Array) -> Array:
    """Solve triangular systems with vectors ``(p, V)`` on the right."""
    found: list[Array] = []
    for i in range(lower.shape[0]):
        known = sum((lower[i, j] * found[j] for j in range(i)), jnp.zeros_like(rhs[i]))
        found.append((rhs[i] - known) / lower[i, i])
    return jnp.stack(found)


def principal_axes(covariance: Array) -> Array:
    """Factor of covariances whose columns are the principal axes, longest first.

    Parameters
    ----------
    covariance : Array, shape (p, p, V)

    Returns
    -------
    Array, shape (p, p, V)
        Each column is as long as the SD along it, at least 1e-4 of the longest.  By Jacobi's
        rotations, each of which puts the longer of two axes first.
    """
    p = covariance.shape[0]
    turned = covariance
    axes = jnp.broadcast_to(jnp.eye(p, dtype=covariance.dtype)[:, :, None], covariance.shape)
    sweeps = 1 if p == 2 else 2 * p
    for i, j in list(combinations(range(p), 2)) * sweeps:
        angle = 0.5 * jnp.arctan2(2 * turned[i, j], turned[i, i] - turned[j, j])
        cos, sin = jnp.cos(angle), jnp.sin(angle)

        def turn(a: Array, i: int = i, j: int = j, cos: Array = cos, sin: Array = sin) -> Array:
            return (
                a.at[:, i]
                .set(cos * a[:, i] + sin * a[:, j])
                .at[:, j]
                .set(cos * a[:, j] - sin * a[:, i])
            )

        turned = turn(jnp.swapaxes(turn(turned), 0, 1))
        axes = turn(axes)
    variance = jnp.einsum("iiv->iv", turned)
    return axes * jnp.sqrt(jnp.maximum(variance, 1e-8 * jnp.max(variance, axis=0)))


def along_axes(axes: Array, vectors: Array) -> Array:
    """Components of vectors ``(p, ...)`` along principal axes ``(p, p, V)``, in SD."""
    return jnp.einsum("ij...,i...->j...", axes / jnp.sum(axes**2, axis=0), vectors)
