"""Signals of a protocol by any of the solvers, any voxel count.

Only distinct preparations, recoveries and readouts are computed, each as an affine map of the
longitudinal state; a scan over volumes then strings them together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.physics import affine, bloch, general
from cestprep.physics.pools import Parameters, PoolModel
from cestprep.physics.protocol import Protocol, Readout
from cestprep.physics.steps import Step, steps_of

#: Label of this solver in sidecars.
SOLVER = "general"

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
    angle = np.deg2rad(readout.flip_angle_deg)
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


def _preparation_maps(model: PoolModel, p: Parameters, protocol: Protocol, ones: Array) -> Array:
    """Map of every volume's preparation of the carried state, ``(N, K, K + 1, V)``."""
    wanted = [
        steps_of(v.preparation, protocol.frequency_mhz, protocol.carrier_phase)
        for v in protocol.volumes
    ]
    groups: dict[tuple[object, ...], list[tuple[Step, ...]]] = {}
    for steps in dict.fromkeys(s for s in wanted if s):
        groups.setdefault(tuple(s.shape for s in steps), []).append(steps)
    lift = _lift(model, p, ones)
    k = lift.shape[1] - 1
    maps = [affine.identity(k, ones[None, None])[:, :, None]]
    places: dict[tuple[Step, ...], int] = {(): 0}
    for group in groups.values():
        for steps in group:
            places[steps] = len(places)
        maps.append(general.preparation_maps(model, p, protocol.frequency_mhz, group, lift)[:k])
    stacked = jnp.moveaxis(jnp.concatenate(maps, axis=2), 2, 0)
    return stacked[np.array([places[s] for s in wanted])]


def signal(protocol: Protocol, model: PoolModel, p: Parameters) -> Array:
    """Longitudinal water magnetisation sampled by each volume.

    Parameters
    ----------
    protocol : Protocol
    model : PoolModel
    p : mapping of str to Array, each of shape (V,) or ()
        SI units inside; see `cestprep.physics.pools`.

    Returns
    -------
    Array, shape (n_volumes, V)
        In units of ``m0``.

    Raises
    ------
    KeyError
        If a parameter of the model is missing.
    """
    missing = [name for name in model.parameter_names if name not in p]
    if missing:
        raise KeyError(f"parameters missing for this pool model: {', '.join(missing)}")
    shape = jnp.broadcast_shapes(*(jnp.shape(v) for v in p.values()))
    ones = jnp.ones(shape if shape else (1,), jnp.result_type(*p.values()))
    p = {name: value * ones for name, value in p.items()}
    volumes = protocol.volumes
    preparation = _preparation_maps(model, p, protocol, ones)
    recoveries, which_recovery = _unique([v.recovery_s for v in volumes])
    recovery = jnp.stack([_recovery_map(model, p, t) for t in recoveries])
    readouts, which_readout = _unique([v.readout for v in volumes])
    readout = jnp.stack([_readout_map(model, p, r, ones) for r in readouts])

    def step(state: Array, volume: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        prepare, rec, read = volume
        sampled = affine.apply(prepare, affine.apply(recovery[rec], state))
        return affine.apply(readout[read], sampled), sampled[0]

    _, z = jax.lax.scan(
        step,
        _equilibrium(model, p, ones),
        (preparation, jnp.asarray(which_recovery), jnp.asarray(which_readout)),
    )
    return z * p["m0"]
