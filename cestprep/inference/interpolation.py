"""Meshes, and polynomial interpolation at Chebyshev nodes: constants, made on the host."""

from __future__ import annotations

import numpy as np


def chebyshev_nodes(count: int) -> np.ndarray:
    """Chebyshev nodes in (-1, 1), ascending, shape (count,)."""
    nodes: np.ndarray = -np.cos(np.pi * (np.arange(count) + 0.5) / count)
    return nodes


def mesh(axis: np.ndarray, dimensions: int) -> np.ndarray:
    """All combinations of an axis' values, shape (dimensions, values ** dimensions), C order."""
    return np.stack([m.ravel() for m in np.meshgrid(*[axis] * dimensions, indexing="ij")])


def lagrange_matrix(nodes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Matrix ``(points, nodes)`` from values at nodes to those of their polynomial at points."""
    matrix = np.ones((points.size, nodes.size))
    for j, node in enumerate(nodes):
        for other in np.delete(nodes, j):
            matrix[:, j] *= (points - other) / (node - other)
    return matrix
