"""Local posterior around a first answer: Gauss-Newton to the mode, then moments by quadrature.

In unconstrained space, with the likelihood of `cestprep.inference.likelihood`.  A covariance that
is centred on the mode misses the tails of a bent ridge; moments matched to the density itself, at
Gauss-Hermite nodes of the Gaussian found so far, do not.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import likelihood, linalg, unconstrained
from cestprep.inference.likelihood import Metric, Voxels
from cestprep.inference.problem import InverseProblem

_STEPS = 12
_PASSES = 2
_NODES_PER_AXIS = {1: 9, 2: 5, 3: 5}
#: Nodes lie this much wider than the Gaussian whose density they probe.
_WIDENED = 1.25


class Refined(NamedTuple):
    """Local posterior of a chunk of voxels; arrays end in (V,).

    Attributes
    ----------
    mode : Array, shape (p, V)
        Unconstrained place of the highest density found.
    u_mean : Array, shape (p, V)
    u_factor : Array, shape (p, p, V)
        Moments in unconstrained space; the covariance's lower factor.
    mean : Array, shape (p, V)
    covariance : Array, shape (p, p, V)
        Moments in package units.
    fitted : Array, shape (n, V)
        Signal at the mode.
    chi2 : Array, shape (V,)
        Squared distance of the data from it, carried errors accounted for.
    converged : Array of bool, shape (V,)
    departure : Array, shape (V,)
        SD of the log-ratio of the density and the Gaussian of its moments, under the density.
    """

    mode: Array
    u_mean: Array
    u_factor: Array
    mean: Array
    covariance: Array
    fitted: Array
    chi2: Array
    converged: Array
    departure: Array


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
    problem: InverseProblem, u: Array, voxels: Voxels, metric: Metric, steps: int
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


def gaussian_nodes(p: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (p, m) and weights (m,) for a standard normal density in p dimensions."""
    x, w = np.polynomial.hermite_e.hermegauss(_NODES_PER_AXIS[p])
    mesh = np.meshgrid(*[x] * p, indexing="ij")
    weights = np.meshgrid(*[w / w.sum()] * p, indexing="ij")
    return np.stack([m.ravel() for m in mesh]), np.prod([m.ravel() for m in weights], axis=0)


class _Moments(NamedTuple):
    u_mean: Array
    u_factor: Array
    mean: Array
    covariance: Array
    departure: Array


def _moments(
    problem: InverseProblem, mean: Array, factor: Array, voxels: Voxels, metric: Metric
) -> _Moments:
    """Moments of the density at the nodes of a Gaussian of given mean and factor."""
    z, w = (jnp.asarray(x, mean.dtype) for x in gaussian_nodes(mean.shape[0]))
    known = jnp.asarray(voxels.known)

    def log_density(node: Array) -> tuple[Array, Array]:
        u = mean + _WIDENED * jnp.einsum("ijv,j->iv", factor, node)
        u = jnp.clip(u, -1.5 * unconstrained.FARTHEST, 1.5 * unconstrained.FARTHEST)
        residual = voxels.data - problem.predict(unconstrained.to_theta(problem, u), known)
        loss = 0.5 * likelihood.product(metric, residual, residual)
        return unconstrained.log_prior(u) - loss, u

    density, u = jax.lax.map(log_density, z.T)  # (m, V), (m, p, V)
    ratio = density + 0.5 * jnp.sum(z**2, axis=0)[:, None]  # over the widened Gaussian
    weight = jax.nn.softmax(ratio + jnp.log(w)[:, None], axis=0)
    u_mean, u_covariance = weighted(u, weight)
    u_factor = linalg.cholesky(u_covariance + 1e-8 * linalg.diagonal(jnp.ones_like(u_mean)))
    theta = jax.vmap(partial(unconstrained.to_theta, problem))(u)
    white = jax.vmap(lambda x: linalg.solve_lower(u_factor, x - u_mean))(u)
    log_ratio = density + 0.5 * jnp.sum(white**2, axis=1)
    centre = jnp.sum(weight * log_ratio, axis=0)
    departure = jnp.sqrt(jnp.sum(weight * (log_ratio - centre) ** 2, axis=0))
    return _Moments(u_mean, u_factor, *weighted(theta, weight), departure)


def weighted(values: Array, weight: Array) -> tuple[Array, Array]:
    """Mean (p, V) and covariance (p, p, V) of values (m, p, V) with weights (m, V)."""
    mean = jnp.einsum("mpv,mv->pv", values, weight)
    away = values - mean
    return mean, jnp.einsum("mpv,mrv,mv->prv", away, away, weight)


@partial(jax.jit, static_argnames=("problem",))
def refine(problem: InverseProblem, voxels: Voxels, u: Array) -> Refined:
    """Local posterior of a chunk of voxels from a first answer.

    Parameters
    ----------
    problem : InverseProblem
    voxels : Voxels
    u : Array, shape (p, V)
        First answer in unconstrained space.
    """
    first = _to_mode(problem, u, voxels, _metric_at(problem, u, voxels), 2)
    metric = _metric_at(problem, first.u, voxels)
    end = _to_mode(problem, first.u, voxels, metric, _STEPS - 2)
    newton = linalg.solve(end.hessian, end.gradient[:, None])[:, 0]
    decrement = jnp.sqrt(jnp.maximum(jnp.sum(newton * end.gradient, axis=0), 0.0))
    mean, factor = end.u, linalg.cholesky(linalg.inverse(end.hessian))
    for _ in range(_PASSES):
        found = _moments(problem, mean, factor, voxels, metric)
        mean, factor = found.u_mean, found.u_factor
        metric = _metric_at(problem, mean, voxels)
    fitted = problem.predict(unconstrained.to_theta(problem, end.u), jnp.asarray(voxels.known))
    residual = voxels.data - fitted
    return Refined(
        mode=end.u,
        u_mean=found.u_mean,
        u_factor=found.u_factor,
        mean=found.mean,
        covariance=found.covariance,
        fitted=fitted,
        chi2=likelihood.product(metric, residual, residual),
        converged=(decrement < 0.1) & jnp.all(jnp.isfinite(found.u_mean), axis=0),
        departure=found.departure,
    )
