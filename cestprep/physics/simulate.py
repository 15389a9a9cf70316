"""Signals of a protocol by any of the solvers, any voxel count.

Only distinct preparations, recoveries and readouts are computed, each as an affine map of the
longitudinal state; a scan over volumes then strings them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from cestprep.physics import affine, bloch
from cestprep.physics.pools import Parameters, PoolModel
from cestprep.physics.protocol import Protocol, Readout
from cestprep.physics.solvers import SOLVERS, unsuitable

Key = TypeVar("Key", bound=Hashable)


def _unique(items: Sequence[Key]) -> tuple[list[Key], np.ndarray]:
    """Distinct items in order of appearance, and the place of each item among them."""
    places = {item: i for i, item in enumerate(dict.fromkeys(items))}
    return list(places), np.array([places[item] for item in items])


def _lift(model: PoolModel, p: Parameters, ones: Array) -> Array:
    """Map from the carried longitudinal state to the full state vector, ``(n, K + 1, V)``."""
    n, z = bloch.n_states(model), bloch.z_indices(model)
    k = 1 if model.pools_rebalance else len(z)
    lift = jnp.zeros((n, k + 1, *ones.shape), ones.dtype).at[z[0], 0].set(ones)
    for i, (pool, place) in enumerate(zip(model.ordered, z[1:], strict=True), start=1):
        if model.pools_rebalance:
            lift = lift.at[place, 0].set(p[f"{pool.name}.fraction"])
        else:
            lift = lift.at[place, i].set(ones)
    return lift


def _flip(model: PoolModel, p: Parameters, readout: Readout, ones: Array) -> Array:
    """One shot's effect on the carried state; a z-only semisolid pool is left alone."""
    angle = math.radians(readout.flip_angle_deg)
    cosine = jnp.cos(angle * (p["b1_scale"] if model.b1_scales_readout else ones))
    n = 1 if model.pools_rebalance else 1 + len(model.pools)
    flipped = 1 + len(model.spin_pools)
    flip = affine.identity(n, ones[None, None])
    for i in range(min(n, flipped)):
        flip = flip.at[i, i].set(cosine)
    return flip


def _readout_map(model: PoolModel, p: Parameters, readout: Readout, ones: Array) -> Array:
    if readout.reset is not None:
        equilibrium = readout.reset * _equilibrium(model, p, ones)
        n = equilibrium.shape[0]
        return jnp.zeros((n, n + 1, *ones.shape), ones.dtype).at[:, -1].set(equilibrium)
    shot = _flip(model, p, readout, ones)
    if readout.shot_interval_s:
        shot = affine.compose(_recovery_map(model, p, readout.shot_interval_s), shot)
    return affine.power(shot, readout.n_shots)


def _recovery_map(model: PoolModel, p: Parameters, duration_s: float) -> Array:
    generator = bloch.longitudinal_generator(model, p, water_only=model.pools_rebalance)
    return affine.exponential(generator, duration_s)


def _equilibrium(model: PoolModel, p: Parameters, ones: Array) -> Array:
    if model.pools_rebalance:
        return ones[None]
    return jnp.stack([ones, *(p[f"{q.name}.fraction"] for q in model.ordered)])


def _preparation_maps(
    model: PoolModel, p: Parameters, protocol: Protocol, solver: str, ones: Array
) -> Array:
    """Map of every volume's preparation of the carried state, ``(N, K, K + 1, V)``."""
    preparations = [v.preparation for v in protocol.volumes]
    distinct, _ = _unique([q for q in preparations if q])
    places = {(): 0} | {q: i for i, q in enumerate(distinct, start=1)}
    lift = _lift(model, p, ones)
    k = lift.shape[1] - 1
    maps = [affine.identity(k, ones[None, None])[:, :, None]]
    if distinct:
        maps.append(SOLVERS[solver](model, p, protocol, distinct, lift, k))
    stacked = jnp.moveaxis(jnp.concatenate(maps, axis=2), 2, 0)
    return stacked[np.array([places[q] for q in preparations])]


def signal(protocol: Protocol, model: PoolModel, p: Parameters, solver: str = "general") -> Array:
    """Longitudinal water magnetisation sampled by each volume.

    Parameters
    ----------
    protocol : Protocol
    model : PoolModel
    p : mapping of str to Array, each of shape (V,) or ()
        SI units inside; see `cestprep.physics.pools`.
    solver : str
        One of `cestprep.physics.solvers.SOLVERS`; `solvers.choose` says which is good.

    Returns
    -------
    Array, shape (n_volumes, V)
        In units of ``m0``.

    Raises
    ------
    KeyError
        If a parameter of the model is missing.
    ValueError
        If the solver cannot play the protocol or does not know the pools.
    """
    missing = [name for name in model.parameter_names if name not in p]
    if missing:
        raise KeyError(f"parameters missing for this pool model: {', '.join(missing)}")
    why = unsuitable(solver, protocol, model)
    if why:
        raise ValueError(why)
    return _signal(protocol, model, solver, _broadcast(p), None)


def pairwise_signal(
    protocol: Protocol, model: PoolModel, p: Parameters, measured: Array, solver: str = "general"
) -> Array:
    """Signal with each volume started from the measured one before it.

    Volumes are then independent of each other, which the literature uses for speed in training;
    the noise of a volume enters the prediction of the next, so this is not a likelihood of the
    data.  Source: Finkelstein 2025, Commun. Phys. 8:164.

    Parameters
    ----------
    protocol, model, p, solver
        As for `signal`; pools must be back in balance after each readout.
    measured : Array, shape (n_volumes, V)
        In units of ``m0``.

    Returns
    -------
    Array, shape (n_volumes, V)

    Raises
    ------
    ValueError
        If pools are out of balance, so that the state is not one number.
    """
    if not model.pools_rebalance:
        raise ValueError("pairwise signals need pools_rebalance: true")
    return _signal(protocol, model, solver, _broadcast(p), measured)


def _broadcast(p: Parameters) -> dict[str, Array]:
    """Parameters that all have shape (V,)."""
    shape = jnp.broadcast_shapes(*(jnp.shape(v) for v in p.values()))
    ones = jnp.ones(shape if shape else (1,), jnp.result_type(*p.values()))
    return {name: value * ones for name, value in p.items()}


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _signal(
    protocol: Protocol,
    model: PoolModel,
    solver: str,
    p: dict[str, Array],
    measured: Array | None,
) -> Array:
    """Signal, each volume after the simulated or the measured one before it."""
    ones = jnp.ones_like(p["t1"])
    volumes = protocol.volumes
    preparation = _preparation_maps(model, p, protocol, solver, ones)
    recoveries, which_recovery = _unique([v.recovery_s for v in volumes])
    recovery = jnp.stack([_recovery_map(model, p, t) for t in recoveries])
    readouts, which_readout = _unique([replace(v.readout, sampled=True) for v in volumes])
    readout = jnp.stack([_readout_map(model, p, r, ones) for r in readouts])

    def step(state: Array, volume: tuple[Array, ...]) -> tuple[Array, Array]:
        prepare, rec, read, *seen = volume
        sampled = affine.apply(prepare, affine.apply(recovery[rec], state))
        left = seen[0][None] if seen else sampled
        return affine.apply(readout[read], left), sampled[0]

    reset = volumes[0].readout.reset
    start = _equilibrium(model, p, ones) * (1.0 if reset is None else reset)
    _, z = jax.lax.scan(
        step,
        start,
        (
            preparation,
            jnp.asarray(which_recovery),
            jnp.asarray(which_readout),
            *([] if measured is None else [measured]),
        ),
    )
    sampled = np.array(protocol.sampled)
    return (z if sampled.all() else z[sampled]) * p["m0"]


@partial(_signal.defjvp, symbolic_zeros=True)
def _signal_jvp(
    protocol: Protocol,
    model: PoolModel,
    solver: str,
    primals: tuple[dict[str, Array], Array | None],
    tangents: tuple[dict[str, Any], Any],
) -> tuple[Array, Array]:
    """Derivatives voxel by voxel, for the parameters that vary only.

    Every voxel's signal depends on its own parameters, so its Jacobian is found in one pass by
    forward mode with unit tangents.  What is left is linear: reverse mode transposes a sum instead
    of walking back through matrix exponentials.
    """
    (p, measured), (slopes, _) = primals, tangents  # measured signals are data
    active = [k for k in p if not isinstance(slopes[k], SymbolicZero)]

    def of(values: Array) -> Array:
        varied = p | dict(zip(active, values, strict=True))
        return _signal.fun(protocol, model, solver, varied, measured)

    values = jnp.stack([p[k] for k in active])
    z, jacobian = value_and_tangents(of, values)
    change = [jacobian[i] * slopes[k] for i, k in enumerate(active)]
    return z, sum(change[1:], change[0])


def value_and_tangents(fun: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """Value and derivatives by each row of ``x`` where voxels (last axis) are independent.

    Parameters
    ----------
    fun : callable
        From shape (k, V) to shape (n, V).
    x : Array, shape (k, V)

    Returns
    -------
    tuple of Array
        Shapes (n, V) and (k, n, V).
    """
    basis = jnp.broadcast_to(jnp.eye(x.shape[0], dtype=x.dtype)[:, :, None], (x.shape[0], *x.shape))
    return jax.vmap(lambda t: jax.jvp(fun, (x,), (t,)), out_axes=(None, 0))(basis)
