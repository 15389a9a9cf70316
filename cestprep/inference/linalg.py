"""Tiny linear algebra, one system per voxel, voxels last; no LAPACK (see physics.affine)."""

from __future__ import annotations

import jax.numpy as jnp
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
