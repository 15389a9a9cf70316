"""Local posterior around a first answer: Gauss-Newton to the mode, then moments of the density.

In unconstrained space, with the likelihood of `cestprep.inference.likelihood`.  A covariance that
is centred on the mode misses the tails of a bent ridge; moments of the density itself do not.  For
them the signal is simulated at a few Chebyshev nodes around the mode: between these it is a
polynomial, so the squared distance from the data is one too, and its values in hundreds of cells
cost a product of matrices.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import likelihood, linalg, unconstrained
from cestprep.inference.interpolation import chebyshev_nodes, lagrange_matrix, mesh
from cestprep.inference.likelihood import Metric, Voxels
from cestprep.inference.measured import CREDIBLE_LEVEL
from cestprep.inference.place import Place
from cestprep.inference.problem import InverseProblem

#: By the number of free parameters: nodes along each axis, the longest first, and cells per axis.
NODES = {1: (7,), 2: (7, 3), 3: (3, 3, 3)}
_CELLS = {1: 81, 2: 21, 3: 13}
#: Half the width of the box around the mode, in SD.
REACH = 5.0
#: Gauss-Newton has converged where the next step is shorter than this many SD.
_CONVERGED_SD = 0.1


class Mode(NamedTuple):
    """Highest density near a first answer; unconstrained, voxels last.

    Attributes
    ----------
    u : Array, shape (p, V)
    factor : Array, shape (p, p, V)
        Principal axes of the inverse Hessian.
    chi2 : Array, shape (V,)
        Squared distance of the data from the signal there, carried errors accounted for.
    converged : Array of bool, shape (V,)
    moved : Array, shape (V,)
        How far the mode lies from where the climb began, in SD.
    along : Array, shape (r, n, V)
        Of the likelihood's metric, taken where the climb began.
    scores : Array, shape (r, V)
        Of carried errors, see `cestprep.inference.likelihood.Departure`.
    """

    u: Array
    factor: Array
    chi2: Array
    converged: Array
    moved: Array
    along: Array
    scores: Array


class Local(NamedTuple):
    """Moments of a posterior; voxels last.

    Attributes
    ----------
    u_mean : Array, shape (p, V)
    u_factor : Array, shape (p, p, V)
        In unconstrained space; the covariance's principal axes.
    mean : Array, shape (p, V)
    covariance : Array, shape (p, p, V)
        In package units.
    lower, upper : Array, shape (p, V)
        Central 95 % intervals of the marginals, package units.
    departure : Array, shape (V,)
        SD of the log-ratio of the density and the Gaussian of its moments, under the density.
    moved : Array, shape (V,)
        Farthest of the moments from those the box was made for, in SD of these.
    """

    u_mean: Array
    u_factor: Array
    mean: Array
    covariance: Array
    lower: Array
    upper: Array
    departure: Array
    moved: Array


class _State(NamedTuple):
    u: Array
    loss: Array
    damping: Array
    residual: Array
    by_u: Array


def _curvature(s: _State, metric: Metric) -> tuple[Array, Array]:
    """Gauss-Newton Hessian of the loss (minus log posterior) and its gradient in ``u``."""
    hessian, gradient = likelihood.information(metric, s.by_u, s.residual)
    share = jax.nn.sigmoid(s.u)
    return (
        hessian + linalg.diagonal(2 * share * (1 - share) + 1e-6),
        gradient - (1 - 2 * share),
    )


def _to_mode(
    problem: InverseProblem, u: Array, voxels: Voxels, metric: Metric, steps: int | Array
) -> _State:
    """Damped Gauss-Newton, a fixed number of steps, each kept only where it helps."""

    def body(_: Array, s: _State) -> _State:
        hessian, gradient = _curvature(s, metric)
        damped = hessian + linalg.diagonal(
            jnp.einsum("iiv->iv", hessian) * jnp.where(s.damping < 1e-3, 0.0, s.damping)
        )
        step = -linalg.solve(damped, gradient[:, None])[:, 0]
        step = step * jnp.minimum(1.0, 2.0 / jnp.maximum(jnp.max(jnp.abs(step), axis=0), 1e-6))
        begun = jnp.isfinite(s.loss)  # the first round stays put, so the model is traced once
        far = unconstrained.FARTHEST
        u = jnp.clip(s.u + jnp.where(begun, step, 0.0), -far, far)
        fitted, jacobian = problem.linearize(
            unconstrained.to_theta(problem, u), jnp.asarray(voxels.known)
        )
        residual = fitted - voxels.data
        loss = 0.5 * likelihood.product(metric, residual, residual) - unconstrained.log_prior(u)
        by_u = jacobian * unconstrained.slope(problem, u)[:, None]
        better = loss <= s.loss
        damping = jnp.where(better, s.damping * 0.1, jnp.maximum(s.damping * 10, 1e-2))
        new, old = _State(u, loss, damping, residual, by_u), s._replace(damping=damping)
        kept: _State = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)
        return kept

    nothing, blank = jnp.zeros_like(u[0]), jnp.zeros(voxels.data.shape, u.dtype)
    start = _State(u, nothing + jnp.inf, nothing, blank, jnp.zeros((len(u), *blank.shape), u.dtype))
    end: _State = jax.lax.fori_loop(0, steps + 1, body, start)
    return end


@partial(jax.jit, static_argnames=("problem",))
def climb(problem: InverseProblem, voxels: Voxels, u: Array, steps: int | Array) -> Mode:
    """Go from a first answer ``(p, V)`` to the mode, in unconstrained space."""
    errors = likelihood.carried(problem, unconstrained.to_theta(problem, u), voxels)
    metric = likelihood.metric(errors, jnp.asarray(voxels.noise))
    end = _to_mode(problem, u, voxels, metric, steps)
    hessian, gradient = _curvature(end, metric)
    newton = linalg.solve(hessian, gradient[:, None])[:, 0]
    decrement = jnp.sqrt(jnp.maximum(jnp.sum(newton * gradient, axis=0), 0.0))
    factor = linalg.principal_axes(linalg.inverse(hessian))
    return Mode(
        u=end.u,
        factor=factor,
        chi2=2.0 * (end.loss + unconstrained.log_prior(end.u)),
        converged=(decrement < _CONVERGED_SD) & jnp.isfinite(end.loss),
        moved=jnp.max(jnp.abs(linalg.along_axes(factor, end.u - u)), axis=0),
        along=metric.along,
        scores=likelihood.scores(metric, errors, end.by_u, -end.residual),
    )


def _cells(p: int) -> np.ndarray:
    """Places of cells in SD, shape (p, cells)."""
    return mesh([_line(p)] * p)


def _nodes(p: int) -> list[np.ndarray]:
    """Places of nodes along each axis, in SD."""
    return [REACH * chebyshev_nodes(count) for count in NODES[p]]


def _line(p: int) -> np.ndarray:
    count = _CELLS[p]
    line: np.ndarray = REACH * ((np.arange(count) + 0.5) * 2 / count - 1)
    return line


def _distances(signals: Array, data: Array, metric: Metric, p: int) -> Array:
    """Squared distances of the data from the polynomial through signals at nodes, (cells, V).

    The weights of the nodes add up to 1, so with residuals r at the nodes and weights c in a cell
    the distance is that of sum c r, a quadratic form in c.
    """
    weights = np.ones((1, 1))
    for nodes in _nodes(p):
        weights = np.kron(weights, lagrange_matrix(nodes, _line(p)))
    residual = signals - data[:, None]  # (n, nodes, V)
    first, second = np.triu_indices(residual.shape[1])
    twice = np.where(first == second, 1.0, 2.0)
    pairs = jnp.asarray(weights[:, first] * weights[:, second] * twice, data.dtype)
    along = [jnp.sum(w[:, None] * residual, axis=0) for w in metric.along]
    grams = []
    for i in range(residual.shape[1]):
        row = jnp.sum(residual[:, i, None] * residual[:, i:], axis=0)
        grams.append(row - sum((a[i] * a[i:] for a in along), jnp.zeros_like(row)))
    return pairs @ jnp.concatenate(grams) / metric.noise**2


def weighted(values: Array, weight: Array) -> tuple[Array, Array]:
    """Mean (p, V) and covariance (p, p, V) of values (m, p, V) with weights (m, V)."""
    mean = jnp.einsum("mpv,mv->pv", values, weight)
    away = values - mean
    return mean, jnp.einsum("mpv,mrv,mv->prv", away, away, weight)


class _Cells(NamedTuple):
    """Posterior in the cells of a box.

    Attributes
    ----------
    u : Array, shape (m, p, V)
    distance2 : Array, shape (m, V)
        Squared distance of the data from the signal there.
    log_density : Array, shape (m, V)
        In unconstrained space, not normalised.
    weight : Array, shape (m, V)
        Share of the mass.
    """

    u: Array
    distance2: Array
    log_density: Array
    weight: Array


def _cells_in_box(
    problem: InverseProblem, voxels: Voxels, u: Array, factor: Array, metric: Metric
) -> _Cells:
    p, dtype = u.shape[0], u.dtype
    farthest = 1.5 * unconstrained.FARTHEST

    def places(z: np.ndarray) -> Array:
        away = jnp.einsum("ijv,jm->miv", factor, jnp.asarray(z, dtype))
        return jnp.clip(u[None] + away, -farthest, farthest)

    known = jnp.asarray(voxels.known)
    signals = jax.lax.map(
        lambda x: problem.predict(unconstrained.to_theta(problem, x), known),
        places(mesh(_nodes(p))),
    )
    data = jnp.asarray(voxels.data)
    distance2 = _distances(jnp.moveaxis(signals, 0, 1), data, metric, p)
    x = places(_cells(p))
    density = jax.vmap(unconstrained.log_prior)(x) - 0.5 * distance2
    return _Cells(x, distance2, density, jax.nn.softmax(density, axis=0))


def _shares_below(cells: _Cells, factor: Array, u: Array) -> Array:
    """Marginal mass below values ``(k, p, V)``, each cell spread over its width."""
    p = factor.shape[0]
    width = 2 * REACH / _CELLS[p] * _lengths(factor)

    def one(value: Array) -> Array:
        within = jnp.clip((value - cells.u) / width + 0.5, 0.0, 1.0)
        return jnp.sum(cells.weight[:, None] * within, axis=0)

    shares: Array = jax.lax.map(one, u)
    return shares


def _lengths(factor: Array) -> Array:
    """SD of each parameter, shape (p, V), of a covariance's factor."""
    return jnp.sqrt(jnp.sum(factor**2, axis=1))


def _interval(cells: _Cells, u: Array, factor: Array) -> tuple[Array, Array]:
    """Central 95 % intervals of the marginals, shape (p, V)."""
    p = u.shape[0]
    reach = REACH * np.sqrt(p)
    steps = jnp.asarray(np.linspace(-reach, reach, 2 * _CELLS[p] + 1), u.dtype)
    ends = u + steps[:, None, None] * _lengths(factor)
    shares = _shares_below(cells, factor, ends)
    tail = (1 - CREDIBLE_LEVEL) / 2
    quantile = jax.vmap(jax.vmap(jnp.interp, (None, -1, -1), -1), (None, -1, -1), -1)
    lower, upper = quantile(jnp.asarray([tail, 1 - tail], u.dtype), shares, ends)
    return lower, upper


@partial(jax.jit, static_argnames=("problem",))
def moments(
    problem: InverseProblem, voxels: Voxels, metric: Metric, u: Array, factor: Array
) -> Local:
    """Moments of the posterior in a box around ``u`` with axes ``factor``.

    Parameters
    ----------
    problem : InverseProblem
    voxels : Voxels
    metric : Metric
        Of `Mode`: its change within the box alters SDs by 0.3 %.
    u : Array, shape (p, V)
    factor : Array, shape (p, p, V)
        Principal axes of a first covariance, longest first.
    """
    cells = _cells_in_box(problem, voxels, u, factor, metric)
    u_mean, u_covariance = weighted(cells.u, cells.weight)
    u_factor = linalg.principal_axes(u_covariance)
    lower, upper = _interval(cells, u, factor)
    theta = jax.vmap(partial(unconstrained.to_theta, problem))(cells.u)
    return Local(
        u_mean,
        u_factor,
        *weighted(theta, cells.weight),
        unconstrained.to_theta(problem, lower),
        unconstrained.to_theta(problem, upper),
        _departure(cells, u_mean, u_factor),
        _moved(u_mean - u, u_covariance, factor),
    )


def _moved(shift: Array, covariance: Array, factor: Array) -> Array:
    p = shift.shape[0]
    half = linalg.along_axes(factor, covariance)
    white = linalg.along_axes(factor, jnp.swapaxes(half, 0, 1))
    grown = 0.5 * jnp.max(jnp.abs(white - jnp.eye(p)[:, :, None]), axis=(0, 1))
    return jnp.maximum(grown, jnp.max(jnp.abs(linalg.along_axes(factor, shift)), axis=0))


def _departure(cells: _Cells, u_mean: Array, u_factor: Array) -> Array:
    white = jax.vmap(lambda a: linalg.along_axes(u_factor, a - u_mean))(cells.u)
    log_ratio = cells.log_density + 0.5 * jnp.sum(white**2, axis=1)
    middle = jnp.sum(cells.weight * log_ratio, axis=0)
    found: Array = jnp.sqrt(jnp.sum(cells.weight * (log_ratio - middle) ** 2, axis=0))
    return found


@partial(jax.jit, static_argnames=("problem",))
def locate(
    problem: InverseProblem, voxels: Voxels, metric: Metric, u: Array, factor: Array, theta: Array
) -> Place:
    """Where parameters ``theta`` ``(p, V)`` lie in the posterior in a box as in `moments`."""
    cells = _cells_in_box(problem, voxels, u, factor, metric)
    residual = voxels.data - problem.predict(theta, jnp.asarray(voxels.known))
    denser = cells.distance2 < likelihood.product(metric, residual, residual)
    below = _shares_below(cells, factor, unconstrained.to_u(problem, theta)[None])[0]
    return Place(jnp.sum(jnp.where(denser, cells.weight, 0.0), axis=0), below)
