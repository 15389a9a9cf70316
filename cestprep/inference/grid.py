"""Posterior of a voxel on a grid that is refined until it resolves the density.

The prior is uniform in the box of the free parameters; the likelihood is that of
`cestprep.inference.likelihood`, simulated exactly in every cell.  Only the derivatives in the known
parameters, which vary slowly, are taken at a few Chebyshev nodes and interpolated.  A free scale
``m0`` enters linearly and is integrated analytically.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import likelihood
from cestprep.inference.chunks import Progress, over_chunks, phase, replaced, voxels_per_chunk
from cestprep.inference.interpolation import chebyshev_nodes, lagrange_matrix, mesh
from cestprep.inference.likelihood import Metric, Voxels
from cestprep.inference.measured import GAUSSIAN_QUANTILE
from cestprep.inference.place import Place
from cestprep.inference.problem import InverseProblem, predict_voxels

#: Cells per axis of the levels that look for the density, of the last one, and of one more where
#: that is too coarse, by dimensions.
SEARCH_CELLS = {1: 200, 2: 24, 3: 12}
FINAL_CELLS = {1: 1000, 2: 50, 3: 20}
FINEST_CELLS = {1: 10_000, 2: 100, 3: 30}
#: Cells that must hold 95 % of the mass.
FEWEST_CELLS = 400
_NODES = 5
_VOXELS_TOGETHER = 8
_CELLS_TOGETHER = 500
#: More mass in the outermost cells of the last level, and it is sought in a wider box, this often.
_MOST_CUT, _MOST_WIDENED = 1e-3, 6
#: A cell this far below the best log-likelihood is outside the box of the next level.
_DEPTH = 9.0
_FEWEST_IN_BOX = {1: 3, 2: 9, 3: 27}


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


def _density(layout: Layout, low: Array, high: Array, voxel: Voxels) -> Density:
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


class Box(NamedTuple):
    """Where a grid lies, per voxel, in the coordinates of its axes; shapes (dimensions, V)."""

    low: Array
    high: Array


def _next_box(layout: Layout, density: Density, low: Array, high: Array) -> tuple[Array, Array]:
    """Box around the cells that matter, one cell wider on each side, in the same coordinates."""
    d = layout.dimensions
    kept = _kept(layout, density).reshape([layout.cells] * d)
    lows, highs = [], []
    for axis in range(d):
        any_kept = jnp.any(kept, axis=tuple(a for a in range(d) if a != axis))
        first = jnp.argmax(any_kept) - 1
        last = layout.cells - jnp.argmax(any_kept[::-1]) + 1
        edges = jnp.clip(jnp.stack([first, last]), 0, layout.cells) / layout.cells
        span = high[axis] - low[axis]
        lows.append(low[axis] + edges[0] * span)
        highs.append(low[axis] + edges[1] * span)
    return jnp.stack(lows), jnp.stack(highs)


def _kept(layout: Layout, density: Density) -> Array:
    fewest = _FEWEST_IN_BOX[layout.dimensions]
    best = jax.lax.top_k(density.log_likelihood, fewest)[0]
    depth = jnp.maximum(_DEPTH, best[0] - best[-1])
    return density.log_likelihood >= best[0] - depth


def _curved_box(layout: Layout, density: Density) -> tuple[Array, Array]:
    """Box in log(f k) and log k around the cells that matter of a straight grid."""
    kept = _kept(layout, density)
    f, k = (jnp.maximum(density.theta[i], 1e-12) for i in layout.gridded)
    x = jnp.stack([jnp.log(f * k), jnp.log(k)])
    low = jnp.min(jnp.where(kept, x, jnp.inf), axis=1)
    high = jnp.max(jnp.where(kept, x, -jnp.inf), axis=1)
    margin = 0.1 * (high - low) + 0.05
    return low - margin, high + margin


class Summary(NamedTuple):
    """Moments and intervals of a voxel's posterior, package units.

    Attributes
    ----------
    mean : Array, shape (p,)
    covariance : Array, shape (p, p)
    lower, upper : Array, shape (p,)
        Central 95 % intervals of the marginals.
    best : Array, shape (p,)
        Cell of highest likelihood.
    log_evidence : Array
        Of the normalised data under the uniform prior, less the constant of the noise.
    cells_in_region : Array
        Cells that hold the densest 95 % of the mass.
    log_likelihood_95 : Array
        Least log-likelihood inside the 95 % highest-density region.
    at_bound : Array of bool
        The best cell lies at the end of a range.
    """

    mean: Array
    covariance: Array
    lower: Array
    upper: Array
    best: Array
    log_evidence: Array
    cells_in_region: Array
    log_likelihood_95: Array
    at_bound: Array


def summarize(layout: Layout, density: Density, low: Array, high: Array) -> Summary:
    """Moments, intervals, evidence and highest-density region of one voxel."""
    weight = jax.nn.softmax(density.log_mass)
    mean = jnp.sum(density.theta * weight, axis=1)
    away = density.theta - mean[:, None]
    covariance = jnp.einsum("ic,jc,c->ij", away, away, weight)
    if layout.linear is not None:
        covariance = covariance.at[layout.linear, layout.linear].add(
            jnp.sum(density.spread * weight)
        )
    order = jnp.argsort(-density.log_likelihood)
    enclosed = jnp.cumsum(weight[order])
    count = jnp.sum(enclosed < 0.95) + 1
    bounds = layout.problem.bounds[layout.gridded]
    cell = jnp.sum(jnp.log(high - low)) - layout.dimensions * np.log(layout.cells)
    prior = float(np.sum(np.log(bounds[:, 1] - bounds[:, 0])))
    lower, upper = _intervals(layout, density, weight, mean, covariance, low, high)
    return Summary(
        mean,
        covariance,
        lower,
        upper,
        density.theta[:, order[0]],
        jax.scipy.special.logsumexp(density.log_mass) + cell - prior,
        count,
        density.log_likelihood[order[jnp.minimum(count - 1, order.size - 1)]],
        _at_bound(layout, density.theta[:, order[0]], low, high),
    )


def _at_bound(layout: Layout, best: Array, low: Array, high: Array) -> Array:
    bounds = jnp.asarray(layout.problem.bounds[layout.gridded], best.dtype)
    reach = 1e-3 * (bounds[:, 1] - bounds[:, 0])
    if not layout.curved:
        reach = jnp.maximum(reach, 0.6 * (high - low) / layout.cells)
    here = best[jnp.array(layout.gridded)]
    return jnp.any((here < bounds[:, 0] + reach) | (here > bounds[:, 1] - reach))


def _intervals(
    layout: Layout,
    density: Density,
    weight: Array,
    mean: Array,
    covariance: Array,
    low: Array,
    high: Array,
) -> tuple[Array, Array]:
    """Central 95 % intervals; of an analytic scale, from its moments."""
    tails = jnp.asarray([0.025, 0.975], weight.dtype)
    d = layout.dimensions
    ends = []
    for i in range(mean.shape[0]):
        if i == layout.linear:
            sd = jnp.sqrt(covariance[i, i])
            ends.append(mean[i] + jnp.asarray([-1, 1], weight.dtype) * GAUSSIAN_QUANTILE * sd)
        elif layout.curved:
            order = jnp.argsort(density.theta[i])
            middle = jnp.cumsum(weight[order]) - 0.5 * weight[order]
            ends.append(jnp.interp(tails, middle, density.theta[i][order]))
        else:
            axis = layout.gridded.index(i)
            shape = [layout.cells] * d
            margin = jnp.sum(weight.reshape(shape), axis=tuple(a for a in range(d) if a != axis))
            cumulated = jnp.concatenate([jnp.zeros(1, weight.dtype), jnp.cumsum(margin)])
            edges = jnp.linspace(low[axis], high[axis], layout.cells + 1)
            ends.append(jnp.interp(tails, cumulated, edges))
    both = jnp.stack(ends)
    return both[:, 0], both[:, 1]


def _outermost(layout: Layout, density: Density) -> Box:
    """Share of the mass in the first and the last cells along each axis."""
    weight = jax.nn.softmax(density.log_mass).reshape([layout.cells] * layout.dimensions)
    along = [jnp.moveaxis(weight, axis, 0) for axis in range(layout.dimensions)]
    return Box(*(jnp.stack([jnp.sum(w[side]) for w in along]) for side in (0, -1)))


class Level(NamedTuple):
    """Result of one grid for a chunk of voxels; arrays end in (V,)."""

    summary: Summary
    outermost: Box
    next_box: Box
    curved_box: Box


@partial(jax.jit, static_argnames=("layout",))
def level(layout: Layout, box: Box, voxels: Voxels) -> Level:
    """Evaluate the grids of a chunk of voxels, one after the other."""

    def one(item: tuple[Box, Voxels]) -> Level:
        (low, high), voxel = item
        density = _density(layout, low, high, voxel)
        curved = (low, high)
        if not layout.curved and curvable(layout.problem):
            curved = _curved_box(layout, density)
        return Level(
            summarize(layout, density, low, high),
            _outermost(layout, density),
            Box(*_next_box(layout, density, low, high)),
            Box(*curved),
        )

    first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (box, voxels))
    last: Level = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), jax.lax.map(one, first))
    return last


@partial(jax.jit, static_argnames=("layout",))
def _place(layout: Layout, box: Box, voxels: Voxels, theta: Array) -> Place:
    """Where parameters ``(p, V)`` lie in the posteriors of a chunk of voxels."""

    def one(item: tuple[Box, Voxels, Array]) -> Place:
        (low, high), voxel, point = item
        density = _density(layout, low, high, voxel)
        here = _at(layout, point, voxel)
        weight = jax.nn.softmax(density.log_mass)
        smaller = density.theta < point[:, None]
        return Place(
            jnp.sum(jnp.where(density.log_likelihood > here, weight, 0.0)),
            jnp.sum(jnp.where(smaller, weight, 0.0), axis=1),
        )

    first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (box, voxels, theta))
    found: Place = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), jax.lax.map(one, first))
    return found


def _at(layout: Layout, theta: Array, voxel: Voxels) -> Array:
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Found:
    """Posterior of many voxels on their final grids; arrays end in (V,).

    Attributes
    ----------
    end : Level
        Of the final grid.
    fitted : ndarray, shape (n, V)
        Signal in the best cell.
    box : Box
        Of the final grid, in the coordinates of its axes.
    cells : ndarray of int, shape (V,)
        Per axis of the final grid.
    curved : ndarray of bool, shape (V,)
        Which axes it has.
    """

    end: Level
    fitted: Array
    box: Box
    cells: Array
    curved: Array

    @property
    def summary(self) -> Summary:
        """Moments and intervals."""
        return self.end.summary

    @property
    def thin(self) -> np.ndarray:
        """Voxels whose 95 % region holds fewer than `FEWEST_CELLS` cells."""
        return np.asarray(self.summary.cells_in_region) < FEWEST_CELLS


def _zoomed(layout: Layout, voxels: Voxels, box: Box, levels: tuple[int, ...]) -> Found:
    """Posterior of a chunk of voxels, each level of cells around the mass of the one before."""
    end = level(dataclasses.replace(layout, cells=levels[0]), box, voxels)
    for cells in levels[1:]:
        box = end.next_box
        end = level(dataclasses.replace(layout, cells=cells), box, voxels)
    fitted = predict_voxels(layout.problem, end.summary.best, voxels.known)
    count = voxels.noise.size
    return Found(end, fitted, box, jnp.full(count, levels[-1]), jnp.full(count, layout.curved))


def _zoomed_all(
    layout: Layout,
    voxels: Voxels,
    box: Box,
    levels: tuple[int, ...],
    progress: Progress | None = None,
) -> Found:
    found: Found = over_chunks(
        lambda *chunk: _zoomed(layout, Voxels(*chunk[:4]), Box(*chunk[4:]), levels),
        [*voxels, *box],
        min(_VOXELS_TOGETHER, voxels.data.shape[1]),
        progress,
    )
    return found


def explore_all(problem: InverseProblem, voxels: Voxels, progress: Progress | None = None) -> Found:
    """Posteriors of any number of voxels, refined until `FEWEST_CELLS` cells hold 95 % of the mass.

    Those too thin for the first grid have a finer one, and then curved axes.  Where it is too thin
    for these too, the better of the two stands.

    Raises
    ------
    ValueError
        If more than three parameters would be on the axes.
    """
    straight = Layout(problem, 1)
    if straight.dimensions not in FINAL_CELLS:
        raise ValueError(f"a grid has at most three axes, {straight.dimensions} are needed")
    search, final, finest = (
        cells[straight.dimensions] for cells in (SEARCH_CELLS, FINAL_CELLS, FINEST_CELLS)
    )
    whole, levels = _whole_range(straight, voxels), (search, search, final)
    found = _explored(straight, voxels, whole, levels, phase(progress, "grids"))
    if found.thin.any():
        box, step = found.end.next_box, phase(progress, "finer grids")
        found = _finer(straight, voxels, found, box, (finest,), step)
    if found.thin.any() and curvable(problem):
        curved, step = dataclasses.replace(straight, curved=True), phase(progress, "curved grids")
        box, levels = found.end.curved_box, (search, search, finest)
        found = _finer(curved, voxels, found, box, levels, step)
    return found


def _finer(
    layout: Layout,
    voxels: Voxels,
    found: Found,
    box: Box,
    levels: tuple[int, ...],
    progress: Progress | None,
) -> Found:
    """Posteriors sought again where they were too thin, and taken where they no longer are so."""
    thin = np.flatnonzero(found.thin)
    there = Box(*(x[:, thin] for x in box))
    again = _explored(layout, _some(voxels, thin), there, levels, progress)
    better = again.summary.cells_in_region > found.summary.cells_in_region[thin]
    merged: Found = replaced(found, thin[better], jax.tree.map(lambda x: x[..., better], again))
    return merged


def _explored(
    layout: Layout, voxels: Voxels, box: Box, levels: tuple[int, ...], progress: Progress | None
) -> Found:
    """Posteriors found in a box, and sought again in wider ones where the last cut mass off.

    A ridge that runs between the few cells of a search is not seen in all its length.
    """
    found = _zoomed_all(layout, voxels, box, levels, progress)
    for _ in range(_MOST_WIDENED):
        cut, wider = _wider(layout, found)
        if not cut.size:
            break
        again = _zoomed_all(layout, _some(voxels, cut), wider, (levels[-1], levels[-1]))
        found = replaced(found, cut, again)
    return found


def _wider(layout: Layout, found: Found) -> tuple[np.ndarray, Box]:
    """Voxels with mass in the outermost cells, not at the end of a range, and boxes beyond."""
    least, most = (np.asarray(x)[:, None] for x in _limits(layout))
    low, high = (np.asarray(x) for x in found.box)
    span = high - low
    below = (np.asarray(found.end.outermost.low) > _MOST_CUT) & (low > least + 1e-6 * span)
    above = (np.asarray(found.end.outermost.high) > _MOST_CUT) & (high < most - 1e-6 * span)
    cut = np.flatnonzero((below | above).any(axis=0))
    wider = np.maximum(low - span * below, least), np.minimum(high + span * above, most)
    return cut, Box(*(x[:, cut].astype(low.dtype) for x in wider))


def _limits(layout: Layout) -> np.ndarray:
    """Ends of the prior along the axes, shape (2, dimensions)."""
    ends: np.ndarray = layout.problem.bounds[layout.gridded].T
    if not layout.curved:
        return ends
    logs = np.log(np.maximum(ends, 1e-12))
    return np.stack([logs.sum(axis=1), logs[:, 1]], axis=1)


def _some(voxels: Voxels, chosen: np.ndarray) -> Voxels:
    return Voxels(*(x[..., chosen] for x in voxels))


def places(problem: InverseProblem, found: Found, voxels: Voxels, theta: np.ndarray) -> Place:
    """Where parameters ``(p, V)`` lie in the posteriors that `explore_all` found for the voxels."""
    count = theta.shape[1]
    whole = Place(np.empty(count), np.empty(theta.shape))  # type: ignore[arg-type]
    kinds, which = np.unique([found.cells, found.curved], axis=1, return_inverse=True)
    for i, (cells, curved) in enumerate(kinds.T):
        some = np.flatnonzero(which == i)
        layout = Layout(problem, int(cells), bool(curved))
        arrays = [*found.box, *voxels, theta.astype(voxels.data.dtype)]
        part = over_chunks(
            lambda *c, layout=layout: _place(layout, Box(*c[:2]), Voxels(*c[2:6]), c[6]),
            [np.asarray(x)[..., some] for x in arrays],
            min(_VOXELS_TOGETHER, count),
        )
        whole = replaced(whole, some, part)
    return whole


def published_all(
    problem: InverseProblem, voxels: Voxels, progress: Progress | None = None
) -> Found:
    """Posteriors as the literature's reference has them (arXiv 2602.03317).

    One grid of fixed cells over the whole prior, known parameters exact, and as noise each voxel's
    least distance over the root of the number of volumes.
    """
    layout = Layout(problem, 1)
    levels = (FINEST_CELLS[layout.dimensions],)
    box = _whole_range(layout, voxels)
    exact = voxels._replace(factor=voxels.factor[:, :0])
    first = _zoomed_all(layout, exact, box, levels)
    least = np.linalg.norm(first.fitted - exact.data, axis=0) / np.sqrt(len(exact.data))
    noisy = exact._replace(noise=least.astype(exact.noise.dtype))
    return _zoomed_all(layout, noisy, box, levels, progress)


def _whole_range(layout: Layout, voxels: Voxels) -> Box:
    bounds = layout.problem.bounds[layout.gridded].astype(voxels.data.dtype)
    shape = layout.dimensions, voxels.data.shape[1]
    return Box(*(np.broadcast_to(b[:, None], shape) for b in bounds.T))  # type: ignore[arg-type]
