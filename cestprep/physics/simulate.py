"""Signals of a protocol: exact N-pool Bloch-McConnell, any voxel count.

Only distinct saturations, recoveries and readouts are computed, each as an affine map of the
longitudinal state; a scan over volumes then strings them together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.physics import affine, bloch
from cestprep.physics.pools import Parameters, PoolModel
from cestprep.physics.protocol import Protocol, Readout, Saturation

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


def _saturation_maps(
    model: PoolModel,
    p: Parameters,
    frequency_mhz: float,
    saturations: list[Saturation],
    ones: Array,
) -> Array:
    """Maps of the carried state, ``(K, K + 1, S, V)``, for saturations that share one train."""
    n_pulses, duration, delay, spin_lock = saturations[0].train
    dtype = ones.dtype

    def field(b1_ut: list[float], offset_ppm: list[float]) -> bloch.Field:
        columns = [jnp.asarray(v, dtype)[:, None] for v in (b1_ut, offset_ppm)]
        return bloch.Field.of(columns[0], columns[1], frequency_mhz, p)

    offsets = [s.offset_ppm for s in saturations]
    pulse = bloch.constant_field_map(
        model, p, field([s.b1_ut for s in saturations], offsets), duration, spin_lock == "ideal"
    )
    train = pulse
    if n_pulses > 1:
        distinct, place = _unique(offsets)
        gap_field = field([0.0] * len(distinct), distinct)
        gap = bloch.constant_field_map(model, p, gap_field, delay)[:, :, place]
        train = affine.compose(pulse, affine.power(affine.compose(gap, pulse), n_pulses - 1))
    lift = _lift(model, p, ones)
    whole = affine.compose(train, lift[:, :, None])
    carried = bloch.z_indices(model)[: lift.shape[1] - 1]
    return whole[jnp.asarray(carried)]


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
    shot = _flip(model, p, readout, ones)
    if readout.shot_interval_s:
        shot = affine.compose(_recovery_map(model, p, readout.shot_interval_s), shot)
    return affine.power(shot, readout.n_shots)


def _recovery_map(model: PoolModel, p: Parameters, duration_s: float) -> Array:
    return affine.exponential(bloch.longitudinal_generator(model, p), duration_s)


def _equilibrium(model: PoolModel, p: Parameters, ones: Array) -> Array:
    if model.pools_rebalance:
        return ones[None]
    return jnp.stack([ones, *(p[f"{q.name}.fraction"] for q in model.ordered)])


def _volume_saturations(model: PoolModel, p: Parameters, protocol: Protocol, ones: Array) -> Array:
    """Map of every volume's saturation (identity where there is none), ``(N, K, K + 1, V)``."""
    wanted = [volume.saturation for volume in protocol.volumes]
    trains, _ = _unique([s.train for s in wanted if s is not None])
    k = 1 if model.pools_rebalance else 1 + len(model.pools)
    maps = [affine.identity(k, ones[None, None])[:, :, None]]
    places: dict[Saturation | None, int] = {None: 0}
    for train in trains:
        group, _ = _unique([s for s in wanted if s is not None and s.train == train])
        for saturation in group:
            places[saturation] = len(places)
        maps.append(_saturation_maps(model, p, protocol.frequency_mhz, group, ones))
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
    saturation = _volume_saturations(model, p, protocol, ones)
    recoveries, which_recovery = _unique([v.recovery_s for v in volumes])
    recovery = jnp.stack([_recovery_map(model, p, t) for t in recoveries])
    readouts, which_readout = _unique([v.readout for v in volumes])
    readout = jnp.stack([_readout_map(model, p, r, ones) for r in readouts])

    def step(state: Array, volume: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        sat, rec, read = volume
        sampled = affine.apply(sat, affine.apply(recovery[rec], state))
        return affine.apply(readout[read], sampled), sampled[0]

    _, z = jax.lax.scan(
        step,
        _equilibrium(model, p, ones),
        (saturation, jnp.asarray(which_recovery), jnp.asarray(which_readout)),
    )
    return z * p["m0"]
