"""Posterior of one voxel in the cells of a box, exact signals in each.

The prior is uniform in the box of the free parameters; the likelihood is that of
`cestprep.inference.likelihood`.  Only the derivatives in the known parameters, which vary slowly,
are taken at a few Chebyshev nodes and interpolated.  A free scale ``m0`` enters linearly and is
integrated analytically.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import likelihood
from cestprep.inference.chunks import voxels_per_chunk
from cestprep.inference.interpolation import chebyshev_nodes, lagrange_matrix, mesh
from cestprep.inference.likelihood import Metric, Voxels
from cestprep.inference.problem import InverseProblem

_NODES = 5
_CELLS_TOGETHER = 500


@dataclass(frozen=True)
class Layout:
    """What is on the axes of a grid.

    Attributes
    ----------
    problem : InverseProblem
    cells : int
        Per axis.
    curved : bool
        Axes are log(f k) and log k, along which a ridge of constant f k is straight, instead of
        the parameters themselves.
    """

    problem: InverseProblem
    cells: int
    curved: bool = False

    @property
    def linear(self) -> int | None:
        """Index of the parameter integrated analytically."""
        names = [f.parameter for f in self.problem.free]
        return names.index("m0") if "m0" in names else None

    @property
    def gridded(self) -> list[int]:
        """Indices of the parameters on the axes."""
        return [i for i in range(len(self.problem.free)) if i != self.linear]

    @property
    def dimensions(self) -> int:
        """Number of axes."""
        return len(self.gridded)


class Density(NamedTuple):
    """Posterior of one voxel, cells in C order.

    Attributes
    ----------
    theta : Array, shape (p, cells)
        Free parameters; an analytic scale at its mean given the others.
    spread : Array, shape (cells,)
        Variance of the analytic scale in a cell; 0 without one.
    log_likelihood : Array, shape (cells,)
        -inf outside the prior.
    log_mass : Array, shape (cells,)
        Of the posterior, not normalised.
    """

    theta: Array
    spread: Array
    log_likelihood: Array
    log_mass: Array


def curvable(problem: InverseProblem) -> bool:
    """Whether the free parameters on the axes are one pool's fraction and rate, in this order."""
    names = [f.parameter for f in problem.free if f.parameter != "m0"]
    kinds = [name.rpartition(".")[2] for name in names]
    return kinds == ["fraction", "k_exchange"] and len({n.rpartition(".")[0] for n in names}) == 1


def _centres(cells: int, dimensions: int) -> np.ndarray:
    """Cell centres in the unit box, shape (dimensions, cells ** dimensions)."""
    return mesh([(np.arange(cells) + 0.5) / cells] * dimensions)


def _interpolation(cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev nodes in (0, 1) and the matrix (cells, nodes) from their values to the centres."""
    nodes = 0.5 + 0.5 * chebyshev_nodes(_NODES)
    return nodes, lagrange_matrix(nodes, (np.arange(cells) + 0.5) / cells)


def _coordinates(layout: Layout, unit: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Gridded parameters at places in the unit box, and the log of the volume element."""
    x = low[:, None] + unit * (high - low)[:, None]
    if not layout.curved:
        return x, jnp.zeros_like(x[0])
    return jnp.stack([jnp.exp(x[0] - x[1]), jnp.exp(x[1])]), x[0]


def _full(layout: Layout, gridded: Array) -> Array:
    """All free parameters, an analytic scale at the middle of its range."""
    if layout.linear is None:
        return gridded
    middle = float(layout.problem.bounds[layout.linear].mean())
    scale = jnp.full_like(gridded[0], middle)
    return jnp.insert(gridded, layout.linear, scale, axis=0)


def _nodes(layout: Layout, low: Array, high: Array, voxel: Voxels) -> Metric:
    """Metric of one voxel at Chebyshev nodes of the box, node axes last."""
    d = layout.dimensions
    nodes, _ = _interpolation(layout.cells)
    places = mesh([nodes] * d)
    gridded, _ = _coordinates(layout, jnp.asarray(places, low.dtype), low, high)
    many = Voxels(*(jnp.repeat(x[..., None], places.shape[1], axis=-1) for x in voxel))
    carried = likelihood.carried(layout.problem, _full(layout, gridded), many)
    found = likelihood.metric(carried, many.noise)
    return Metric(*(x.reshape(*x.shape[:-1], *[_NODES] * d) for x in found))


def _interpolated(nodes: Array, rows: Array, matrix: Array, dimensions: int) -> Array:
    """Values ``(..., nodes, nodes)`` at some rows of the first axis and all cells of the others."""
    lead = nodes.ndim - dimensions
    values = jnp.moveaxis(jnp.tensordot(nodes, rows, axes=(lead, 1)), -1, lead)
    for axis in range(lead + 1, values.ndim):
        values = jnp.moveaxis(jnp.tensordot(values, matrix, axes=(axis, 1)), -1, axis)
    return values.reshape(*values.shape[:lead], int(np.prod(values.shape[lead:])))


def density_in_box(layout: Layout, low: Array, high: Array, voxel: Voxels) -> Density:
    """Posterior of one voxel in the cells of a box, some rows of cells at a time."""
    dtype, d = low.dtype, layout.dimensions
    matrix = jnp.asarray(_interpolation(layout.cells)[1], dtype)
    rows = max(1, _CELLS_TOGETHER // layout.cells ** (d - 1))
    while layout.cells % rows:
        rows -= 1
    blocks = layout.cells // rows
    unit = jnp.asarray(_centres(layout.cells, d), dtype)
    nodes = _nodes(layout, low, high, voxel)

    def block(part: tuple[Array, Array]) -> Density:
        unit, weights = part
        metric = Metric(
            voxel.noise,
            _interpolated(nodes.along, weights, matrix, d),
            _interpolated(nodes.log_determinant, weights, matrix, d),
        )
        return _cells(layout, unit, metric, low, high, voxel)

    parts = (jnp.moveaxis(unit.reshape(d, blocks, -1), 1, 0), matrix.reshape(blocks, rows, -1))
    found = jax.lax.map(block, parts)
    return Density(
        jnp.moveaxis(found.theta, 0, 1).reshape(found.theta.shape[1], -1),
        *(x.reshape(-1) for x in found[1:]),
    )


def _cells(
    layout: Layout, unit: Array, metric: Metric, low: Array, high: Array, voxel: Voxels
) -> Density:
    """Posterior in some cells of one voxel's box."""
    gridded, log_element = _coordinates(layout, unit, low, high)
    theta = _full(layout, gridded)
    z = _predict(layout, theta, jnp.asarray(voxel.known))
    residual = jnp.asarray(voxel.data)[:, None] - z
    found = likelihood.log_likelihood(metric, residual)
    spread = jnp.zeros_like(found)
    if layout.linear is not None:
        scale = _analytic_scale(layout, theta, z, residual, metric)
        found = found + scale.log_gain
        theta = theta.at[layout.linear].add(scale.shift)
        spread = scale.variance
    bounds = jnp.asarray(layout.problem.bounds[layout.gridded], low.dtype)
    inside = jnp.all((gridded >= bounds[:, :1]) & (gridded <= bounds[:, 1:]), axis=0)
    found = jnp.where(inside & jnp.isfinite(found), found, -jnp.inf)
    return Density(theta, spread, found, found + log_element)


def _predict(layout: Layout, theta: Array, known: Array) -> Array:
    """Signals of many cells of one voxel, shape (n, cells), as many at a time as run fastest."""
    size, count = voxels_per_chunk(layout.problem, None, theta.dtype), theta.shape[1]
    blocks = -(-count // size)
    padded = jnp.pad(theta, ((0, 0), (0, blocks * size - count)), mode="edge")
    column = jnp.broadcast_to(known[:, None], (known.shape[0], size))
    parts = jnp.moveaxis(padded.reshape(len(theta), blocks, size), 1, 0)
    z = jax.lax.map(lambda part: layout.problem.predict(part, column), parts)
    return jnp.moveaxis(z, 0, 1).reshape(z.shape[1], -1)[:, :count]


class _Scale(NamedTuple):
    shift: Array
    variance: Array
    log_gain: Array


def _analytic_scale(
    layout: Layout, theta: Array, z: Array, residual: Array, metric: Metric
) -> _Scale:
    """Integral over a free scale whose prior SD is the width of its range."""
    assert layout.linear is not None
    least, most = layout.problem.bounds[layout.linear]
    width = float(most - least)
    direction = z / theta[layout.linear] * width
    along = likelihood.product(metric, direction, residual)
    total = 1.0 + likelihood.product(metric, direction, direction)
    gain = 0.5 * (along**2 / total - jnp.log(total))
    return _Scale(width * along / total, width**2 / total, gain)


def log_likelihood_at(layout: Layout, theta: Array, voxel: Voxels) -> Array:
    """Log-likelihood of one voxel at given parameters, an analytic scale integrated."""
    alone = Voxels(*(x[..., None] for x in voxel))
    point = _full(layout, theta[jnp.array(layout.gridded)][:, None])
    z = layout.problem.predict(point, alone.known)
    metric = likelihood.metric(likelihood.carried(layout.problem, point, alone), alone.noise)
    residual = alone.data - z
    found = likelihood.log_likelihood(metric, residual)
    if layout.linear is not None:
        found = found + _analytic_scale(layout, point, z, residual, metric).log_gain
    return found[0]
