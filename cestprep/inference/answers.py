"""Answers of a trained network: asked, refined on each voxel's data, flagged where not to trust."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import paper, unconstrained
from cestprep.inference.chunks import (
    Progress,
    over_chunks,
    phase,
    predict_all,
    replaced,
    voxels_per_chunk,
)
from cestprep.inference.estimate import Estimate, Validity, high_nrmse
from cestprep.inference.interpolation import mesh
from cestprep.inference.least_squares import starting_points
from cestprep.inference.likelihood import Departure, Metric, Voxels
from cestprep.inference.measured import GAUSSIAN_QUANTILE, MISFIT_P, Measured, distance_probability
from cestprep.inference.network import Network, features, infer
from cestprep.inference.paper import PaperNetwork
from cestprep.inference.place import Place
from cestprep.inference.problem import InverseProblem
from cestprep.inference.refine import Local, Mode, climb, locate, moments, weighted
from cestprep.inference.residual import departures

#: A density this far (SD of the log-ratio) from the Gaussian of its moments is not Gaussian.
MOST_DEPARTURE = 1.0
#: Moments this far (SD) from those their box was made for are sought in another box.
_MOST_MOVED = 0.3
_BOXES = 3
#: Nearer to an end of its range than this share of it a parameter is at its bound.
_END = 1e-3
_FIRST_STEPS, _MORE_STEPS = 2, 12
#: Farther than this (SD) from the mode the metric of residuals is taken anew.
_MOST_CLIMBED = 1.0
#: Places looked at where the network's answer leads nowhere, and those a search begins at.
_SCREENED, _STARTS = 32, 3
#: Inputs this many SD from the mean in training are outside its range.
_FARTHEST_INPUT = 6.0


def plain(measured: Measured, voxels: Voxels, network: Network) -> Estimate:
    """What the network says, with the signal simulated from it."""
    problem = measured.problem
    mean, factor = infer(network, voxels)
    theta, covariance = _theta_moments(problem, mean, factor)
    at_mean = np.asarray(unconstrained.to_theta(problem, jnp.asarray(mean)))
    return measured.finish(
        theta,
        covariance,
        predict_all(problem, at_mean, measured.known),
        at_bound=_at_bound(mean),
        departure=departures(measured, at_mean),
        interval=_interval(problem, mean, factor),
        codes={Validity.OUT_OF_RANGE: outside_range(network, voxels)},
    )


def refined(
    measured: Measured, voxels: Voxels, network: Network, progress: Progress | None = None
) -> Estimate:
    """Answers refined on each voxel's own data; those that still misfit are sought anew."""
    problem = measured.problem
    mode, local = local_posteriors(measured, voxels, infer(network, voxels)[0], progress)
    theta = np.asarray(unconstrained.to_theta(problem, jnp.asarray(mode.u)))
    failed = ~(mode.converged & np.isfinite(local.u_mean).all(axis=0))
    return measured.finish(
        local.mean,
        local.covariance,
        predict_all(problem, theta, measured.known),
        at_bound=_at_bound(mode.u),
        departure=Departure(mode.chi2, mode.scores),
        interval=(local.lower, local.upper),
        codes={
            Validity.NOT_CONVERGED: failed,
            Validity.OUT_OF_RANGE: outside_range(network, voxels, maps_only=True),
            Validity.NOT_GAUSSIAN: local.departure > MOST_DEPARTURE,
        },
    )


def published(measured: Measured, voxels: Voxels, network: PaperNetwork) -> Estimate:
    """What a network of `cestprep.inference.paper` says."""
    problem = measured.problem
    theta, covariance = paper.infer(problem, network, voxels)
    low, high = problem.bounds.T[:, :, None]
    share = (theta - low) / (high - low)
    return measured.finish(
        theta,
        covariance,
        predict_all(problem, theta, measured.known),
        at_bound=((share < _END) | (share > 1 - _END)).any(axis=0),
        departure=departures(measured, theta),
    )


def local_posteriors(
    measured: Measured, voxels: Voxels, first: np.ndarray, progress: Progress | None = None
) -> tuple[Mode, Local]:
    """Modes and moments of the posteriors near first answers ``(p, F)``, unconstrained."""
    mode = _to_modes(measured, voxels, first, phase(progress, "refinement"))
    return mode, _all_moments(measured.problem, voxels, mode, progress)


def places(
    problem: InverseProblem, voxels: Voxels, posteriors: tuple[Mode, Local], theta: np.ndarray
) -> Place:
    """Where parameters ``(p, F)`` lie in posteriors that `local_posteriors` found."""
    mode, local = posteriors
    found: Place = over_chunks(
        lambda *chunk: locate(problem, *_with_metric(chunk), *chunk[5:]),
        [*voxels, mode.along, local.u_mean, local.u_factor, theta.astype(voxels.data.dtype)],
        voxels_per_chunk(problem, None, voxels.data.dtype),
    )
    return found


def _climb(
    problem: InverseProblem, voxels: Voxels, u: Any, steps: int, progress: Progress | None = None
) -> Mode:
    size = voxels_per_chunk(problem, None, u.dtype)
    found: Mode = over_chunks(
        lambda *chunk: climb(problem, Voxels(*chunk[:4]), chunk[4], steps),
        [*voxels, u],
        size,
        progress,
    )
    return found


def _to_modes(
    measured: Measured, voxels: Voxels, first: np.ndarray, progress: Progress | None
) -> Mode:
    """Modes near first answers; those far off or misfitting are sought again, from everywhere."""
    problem = measured.problem
    mode = _climb(problem, voxels, first, _FIRST_STEPS, progress)
    slow = np.flatnonzero(~mode.converged | ~(mode.moved < _MOST_CLIMBED))
    if slow.size:
        again = _climb(problem, voxels.take(slow), mode.u[:, slow], _MORE_STEPS)
        mode = replaced(mode, slow, again)
    poor = np.flatnonzero(~mode.converged | misfits(measured, mode.chi2))
    if not poor.size:
        return mode
    part = voxels.take(poor)
    for start in _likeliest(problem, part):
        far = _climb(problem, part, start, _MORE_STEPS)
        other = _climb(problem, part, far.u, _FIRST_STEPS)  # with the metric of that place
        old = mode.converged[poor], mode.chi2[poor]
        better = other.converged & (~old[0] | (other.chi2 < old[1]))
        mode = replaced(mode, poor[better], jax.tree.map(lambda x, b=better: x[..., b], other))
    return mode


def _likeliest(problem: InverseProblem, voxels: Voxels) -> np.ndarray:
    """Of places all over the box the few whose signal is nearest, unconstrained, (k, p, F)."""
    points = starting_points(len(problem.free), _SCREENED)
    low, high = problem.bounds.T[:, :, None]
    count, dtype = voxels.data.shape[1], voxels.data.dtype
    misfit = np.empty((_SCREENED, count))
    for i, point in enumerate(points):
        theta = np.broadcast_to(low + (high - low) * point[:, None], (len(point), count))
        fitted = predict_all(problem, theta.astype(dtype), np.asarray(voxels.known))
        misfit[i] = np.sum((fitted - voxels.data) ** 2, axis=0)
    best = points[np.argsort(misfit, axis=0)[:_STARTS]]  # (k, F, p)
    places: np.ndarray = np.moveaxis(np.log(best / (1 - best)), -1, 1).astype(dtype)
    return places


def misfits(measured: Measured, chi2: Any) -> np.ndarray:
    """Voxels that ask for another fit."""
    if measured.thermal:
        return distance_probability(measured.problem, chi2) < MISFIT_P
    return high_nrmse(np.sqrt(chi2), np.isfinite(chi2))


def _all_moments(
    problem: InverseProblem, voxels: Voxels, mode: Mode, progress: Progress | None
) -> Local:
    """Moments in a box around the mode, or around the first moments where it does not fit them."""
    size = voxels_per_chunk(problem, None, mode.u.dtype)

    def run(chosen: Voxels, along: Any, u: Any, factor: Any, box: int) -> Local:
        found: Local = over_chunks(
            lambda *chunk: moments(problem, *_with_metric(chunk), *chunk[5:]),
            [*chosen, along, u, factor],
            size,
            phase(progress, f"moments, box {box} of at most {_BOXES}"),
        )
        return found

    local = run(voxels, mode.along, mode.u, mode.factor, 1)
    for box in range(2, _BOXES + 1):
        moved = np.flatnonzero(local.moved > _MOST_MOVED)
        if not moved.size:
            break
        u, factor = local.u_mean[:, moved], local.u_factor[:, :, moved]
        again = run(voxels.take(moved), mode.along[..., moved], u, factor, box)
        local = replaced(local, moved, again)
    return local


def _with_metric(chunk: Sequence[Any]) -> tuple[Voxels, Metric]:
    """Voxels, and the metric of their residuals but for its determinant, of a chunk's arrays."""
    *voxels, along = chunk[:5]
    known = Voxels(*voxels)
    return known, Metric(known.noise, along, jnp.zeros(()))


def _at_bound(u: Any) -> np.ndarray:
    end = np.log((1 - _END) / _END)
    found: np.ndarray = (np.abs(np.asarray(u)) > end).any(axis=0)
    return found


def _interval(problem: InverseProblem, mean: Any, factor: Any) -> tuple[Array, Array]:
    """Central 95 % intervals of a Gaussian in unconstrained space."""
    reach = GAUSSIAN_QUANTILE * jnp.sqrt(jnp.sum(jnp.asarray(factor) ** 2, axis=1))
    low, high = (unconstrained.to_theta(problem, jnp.asarray(mean) + s * reach) for s in (-1, 1))
    return low, high


def _gaussian_nodes(p: int, per_axis: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (p, m) and weights (m,) for a standard normal density in p dimensions."""
    x, w = np.polynomial.hermite_e.hermegauss(per_axis)
    return mesh([x] * p), np.prod(mesh([w / w.sum()] * p), axis=0)


@partial(jax.jit, static_argnums=0)
def _theta_moments(problem: InverseProblem, mean: Array, factor: Array) -> tuple[Array, Array]:
    """Mean and covariance in package units of a Gaussian in unconstrained space."""
    z, w = (jnp.asarray(x, mean.dtype) for x in _gaussian_nodes(mean.shape[0]))
    u = mean[None] + jnp.einsum("ijv,jm->miv", factor, z)
    theta = jax.vmap(partial(unconstrained.to_theta, problem))(u)
    return weighted(theta, jnp.broadcast_to(w[:, None], (w.size, mean.shape[1])))


def outside_range(network: Any, voxels: Voxels, *, maps_only: bool = False) -> np.ndarray:
    """Voxels with an input farther from those of training than any was likely to be.

    For answers that are refined only maps are looked at: the signal then speaks for itself.
    """
    n, q = len(voxels.data), len(voxels.known)
    inputs = features(voxels)
    away = jnp.abs(inputs - network.centre[:, None]) * network.gain[:, None]
    away = away[n : n + q] if maps_only else away
    return np.asarray(jnp.max(away, axis=0) > _FARTHEST_INPUT)
