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
from cestprep.inference.problem import InverseProblem

#: By the number of free parameters: nodes and cells per axis.
NODES = {1: 7, 2: 4, 3: 3}
_CELLS = {1: 81, 2: 21, 3: 11}
#: Half the width of the box around the mode, in SD.
REACH = 4.0
#: Gauss-Newton has converged where the next step is shorter than this many SD.
_CONVERGED_SD = 0.1


class Mode(NamedTuple):
    """Highest density near a first answer; unconstrained, voxels last.

    Attributes
    ----------
    u : Array, shape (p, V)
    factor : Array, shape (p, p, V)
        Lower factor of the inverse Hessian.
    chi2 : Array, shape (V,)
        Squared distance of the data from the signal there, carried errors accounted for.
    converged : Array of bool, shape (V,)
    """

    u: Array
    factor: Array
    chi2: Array
    converged: Array


class Local(NamedTuple):
    """Moments of a posterior; voxels last.

    Attributes
    ----------
    u_mean : Array, shape (p, V)
    u_factor : Array, shape (p, p, V)
        In unconstrained space; the covariance's lower factor.
    mean : Array, shape (p, V)
    covariance : Array, shape (p, p, V)
        In package units.
    departure : Array, shape (V,)
        SD of the log-ratio of the density and the Gaussian of its moments, under the density.
    edge : Array, shape (V,)
        Mass in the outermost cells of the box.
    scores : Array, shape (r, V)
        Of carried errors, see `cestprep.inference.likelihood.Departure`, at the box's centre.
    """

    u_mean: Array
    u_factor: Array
    mean: Array
    covariance: Array
    departure: Array
    edge: Array
    scores: Array


def _metric_at(problem: InverseProblem, u: Array, voxels: Voxels) -> Metric:
    theta = unconstrained.to_theta(problem, u)
    carried = likelihood.carried(problem, theta, voxels)
    return likelihood.metric(carried, jnp.asarray(voxels.noise))


class _State(NamedTuple):
    u: Array
    loss: Array
    damping: Array
    hessian: Array
    gradient: Array


def _curvature(
    problem: InverseProblem, u: Array, voxels: Voxels, metric: Metric
) -> tuple[Array, Array, Array]:
    """Loss (minus log posterior), its Gauss-Newton Hessian and gradient in ``u``."""
    theta = unconstrained.to_theta(problem, u)
    fitted, jacobian = problem.linearize(theta, jnp.asarray(voxels.known))
    residual = fitted - voxels.data
    by_u = jacobian * unconstrained.slope(problem, u)[:, None]
    hessian, gradient = likelihood.information(metric, by_u, residual)
    loss = 0.5 * likelihood.product(metric, residual, residual) - unconstrained.log_prior(u)
    share = jax.nn.sigmoid(u)
    return (
        loss,
        hessian + linalg.diagonal(2 * share * (1 - share) + 1e-6),
        gradient - (1 - 2 * share),
    )


def _to_mode(
    problem: InverseProblem, u: Array, voxels: Voxels, metric: Metric, steps: int | Array
) -> _State:
    """Damped Gauss-Newton, a fixed number of steps, each kept only where it helps."""

    def body(_: Array, s: _State) -> _State:
        damped = s.hessian + linalg.diagonal(
            jnp.einsum("iiv->iv", s.hessian) * jnp.where(s.damping < 1e-3, 0.0, s.damping)
        )
        step = -linalg.solve(damped, s.gradient[:, None])[:, 0]
        step = step * jnp.minimum(1.0, 2.0 / jnp.maximum(jnp.max(jnp.abs(step), axis=0), 1e-6))
        far = unconstrained.FARTHEST
        u = jnp.clip(s.u + step, -far, far)
        loss, hessian, gradient = _curvature(problem, u, voxels, metric)
        better = loss <= s.loss
        damping = jnp.where(better, s.damping * 0.1, jnp.maximum(s.damping * 10, 1e-2))
        return _State(
            jnp.where(better, u, s.u),
            jnp.where(better, loss, s.loss),
            damping,
            jnp.where(better, hessian, s.hessian),
            jnp.where(better, gradient, s.gradient),
        )

    # with a gradient of zero the first step stays put, so the model is traced once
    nothing = jnp.zeros_like(u[0])
    eye = linalg.diagonal(jnp.ones_like(u))
    start = _State(u, nothing + jnp.inf, nothing, eye, jnp.zeros_like(u))
    end: _State = jax.lax.fori_loop(0, steps + 1, body, start)
    return end


@partial(jax.jit, static_argnames=("problem",))
def climb(problem: InverseProblem, voxels: Voxels, u: Array, steps: int | Array) -> Mode:
    """Go from a first answer ``(p, V)`` to the mode, in unconstrained space."""
    metric = _metric_at(problem, u, voxels)
    end = _to_mode(problem, u, voxels, metric, steps)
    newton = linalg.solve(end.hessian, end.gradient[:, None])[:, 0]
    decrement = jnp.sqrt(jnp.maximum(jnp.sum(newton * end.gradient, axis=0), 0.0))
    return Mode(
        u=end.u,
        factor=linalg.cholesky(linalg.inverse(end.hessian)),
        chi2=2.0 * (end.loss + unconstrained.log_prior(end.u)),
        converged=(decrement < _CONVERGED_SD) & jnp.isfinite(end.loss),
    )


def _cells(p: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of cells in SD, shape (p, cells), and which are outermost."""
    count = _CELLS[p]
    axis = REACH * ((np.arange(count) + 0.5) * 2 / count - 1)
    places = mesh(axis, p)
    return places, (np.abs(places) > axis[-2]).any(axis=0)


def _distances(signals: Array, data: Array, metric: Metric, p: int) -> Array:
    """Squared distances of the data from the polynomial through signals at nodes, (cells, V).

    The weights of the nodes add up to 1, so with residuals r at the nodes and weights c in a cell
    the distance is that of sum c r, a quadratic form in c.
    """
    nodes = REACH * chebyshev_nodes(NODES[p])
    line = np.unique(_cells(p)[0])
    weights = lagrange_matrix(nodes, line)
    for _ in range(p - 1):
        weights = np.einsum("...cn,dm->...cdnm", weights, lagrange_matrix(nodes, line))
        weights = weights.reshape(weights.shape[0] * weights.shape[1], -1)
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


@partial(jax.jit, static_argnames=("problem",))
def moments(problem: InverseProblem, voxels: Voxels, u: Array, factor: Array) -> Local:
    """Moments of the posterior in a box around ``u`` with axes ``factor``.

    Parameters
    ----------
    problem : InverseProblem
    voxels : Voxels
    u : Array, shape (p, V)
    factor : Array, shape (p, p, V)
        Lower factor of a first covariance.
    """
    p, dtype = u.shape[0], u.dtype
    farthest = 1.5 * unconstrained.FARTHEST

    def places(z: Array) -> Array:
        return jnp.clip(u[None] + jnp.einsum("ijv,jm->miv", factor, z), -farthest, farthest)

    at_nodes = places(jnp.asarray(mesh(REACH * chebyshev_nodes(NODES[p]), p), dtype))
    known = jnp.asarray(voxels.known)
    signals = jax.lax.map(
        lambda x: problem.predict(unconstrained.to_theta(problem, x), known), at_nodes
    )
    centre = unconstrained.to_theta(problem, u)
    errors = likelihood.carried(problem, centre, voxels)
    metric = likelihood.metric(errors, jnp.asarray(voxels.noise))
    fitted, jacobian = problem.linearize(centre, known)
    scores = likelihood.scores(metric, errors, jacobian, voxels.data - fitted)
    z, outermost = _cells(p)
    distance = _distances(jnp.moveaxis(signals, 0, 1), jnp.asarray(voxels.data), metric, p)
    x = places(jnp.asarray(z, dtype))
    density = jax.vmap(unconstrained.log_prior)(x) - 0.5 * distance
    weight = jax.nn.softmax(density, axis=0)
    u_mean, u_covariance = weighted(x, weight)
    u_factor = linalg.cholesky(u_covariance + 1e-8 * linalg.diagonal(jnp.ones_like(u_mean)))
    white = jax.vmap(lambda a: linalg.solve_lower(u_factor, a - u_mean))(x)
    log_ratio = density + 0.5 * jnp.sum(white**2, axis=1)
    middle = jnp.sum(weight * log_ratio, axis=0)
    departure = jnp.sqrt(jnp.sum(weight * (log_ratio - middle) ** 2, axis=0))
    theta = jax.vmap(partial(unconstrained.to_theta, problem))(x)
    edge = jnp.sum(weight * jnp.asarray(outermost, dtype)[:, None], axis=0)
    return Local(u_mean, u_factor, *weighted(theta, weight), departure, edge, scores)
