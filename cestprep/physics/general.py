"""Solver ``general``: any pools, any pulses; scaling and squaring of the full generator."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.physics import affine, bloch
from cestprep.physics.constants import GAMMA_RAD_PER_S_UT, ppm_to_rad_per_s
from cestprep.physics.pools import Parameters, PoolModel
from cestprep.physics.protocol import Block, Protocol
from cestprep.physics.steps import Played, Repeat, Step, grouped, play_together, repeats, steps_of
from cestprep.physics.waveforms import sampled

#: Largest error of a shaped pulse's sampling, in units of equilibrium magnetisation.
PULSE_TOLERANCE = 1e-6
#: Actual over nominal B1 for which the sampling of pulses is still good.
_HIGHEST_B1_SCALE = 1.3


def preparation_maps(
    model: PoolModel,
    p: Parameters,
    protocol: Protocol,
    preparations: Sequence[tuple[Block, ...]],
    lift: Array,
    n_rows: int,
    pulse_tolerance: float = PULSE_TOLERANCE,
) -> Array:
    """Maps from the carried state to longitudinal components after each preparation.

    Parameters
    ----------
    model, p
        As for `cestprep.physics.simulate.signal`; every parameter of shape (V,).
    protocol : Protocol
        Gives frequency and conventions.
    preparations : sequence of tuple of Block
        See `cestprep.physics.protocol.Volume`.
    lift : Array, shape (n, K + 1, V)
        Full state at the start as a map of the carried one.
    n_rows : int
        How many components are wanted, in the order of `bloch.z_indices`.
    pulse_tolerance : float
        Largest error of one shaped pulse, in units of equilibrium magnetisation.

    Returns
    -------
    Array, shape (n_rows, K + 1, S, V)
    """
    played = [steps_of(q, protocol.frequency_mhz, protocol.carrier_phase) for q in preparations]
    maps = grouped(
        played,
        lambda steps: tuple(s.shape for s in steps),
        lambda group: _maps_of_one_shape(
            model, p, protocol.frequency_mhz, group, lift, pulse_tolerance
        ),
    )
    return maps[:n_rows]


def _maps_of_one_shape(
    model: PoolModel,
    p: Parameters,
    frequency_mhz: float,
    preparations: Sequence[tuple[Step, ...]],
    lift: Array,
    pulse_tolerance: float,
) -> Array:
    """All longitudinal components after preparations that can be computed together."""
    played = play_together(preparations)
    maps = [
        _element(model, p, frequency_mhz, played, i, pulse_tolerance)
        for i in range(len(played.elements))
    ]
    state = jnp.broadcast_to(lift[:, :, None], (*lift.shape[:2], len(preparations), lift.shape[2]))
    for repeat in repeats(played.order):
        state = _play(model, maps, played, repeat, state)
    return state[jnp.asarray(bloch.z_indices(model))]


def _play(
    model: PoolModel, maps: list[Array], played: Played, repeat: Repeat, state: Array
) -> Array:
    """Apply a repeated stretch of steps."""
    end = repeat.start + repeat.period * repeat.count
    order = played.order[repeat.start : repeat.start + repeat.period]
    turns = played.turns_rad[repeat.start : end].reshape(repeat.count, repeat.period, -1, 1)
    turned = np.any(turns, axis=(0, 2, 3))

    def body(state: Array, angles: tuple[Array, Array]) -> tuple[Array, None]:
        for i, element in enumerate(order):
            if turned[i]:
                state = bloch.turn(model, state, (angles[0][i], angles[1][i]))
            state = affine.compose(maps[element], state)
        return state, None

    angles = (jnp.asarray(np.cos(turns), state.dtype), jnp.asarray(np.sin(turns), state.dtype))
    if repeat.count == 1:
        return body(state, (angles[0][0], angles[1][0]))[0]
    return jax.lax.scan(body, state, angles)[0]


def _element(
    model: PoolModel,
    p: Parameters,
    frequency_mhz: float,
    played: Played,
    index: int,
    pulse_tolerance: float,
) -> Array:
    """Map of one distinct step, ``(n, n + 1, S or 1, V)``."""
    step = played.elements[index]
    ones = jnp.ones_like(p["t1"])
    if step.kind == "spoil":
        return _only_longitudinal(
            model, affine.identity(1 + len(model.pools), ones[None, None, None])
        )
    if step.kind == "relax":
        generator = bloch.longitudinal_generator(model, p, water_only=False)
        relaxed = affine.exponential(generator[:, :, None], _durations(played, index, ones))
        return _only_longitudinal(model, relaxed)
    if step.kind == "free":
        still = bloch.Field.played([0.0], [0.0], frequency_mhz, p)
        duration = _durations(played, index, ones)
        return affine.exponential(bloch.generator(model, p, still), duration)
    return _pulse(
        model,
        p,
        frequency_mhz,
        step,
        played.b1_ut[index],
        played.offset_ppm[index],
        pulse_tolerance,
    )


def _durations(played: Played, index: int, like: Array) -> Array:
    """Duration of a recovery, of shape (1, 1) where all preparations share it, else (S, 1)."""
    durations = played.duration_s[index]
    distinct = durations[:1] if np.all(durations == durations[0]) else durations
    return jnp.asarray(distinct, like.dtype)[:, None]


def _only_longitudinal(model: PoolModel, amap: Array) -> Array:
    """A map of the longitudinal components as a map of the full state."""
    n, z = bloch.n_states(model), bloch.z_indices(model)
    full = jnp.zeros((n, n + 1, *amap.shape[2:]), amap.dtype)
    return full.at[np.ix_(z, [*z, n])].set(amap)


def _pulse(
    model: PoolModel,
    p: Parameters,
    frequency_mhz: float,
    step: Step,
    b1_ut: np.ndarray,
    offset_ppm: np.ndarray,
    tolerance: float,
) -> Array:
    assert step.waveform is not None
    if step.waveform.is_rectangular:
        field = bloch.Field.played(b1_ut, offset_ppm, frequency_mhz, p)
        return bloch.constant_field_map(model, p, field, step.waveform.duration_s, step.spin_lock)
    peak = float(b1_ut.max()) * GAMMA_RAD_PER_S_UT * _HIGHEST_B1_SCALE
    offsets = tuple(np.unique(offset_ppm * ppm_to_rad_per_s(frequency_mhz)).tolist())
    waveform = sampled(step.waveform, peak, offsets, tolerance)
    phase = np.angle(waveform.envelope)
    dtype = p["t1"].dtype
    runs = tuple(
        jnp.asarray(v, dtype)
        for v in (
            waveform.durations_s,
            np.abs(waveform.envelope),
            np.cos(phase),
            np.sin(phase),
        )
    )
    nominal = jnp.asarray(b1_ut, dtype)[:, None]
    offset = jnp.asarray(offset_ppm, dtype)[:, None]

    def play(amap: Array, run: tuple[Array, ...]) -> tuple[Array, None]:
        duration, amplitude, cos, sin = run
        field = bloch.Field.of(nominal * amplitude, offset, frequency_mhz, p)
        amap = bloch.turn(model, amap, (cos, -sin))
        amap = affine.compose(bloch.constant_field_map(model, p, field, duration), amap)
        return bloch.turn(model, amap, (cos, sin)), None

    n = bloch.n_states(model)
    like = jnp.zeros((1, 1, len(b1_ut), p["t1"].shape[0]), dtype)
    return jax.lax.scan(play, affine.identity(n, like), runs)[0]
