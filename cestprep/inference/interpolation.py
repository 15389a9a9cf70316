"""Meshes, and polynomial interpolation at Chebyshev nodes: constants, made on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def chebyshev_nodes(count: int) -> np.ndarray:
    """Chebyshev nodes in (-1, 1), ascending, shape (count,)."""
    nodes: np.ndarray = -np.cos(np.pi * (np.arange(count) + 0.5) / count)
    return nodes


def mesh(axes: Sequence[np.ndarray]) -> np.ndarray:
    """All combinations of axes' values, shape (dimensions, combinations), C order."""
    return np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")])


def lagrange_matrix(nodes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Matrix ``(points, nodes)`` from values at nodes to those of their polynomial at points."""
    matrix = np.ones((points.size, nodes.size))
    for j, node in enumerate(nodes):
        for other in np.delete(nodes, j):
            matrix[:, j] *= (points - other) / (node - other)
    return matrix
