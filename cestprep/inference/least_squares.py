"""Bounded Levenberg-Marquardt, many voxels at once, with exact forward-mode Jacobians.

Optimistix solves one problem with QR from LAPACK, whose batched calls can deadlock on XLA:CPU;
here the systems have at most a handful of unknowns and are eliminated in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import qmc

from cestprep.inference import linalg
from cestprep.inference.options import within
from cestprep.inference.problem import InverseProblem


@dataclass(frozen=True)
class Options:
    """Settings of the fit.

    Attributes
    ----------
    n_screened : int
        Starting points tried per voxel by their misfit alone (a Halton sequence in the box).
    n_starts : int
        Best of these from which the optimiser is run.
    max_iterations : int
    converged_sd : float
        Converged when the next undamped step is shorter than this many SDs of the estimate.
    chunk_memory_mb : float or None
        Memory for the propagators of the voxels handled together; None: what suits the device.
    """

    n_screened: int = 32
    n_starts: int = 3
    max_iterations: int = 40
    converged_sd: float = 0.05
    chunk_memory_mb: float | None = None

    def __post_init__(self) -> None:
        within(1, 1e4, n_starts=self.n_starts)
        within(self.n_starts, 1e5, n_screened=self.n_screened)
        within(1, 1e4, max_iterations=self.max_iterations)
        within(1e-6, 1, converged_sd=self.converged_sd)
        within(1e-3, 1e6, chunk_memory_mb=self.chunk_memory_mb)


#: Damping at which a voxel is left alone: no step improves it any more in this arithmetic.
_STUCK = 1e4


class Fit(NamedTuple):
    """Result for a chunk; package units, voxels last."""

    theta: Array
    covariance: Array
    fitted: Array
    residual_norm: Array
    converged: Array
    at_bound: Array


class State(NamedTuple):
    """Where Levenberg-Marquardt stands, voxels last."""

    u: Array  # position in the unit box, (p, V)
    damping: Array
    cost: Array
    residual: Array
    jacobian: Array
    step_sd: Array
    iteration: Array


def starting_points(n_parameters: int, count: int) -> np.ndarray:
    """Deterministic low-discrepancy points in the open unit box, shape (count, p)."""
    halton: np.ndarray = qmc.Halton(n_parameters, scramble=False).random(count + 1)[1:]
    return 0.02 + 0.96 * halton


def normal_equations(jacobian: Array, residual: Array) -> tuple[Array, Array]:
    """``J^T J`` (p, p, V) and ``J^T r`` (p, V) of a Jacobian (p, n, V)."""
    hessian = jnp.einsum("inv,jnv->ijv", jacobian, jacobian)
    return hessian, jnp.einsum("inv,nv->iv", jacobian, residual)


def _newton_step(hessian: Array, gradient: Array, u: Array, damping: Array) -> tuple[Array, Array]:
    """Damped step with bounds held, and the gradient of the parameters left free."""
    held = ((u <= 0) & (gradient > 0)) | ((u >= 1) & (gradient < 0))
    free = ~held
    pair = free[:, None] & free[None]
    gradient = jnp.where(free, gradient, 0.0)
    diag = jnp.einsum("iiv->iv", hessian)
    ridge = diag * damping + 1e-12 * jnp.max(diag, axis=0) + float(np.finfo(u.dtype).tiny)
    damped = jnp.where(pair, hessian, 0.0) + linalg.diagonal(jnp.where(free, ridge, 1.0))
    return -linalg.solve(damped, gradient[:, None])[:, 0], gradient


def _floor(dtype: np.dtype) -> float:
    """Signal error of one volume that arithmetic alone can cause."""
    return 100.0 * float(np.finfo(dtype).eps)


def minimize(
    linearize: Callable[[Array], tuple[Array, Array]],
    data: Array,
    u: Array,
    dof: float,
    options: Options,
) -> tuple[State, Array]:
    """Levenberg-Marquardt from ``u``; returns the last state and who converged.

    Parameters
    ----------
    linearize : callable
        ``u (p, V) -> fitted (n, V), jacobian (p, n, V)``, in the unit box.
    data : Array, shape (n, V)
    u : Array, shape (p, V)
    dof : float
        Degrees of freedom of the residual.
    options : Options
    """

    def evaluate(u: Array) -> tuple[Array, Array, Array]:
        fitted, jacobian = linearize(u)
        residual = fitted - data
        return jnp.sum(residual**2, axis=0), residual, jacobian

    def step_in_sd(step: Array, gradient: Array, cost: Array) -> Array:
        variance = cost / dof + _floor(data.dtype) ** 2
        return jnp.sqrt(jnp.maximum(-jnp.sum(step * gradient, axis=0), 0.0) / variance)

    def body(s: State) -> State:
        hessian, gradient = normal_equations(s.jacobian, s.residual)
        step, _ = _newton_step(hessian, gradient, s.u, s.damping)
        u = jnp.clip(s.u + step, 0.0, 1.0)
        cost, residual, jacobian = evaluate(u)
        active = unsettled(s)  # a settled voxel stays as it is, whatever its neighbours do
        better = active & (cost < s.cost)
        u, residual, jacobian = (
            jnp.where(better, new, old)
            for new, old in ((u, s.u), (residual, s.residual), (jacobian, s.jacobian))
        )
        cost = jnp.where(better, cost, s.cost)
        changed = jnp.clip(jnp.where(better, s.damping * 0.2, s.damping * 6.0), 1e-5, _STUCK)
        damping = jnp.where(active, changed, s.damping)
        bare, held_gradient = _newton_step(*normal_equations(jacobian, residual), u, 0 * damping)
        return State(
            u,
            damping,
            cost,
            residual,
            jacobian,
            step_in_sd(bare, held_gradient, cost),
            s.iteration + 1,
        )

    def unsettled(s: State) -> Array:
        return (s.step_sd > 0.1 * options.converged_sd) & (s.damping < _STUCK)

    def unfinished(s: State) -> Array:
        return (s.iteration < options.max_iterations) & jnp.any(unsettled(s))

    # with a Jacobian of zero the first step stays put, so the model is traced only once
    nothing = jnp.zeros_like(data[0])
    start = State(
        u,
        nothing + 1e-2,
        nothing + jnp.inf,
        jnp.zeros_like(data),
        jnp.zeros((u.shape[0], *data.shape), data.dtype),
        nothing + jnp.inf,
        jnp.zeros((), jnp.int32),
    )
    end = jax.lax.while_loop(unfinished, body, start)
    return end, (end.step_sd <= options.converged_sd) & jnp.isfinite(end.cost)


def best_end(ends: State, converged: Array) -> tuple[State, Array]:
    """Of several runs, stacked in front, the one of least cost in each voxel."""
    best = jnp.argmin(jnp.where(jnp.isfinite(ends.cost), ends.cost, jnp.inf), axis=0)

    def pick(x: Array) -> Array:
        index = best.reshape(1, *[1] * (x.ndim - 2), -1)
        return jnp.take_along_axis(x, index, axis=0)[0]

    picked = (pick(x) if x.ndim > 1 else jnp.max(x) for x in ends)  # a count is of no voxel
    return State(*picked), pick(converged)


def at_bound(u: Array) -> Array:
    """Voxels ``(V,)`` of which a parameter is at an end of the unit box."""
    return jnp.any((u < 1e-3) | (u > 1 - 1e-3), axis=0)


def degrees_of_freedom(problem: InverseProblem) -> float:
    """Volumes minus fitted parameters, minus the scale that normalisation takes from the data."""
    scale = 0 if problem.normalization == "free-scale" else 1
    return problem.protocol.n_volumes - len(problem.free) - scale


def _covariance(
    problem: InverseProblem,
    jacobian: Array,
    fitted: Array,
    cost: Array,
    noise: Array | None,
    known_tangents: Array | None,
    known_covariance: Array,
) -> Array:
    """Covariance in the unit box: noise, shared M0 noise, and the known parameters' own.

    Fisher information of the fit plus that of the box (a uniform prior has variance 1/12), which
    matters only where the data say next to nothing.
    """
    dof: Array | float = degrees_of_freedom(problem)
    fisher, _ = normal_equations(jacobian, jnp.zeros_like(fitted))
    hat = jnp.einsum("inv,nv->iv", jacobian, fitted)
    if problem.normalization == "m0":
        # d_i / m0 has covariance s^2 (1 + z z^T / n_m0) over the other volumes
        n_m0 = sum(problem.protocol.is_m0)
        z2 = jnp.sum(fitted**2, axis=0) - n_m0
        explained = jnp.sum(hat * linalg.solve(_regular(fisher), hat[:, None])[:, 0], axis=0)
        dof = dof + 1 - n_m0 + jnp.maximum(z2 - explained, 0.0) / n_m0
    variance = (cost / dof if noise is None else noise**2) + _floor(fitted.dtype) ** 2
    posterior = linalg.inverse(fisher + 12.0 * variance * eye_like(fisher))
    meat = fisher + 12.0 * variance * eye_like(fisher)
    if problem.normalization == "m0":
        meat = meat + hat[:, None] * hat[None] / sum(problem.protocol.is_m0)
    total = variance * _sandwich(posterior, meat)
    if known_tangents is not None:
        gain = jnp.einsum("inv,qnv->iqv", jacobian, known_tangents)
        gain = -jnp.einsum("ijv,jqv->iqv", posterior, gain)
        total = total + jnp.einsum("iqv,qrv,jrv->ijv", gain, known_covariance, gain)
    return 0.5 * (total + jnp.swapaxes(total, 0, 1))


def eye_like(matrix: Array) -> Array:
    """Unit matrices of the shape ``(p, p, V)`` of others."""
    return jnp.broadcast_to(jnp.eye(matrix.shape[0], dtype=matrix.dtype)[:, :, None], matrix.shape)


def _regular(matrix: Array) -> Array:
    return matrix + float(np.finfo(matrix.dtype).eps) * eye_like(matrix)


def _sandwich(bread: Array, meat: Array) -> Array:
    return jnp.einsum("ijv,jkv,klv->ilv", bread, meat, bread)


class Given(NamedTuple):
    """What a fit is given for a chunk of voxels, voxels last.

    Attributes
    ----------
    data : Array, shape (n_volumes, V)
        Normalised by the problem.
    known : Array, shape (q, V)
    known_covariance : Array, shape (q, q, V)
    noise : Array, shape (V,), or None
        SD of one volume over the voxel's scale; None: what the residual leaves.
    start : Array, shape (p, V), or None
        Where to begin, package units; None: at the best of many places.
    """

    data: Array
    known: Array
    known_covariance: Array
    noise: Array | None = None
    start: Array | None = None


@partial(jax.jit, static_argnames=("problem", "options"))
def fit_chunk(problem: InverseProblem, options: Options, given: Given) -> Fit:
    """Least-squares fit of a chunk of voxels."""
    data, known = given.data, given.known
    low, high = (jnp.asarray(b, data.dtype)[:, None] for b in problem.bounds.T)
    width = high - low

    def linearize(u: Array) -> tuple[Array, Array]:
        fitted, jacobian = problem.linearize(low + u * width, known)
        return fitted, jacobian * width[:, :, None]

    def misfit(u: Array) -> Array:
        theta = low + jnp.broadcast_to(u[:, None], (u.size, data.shape[1])) * width
        return jnp.sum((problem.predict(theta, known) - data) ** 2, axis=0)

    if given.start is None:
        points = jnp.asarray(starting_points(len(problem.free), options.n_screened), data.dtype)
        order = jnp.argsort(jax.lax.map(misfit, points), axis=0)[: options.n_starts]
        starts = jnp.moveaxis(points[order], -1, 1)  # (n_starts, p, V)
    else:
        starts = jnp.clip((given.start - low) / width, 0.0, 1.0)[None]
    dof = float(degrees_of_freedom(problem))
    ends, converged = jax.lax.map(lambda u: minimize(linearize, data, u, dof, options), starts)
    end, converged = best_end(ends, converged)
    theta = low + end.u * width
    tangents = problem.known_tangents(theta, known) if known.shape[0] else None
    fitted = end.residual + data
    covariance = _covariance(
        problem, end.jacobian, fitted, end.cost, given.noise, tangents, given.known_covariance
    )
    return Fit(
        theta=theta,
        covariance=covariance * width[:, None] * width[None],
        fitted=fitted,
        residual_norm=jnp.sqrt(end.cost),
        converged=converged & jnp.all(jnp.isfinite(theta), axis=0),
        at_bound=at_bound(end.u),
    )
