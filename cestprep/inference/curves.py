"""Voxelwise fits of signal equations with a few parameters, with SDs: T1, T2, B0 and B1 scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import linalg
from cestprep.inference.chunks import Progress, over_chunks
from cestprep.inference.least_squares import (
    Options,
    State,
    at_bound,
    best_end,
    eye_like,
    minimize,
    normal_equations,
)
from cestprep.physics.simulate import value_and_tangents

#: Signals and starting points that fit into a core's cache.
_CHUNK = 8192
#: Noise that float32 alone makes, relative to a voxel's largest signal.
_LEAST_NOISE = 1e-5


@dataclass(frozen=True)
class Curve:
    """A signal equation with bounded parameters; hashed by identity of its function.

    Attributes
    ----------
    names : tuple of str
    low, high : tuple of float
        Bounds, with signals scaled to a largest one of 1 (or as the caller scales them).
    predict : callable
        ``(theta (p, V), sd (V,)) -> (n, V)``; ``sd`` is the noise on the scale of the signals.
    starts : tuple of tuple of float
        Starting points, in as many groups of equal size as there are regions that may hold a
        minimum of their own; each voxel begins at the best of each group, and the best end counts.
    groups : int
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    predict: Callable[[Array, Array], Array]
    starts: tuple[tuple[float, ...], ...]
    groups: int = 1


class CurveFit(NamedTuple):
    """Result, voxels last, in the units of the curve.

    Attributes
    ----------
    theta, sd : ndarray, shape (p, V)
    r_squared : ndarray, shape (V,)
        Share of the signals' variance that the fit explains.
    converged, at_bound : ndarray of bool, shape (V,)
    fitted : ndarray, shape (n, V)
    """

    theta: np.ndarray
    sd: np.ndarray
    r_squared: np.ndarray
    converged: np.ndarray
    at_bound: np.ndarray
    fitted: np.ndarray


def fit_curve(
    curve: Curve,
    signals: np.ndarray,
    noise_sd: float | None = None,
    progress: Progress | None = None,
    *,
    floor_sd: float | None = None,
    seen: np.ndarray | None = None,
) -> CurveFit:
    """Fit a curve in each voxel.

    Parameters
    ----------
    curve : Curve
    signals : ndarray, shape (n, V)
        Finite; voxels without a positive signal fail (`converged` is False).
    noise_sd : float or None
        SD of one signal, same unit; None: from the residual, with n - p degrees of freedom.
    progress : Progress, optional
    floor_sd : float, optional
        SD of the noise before magnitudes were taken and interpolated, which lifts weak signals;
        ``noise_sd`` where it is not given.
    seen : ndarray of bool, shape (n, V), optional
        Which signals there are; all unless given. Voxels with too few of them fail.

    Returns
    -------
    CurveFit
        ``theta`` of parameters that scale with the signal is on the scale of ``signals / max``;
        only ratios and the other parameters have a meaning.
    """
    data = np.asarray(signals, np.float32)
    weight = np.ones_like(data) if seen is None else seen.astype(np.float32)
    data = np.where(weight > 0, data, 0)
    scale = np.maximum(data.max(axis=0), np.finfo(np.float32).tiny)
    sd = np.full(data.shape[1], np.nan if noise_sd is None else noise_sd, np.float32) / scale
    lifted = (noise_sd or 0.0) if floor_sd is None else floor_sd
    floor = np.full(data.shape[1], lifted, np.float32) / scale
    run = partial(_fit_chunk, curve, np.array(curve.starts, np.float32).T)
    fit = CurveFit(*over_chunks(run, [data / scale, sd, floor, weight], _CHUNK, progress))
    enough = (data.max(axis=0) > 0) & (weight.sum(axis=0) > len(curve.names))
    return fit._replace(converged=fit.converged & enough)


@partial(jax.jit, static_argnames="curve")
def _fit_chunk(
    curve: Curve, points: Array, data: Array, sd: Array, floor: Array, weight: Array
) -> tuple[Array, ...]:
    low, high = (jnp.asarray(b, data.dtype)[:, None] for b in (curve.low, curve.high))
    width = high - low

    def predict(u: Array) -> Array:
        return weight * curve.predict(low + u * width, floor)

    table = curve.predict(points, jnp.zeros(()))
    count = jnp.sum(weight, axis=0)
    dof = jnp.maximum(count - len(curve.names), 1.0)

    linearize = partial(value_and_tangents, predict)

    def fit(group: tuple[Array, Array]) -> tuple[State, Array]:
        u = (_nearest(*group, data, weight) - low) / width
        return minimize(
            linearize, data, u, len(data) - len(curve.names), Options(max_iterations=60)
        )

    ends, ended = jax.lax.map(fit, (_split(points, curve.groups), _split(table, curve.groups)))
    end, converged = best_end(ends, ended)
    hessian, _ = normal_equations(end.jacobian, end.residual)
    left = end.cost / dof
    variance = jnp.where(jnp.isnan(sd), left, sd**2) + _LEAST_NOISE**2
    ridge = 12.0 * variance * eye_like(hessian)
    covariance = variance * linalg.inverse(hessian + ridge)  # the box adds its own information
    spread = jnp.sum(weight * (data - jnp.sum(data, axis=0) / count) ** 2, axis=0)
    return (
        low + end.u * width,
        jnp.sqrt(jnp.einsum("iiv->iv", covariance)) * width,
        1 - end.cost / jnp.maximum(spread, _LEAST_NOISE**2),
        converged,
        at_bound(end.u),
        end.residual + data,
    )


def _split(columns: Array, groups: int) -> Array:
    """Columns ``(a, m)`` in groups ``(groups, a, m / groups)``."""
    return jnp.moveaxis(columns.reshape(len(columns), groups, -1), 1, 0)


def _nearest(points: Array, table: Array, data: Array, weight: Array) -> Array:
    """Of points ``(p, m)`` with signals ``(n, m)``, the one nearest to each voxel's signals."""
    distance = 0.5 * (table**2).T @ weight - table.T @ data
    return points[:, jnp.argmin(distance, axis=0)]
