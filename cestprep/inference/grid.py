"""Posteriors of voxels on grids that are refined until they resolve the density."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference.chunks import Progress, over_chunks, phase, replaced
from cestprep.inference.density import Density, Layout, curvable, density_in_box, log_likelihood_at
from cestprep.inference.likelihood import Voxels
from cestprep.inference.place import Place
from cestprep.inference.problem import InverseProblem, predict_voxels
from cestprep.inference.summary import Summary, summarize

#: Cells per axis of the levels that look for the density, of the last one, and of one more where
#: that is too coarse, by dimensions.
SEARCH_CELLS = {1: 200, 2: 24, 3: 12}
FINAL_CELLS = {1: 1000, 2: 50, 3: 20}
FINEST_CELLS = {1: 10_000, 2: 100, 3: 30}
#: Cells that must hold 95 % of the mass.
FEWEST_CELLS = 400
#: Of every chunk, filled up where fewer are left: another size would be compiled again.
_VOXELS_TOGETHER = 8
#: More mass in the outermost cells of the last level, and it is sought in a wider box, this often.
_MOST_CUT, _MOST_WIDENED = 1e-3, 6
#: A cell this far below the best log-likelihood is outside the box of the next level.
_DEPTH = 9.0
_FEWEST_IN_BOX = {1: 3, 2: 9, 3: 27}


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
        density = density_in_box(layout, low, high, voxel)
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
        density = density_in_box(layout, low, high, voxel)
        here = log_likelihood_at(layout, point, voxel)
        weight = jax.nn.softmax(density.log_mass)
        smaller = density.theta < point[:, None]
        return Place(
            jnp.sum(jnp.where(density.log_likelihood > here, weight, 0.0)),
            jnp.sum(jnp.where(smaller, weight, 0.0), axis=1),
        )

    first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (box, voxels, theta))
    found: Place = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), jax.lax.map(one, first))
    return found


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
        _VOXELS_TOGETHER,
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
    again = _explored(layout, voxels.take(thin), there, levels, progress)
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
        again = _zoomed_all(layout, voxels.take(cut), wider, (levels[-1], levels[-1]))
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
            _VOXELS_TOGETHER,
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
