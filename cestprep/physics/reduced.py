"""Solver ``reduced``: rectangular saturation off water's resonance, on its slow manifold.

Water's transverse magnetisation turns about the effective field orders of magnitude faster than
anything else happens.  In the tilted frame it is eliminated (a Schur complement of the generator),
which leaves z' of water, the CEST pools and z of the semisolid pool; under continuous wave the fast
pair itself is carried on in closed form.  docs/solvers.rst has the derivation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.physics import affine, bloch
from cestprep.physics.bloch import Entries, Field, X, Y, Z
from cestprep.physics.constants import ppm_to_rad_per_s
from cestprep.physics.pools import Parameters, PoolModel
from cestprep.physics.protocol import Block, Protocol, Recovery, Saturation, Spoil
from cestprep.physics.steps import grouped

Out = TypeVar("Out")
Rows = tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]


class Slow(NamedTuple):
    """Generator on the slow manifold, 1/s; rows and columns without water's x' and y'.

    Attributes
    ----------
    entries : dict
        Non-zero entries of the slow generator, the constant in the last column.
    slaved : dict
        x', y' (rows 0, 1) that the slow states imply.
    fast : tuple of Array
        2x2 generator of what the pair does besides, row by row.
    kick : dict
        Slow states (rows) that move with the pair (columns 0, 1).
    """

    entries: Entries
    slaved: Entries
    fast: tuple[Array, ...]
    kick: Entries


def slow_manifold(model: PoolModel, p: Parameters, field_of: Callable[[Parameters], Field]) -> Slow:
    """Slow manifold under a constant field, in one stage from the parameters on."""

    def of(p: Parameters) -> Slow:
        entries = bloch.generator_entries(model, p, field_of(p))
        return eliminate(entries, bloch.n_states(model))

    return staged(of, dict(p))


def eliminate(full: Entries, n_states: int) -> Slow:
    """Slow manifold of a generator in water's tilted frame, to second order in the coupling."""
    a, w, b = full[X, X], full[X, Y], full[Y, Y]
    inverse = 1 / (a * b + w * w)
    inv = ((b * inverse, -w * inverse), (w * inverse, a * inverse))
    n = n_states - 2
    slaved: Entries = {}
    for j in range(2, n_states + 1):
        for row in (X, Y):
            terms = [-inv[row][i] * full[i, j] for i in (X, Y) if (i, j) in full]
            if terms:
                slaved[row, j - 2] = _total(terms)
    entries: Entries = {(i - 2, j - 2): v for (i, j), v in full.items() if i > Y and j > Y}
    kick: Entries = {}
    leak: dict[tuple[int, int], list[Array]] = {(i, f): [] for i in (X, Y) for f in (X, Y)}
    for (i, f), v in full.items():
        if i <= Y or f > Y:
            continue
        for j in range(n + 1):
            if (f, j) in slaved:
                bloch.add_entry(entries, i - 2, j, v * slaved[f, j])
        for column in (X, Y):
            bloch.add_entry(kick, i - 2, column, v * inv[f][column])
        for row in (X, Y):
            if (row, i - 2) in slaved:
                leak[row, f].append(slaved[row, i - 2] * v)
    fast = tuple(
        base - _total(leak[place]) if leak[place] else base
        for place, base in (((X, X), a), ((X, Y), w), ((Y, X), -w), ((Y, Y), b))
    )
    return Slow(entries, slaved, fast, kick)


def _total(terms: Sequence[Array]) -> Array:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def staged(stage: Callable[..., Out], *arguments: Any) -> Out:
    """``stage(*arguments)``, kept apart from what comes before and after it.

    XLA on the CPU merges elementwise code into each of its users and repeats it there, in
    derivatives exponentially often; it does not look into branches.
    """
    like = jax.eval_shape(stage, *arguments)
    first = jax.tree.leaves(arguments)[0].reshape(-1)[0]
    result: Out = jax.lax.cond(
        first != -12345.0,  # always, which XLA cannot know
        stage,
        lambda *_: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like),
        *arguments,
    )
    return result


def flow(entries: Entries, n: int, duration_s: float) -> Array:
    """Map of ``n`` slow states over a time, ``(n, n + 1, ...)``."""
    if n == 2:
        return jnp.stack([jnp.stack(row) for row in _flow_of_two(entries, duration_s)])
    return affine.exponential(bloch.stack_entries(entries, n), duration_s)


def _flow_of_two(entries: Entries, duration_s: float) -> Rows:
    """Closed form for water and one longitudinal pool, whose rates are real."""
    duration = jnp.asarray(duration_s, entries[0, 0].dtype)
    a, b, c, d, u, v = (entries[i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)))

    def modes(a: Array, b: Array, c: Array, d: Array, duration: Array) -> tuple[Array, Array]:
        mean, half = 0.5 * (a + d), 0.5 * (a - d)
        root = jnp.sqrt(half * half + b * c + 1e-12)
        fast = mean - root
        slow = (a * d - b * c) / fast  # mean + root would cancel
        e_slow, e_fast = jnp.exp(slow * duration), jnp.exp(fast * duration)
        return 0.5 * (e_slow + e_fast), 0.5 * (e_slow - e_fast) / root

    def steady(a: Array, b: Array, c: Array, d: Array, u: Array, v: Array) -> tuple[Array, Array]:
        inverse = 1 / (a * d - b * c)
        return (b * v - d * u) * inverse, (c * u - a * v) * inverse

    def rows(
        a: Array, b: Array, c: Array, d: Array, cosh: Array, sinh: Array, x: Array, y: Array
    ) -> Rows:
        half = 0.5 * (a - d)
        m = (cosh + sinh * half, sinh * b, sinh * c, cosh - sinh * half)
        constant = (x - m[0] * x - m[1] * y, y - m[2] * x - m[3] * y)
        return (m[0], m[1], constant[0]), (m[2], m[3], constant[1])

    cosh, sinh = staged(modes, a, b, c, d, duration)
    x, y = staged(steady, a, b, c, d, u, v)
    return staged(rows, a, b, c, d, cosh, sinh, x, y)


def _train_of_two(pulse: Rows, gap: Rows, count: int, fraction: Array) -> tuple[Array, Array]:
    """Water after ``count`` cycles of pulse and gap and a last pulse, as slope and constant.

    Powers of a 2x2 matrix by Cayley and Hamilton, so that nothing but scalars is kept: this is
    where the time of a two-pool fit goes.
    """

    def cycle(pulse: Rows, gap: Rows) -> tuple[Array, ...]:
        (e00, e01, e0), (e10, e11, e1) = pulse
        (g00, g01, h0), (g10, g11, h1) = gap
        p00, p01 = g00 * e00 + g01 * e10, g00 * e01 + g01 * e11
        p10, p11 = g10 * e00 + g11 * e10, g10 * e01 + g11 * e11
        return p00, p01, p10, p11, g00 * e0 + g01 * e1 + h0, g10 * e0 + g11 * e1 + h1

    def invariants(p00: Array, p01: Array, p10: Array, p11: Array) -> tuple[Array, Array]:
        return p00 + p11, p00 * p11 - p01 * p10

    p00, p01, p10, p11, p0, p1 = staged(cycle, pulse, gap)
    trace, determinant = staged(invariants, p00, p01, p10, p11)

    before, now = _power_of_two(trace, determinant, count)

    def train(
        cycle: tuple[Array, ...], pulse: Rows, before: Array, now: Array, fraction: Array
    ) -> tuple[Array, Array]:
        p00, p01, p10, p11, p0, p1 = cycle
        e00, e01, e0 = pulse[0]
        away = 1 / ((1 - p00) * (1 - p11) - p01 * p10)
        x, y = ((1 - p11) * p0 + p01 * p1) * away, ((1 - p00) * p1 + p10 * p0) * away
        u0 = now * (e00 * p00 + e01 * p10) - before * e00
        u1 = now * (e00 * p01 + e01 * p11) - before * e01
        return u0 + u1 * fraction, e0 + (e00 - u0) * x + (e01 - u1) * y

    return staged(train, (p00, p01, p10, p11, p0, p1), pulse, determinant * before, now, fraction)


def _power_of_two(trace: Array, determinant: Array, count: int) -> tuple[Array, Array]:
    """Scalars (a, b) of a 2x2 matrix's power: P^count = b P - determinant a."""

    def doubled(t: Array, d: Array, before: Array, now: Array) -> tuple[Array, Array]:
        return now * now - d * before * before, now * (t * now - 2 * d * before)

    def doubled_and_one(t: Array, d: Array, before: Array, now: Array) -> tuple[Array, Array]:
        before, now = doubled(t, d, before, now)
        return now, t * now - d * before

    before, now = jnp.zeros_like(trace), jnp.ones_like(trace)
    if count > 1:  # the first doubling, of P itself
        odd = f"{count:b}"[1] == "1"
        before, now = (trace, trace * trace - determinant) if odd else (now, trace)
    for bit in f"{count:b}"[2:]:
        stage = doubled_and_one if bit == "1" else doubled
        before, now = staged(stage, trace, determinant, before, now)
    return before, now


def preparation_maps(
    model: PoolModel,
    p: Parameters,
    protocol: Protocol,
    preparations: Sequence[tuple[Block, ...]],
    lift: Array,
    n_rows: int,
) -> Array:
    """Maps from the carried state to longitudinal components after each preparation.

    Parameters as for `cestprep.physics.general.preparation_maps`; a preparation is one
    `Saturation` (spin-locked, or continuous wave) and perhaps a recovery after its spoiler.
    """
    return grouped(
        list(preparations),
        lambda q: (saturation_of(q).train, q[1:]),
        lambda group: _maps_of_one_train(model, p, protocol.frequency_mhz, group, lift, n_rows),
    )


def saturation_of(preparation: tuple[Block, ...]) -> Saturation:
    """The train a playable preparation begins with."""
    first = preparation[0]
    assert isinstance(first, Saturation)
    return first


def unplayable(preparation: tuple[Block, ...]) -> str | None:
    """Why a preparation is beyond this solver, whatever the tissue; None if it is not."""
    first, *rest = preparation
    if not isinstance(first, Saturation):
        return "pulses are played one by one"
    if first.spin_lock == "none" and first.n_pulses > 1:
        return "a train of pulses without spin lock"
    if rest and not (isinstance(rest[0], Spoil) and all(isinstance(b, Recovery) for b in rest[1:])):
        return "more than one saturation per volume"
    return None


def _maps_of_one_train(
    model: PoolModel,
    p: Parameters,
    frequency_mhz: float,
    preparations: Sequence[tuple[Block, ...]],
    lift: Array,
    n_rows: int,
) -> Array:
    """Maps for saturations of one train with one recovery after them."""
    recovery_s = sum(b.duration_s for b in preparations[0] if isinstance(b, Recovery))
    saturations = [saturation_of(q) for q in preparations]
    every = 1 + len(model.pools)
    maps = _train_maps(model, p, frequency_mhz, saturations, lift, every if recovery_s else n_rows)
    if not recovery_s:
        return maps
    exchange = bloch.longitudinal_generator(model, p, water_only=False)
    recovered = affine.exponential(exchange, recovery_s)[:n_rows, :, None]
    return affine.compose(recovered, maps)


def _train_maps(
    model: PoolModel,
    p: Parameters,
    frequency_mhz: float,
    saturations: Sequence[Saturation],
    lift: Array,
    n_rows: int,
) -> Array:
    b1, offset = [s.b1_ut for s in saturations], [s.offset_ppm for s in saturations]

    def played(p: Parameters) -> Field:
        return Field.played(b1, offset, frequency_mhz, p)

    slow, n = slow_manifold(model, p, played), bloch.n_states(model) - 2
    train = saturations[0]
    if n == 2 and n_rows == lift.shape[1] - 1 == 1 and train.n_pulses > 1:
        still = _still(model, p, frequency_mhz, p["b0_ppm"])
        slope, constant = _train_of_two(
            _flow_of_two(slow.entries, train.pulse_duration_s),
            _flow_of_two(still, train.pulse_delay_s),
            train.n_pulses - 1,
            lift[3, 0],
        )
        return jnp.stack([slope, constant])[None]
    pulse = flow(slow.entries, n, train.pulse_duration_s)
    places = [i - 2 for i in bloch.z_indices(model)[:n_rows]]
    if train.spin_lock == "none":
        return _unlocked(model, slow, played(p), train.pulse_duration_s, pulse, lift, places)
    wanted = pulse[np.array(places)]
    count = train.n_pulses - 1
    if count:
        cycle = _gap(model, p, frequency_mhz, offset, train.pulse_delay_s, pulse)
        wanted = affine.power(cycle, count, last=wanted)
    return affine.compose(wanted, lift[2:, :, None])


def _gap(
    model: PoolModel,
    p: Parameters,
    frequency_mhz: float,
    offset_ppm: Sequence[float],
    duration_s: float,
    pulse: Array,
) -> Array:
    """Pulse, then free evolution with water's transverse magnetisation gone."""
    if not model.spin_pools:
        free = _still(model, p, frequency_mhz, p["b0_ppm"])
        return affine.compose(flow(free, pulse.shape[0], duration_s), pulse)

    def centre_of(p: Parameters) -> Array:
        own = [p[f"{pool.name}.offset_ppm"] for pool in model.spin_pools]
        return _total(own) / len(own) + p["b0_ppm"]

    def still(p: Parameters) -> Field:
        centre = centre_of(p)
        return Field.of(jnp.zeros_like(centre)[None], centre[None], frequency_mhz, p)

    slow = slow_manifold(model, p, still)
    cycle = affine.compose(flow(slow.entries, pulse.shape[0], duration_s), pulse)
    offset = jnp.asarray(offset_ppm, pulse.dtype)[:, None]
    angle = -(offset - centre_of(p)) * ppm_to_rad_per_s(frequency_mhz) * duration_s
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x = np.arange(len(model.spin_pools)) * 3 + 1
    new_x = cos * cycle[x] - sin * cycle[x + 1]
    new_y = sin * cycle[x] + cos * cycle[x + 1]
    return cycle.at[x].set(new_x).at[x + 1].set(new_y)


def _still(model: PoolModel, p: Parameters, frequency_mhz: float, offset_ppm: Array) -> Entries:
    """Free exchange of longitudinal magnetisation, where no pool has any other."""
    field = Field.of(jnp.zeros_like(offset_ppm)[None], offset_ppm[None], frequency_mhz, p)
    entries = bloch.generator_entries(model, p, field)
    return {(i - 2, j - 2): v for (i, j), v in entries.items() if i > Y and j > Y}


def _unlocked(
    model: PoolModel,
    slow: Slow,
    field: Field,
    duration_s: float,
    pulse: Array,
    lift: Array,
    places: Sequence[int],
) -> Array:
    """Continuous wave: the tilt leaves some magnetisation in the fast pair."""
    cos, sin = field.tilt
    n_cest = len(model.spin_pools)
    # start: every spin pool along z of the laboratory
    start = jnp.broadcast_to(lift[:, :, None], (*lift.shape[:2], *cos.shape))
    states = [cos * start[Z]]
    for i in range(1, n_cest + 1):
        z = start[3 * i + Z]
        states += [-sin * z, jnp.zeros_like(z), cos * z]
    states += list(start[3 * (n_cest + 1) :])
    slow0 = jnp.stack(states)
    pair0 = [-sin * start[Z] - _image(slow.slaved, X, slow0), -_image(slow.slaved, Y, slow0)]
    eased0 = slow0 - _kicked(slow.kick, pair0, slow0)
    pair = _turned(slow.fast, pair0, duration_s)
    end = affine.compose(pulse, eased0)
    end = end + _kicked(slow.kick, pair, end)
    x = _image(slow.slaved, X, end) + pair[0]
    found = []
    for place in places:
        if place == 0:
            found.append(cos * end[0] - sin * x)
        elif place <= 3 * n_cest:
            found.append(cos * end[place] - sin * end[place - 2])
        else:
            found.append(end[place])
    return jnp.stack(found)


def _image(rows: Entries, row: int, state: Array) -> Array:
    """Row of a sparse affine map applied to the columns of a state map."""
    n = state.shape[0]
    total = jnp.zeros_like(state[0])
    for (i, j), v in rows.items():
        if i == row and j < n:
            total = total + v * state[j]
        elif i == row:
            total = total.at[-1].add(v)
    return total


def _kicked(kick: Entries, pair: Sequence[Array], like: Array) -> Array:
    total = jnp.zeros_like(like)
    for (i, f), v in kick.items():
        total = total.at[i].add(v * pair[f])
    return total


def _turned(fast: tuple[Array, ...], pair: Sequence[Array], duration_s: float) -> list[Array]:
    """Decaying rotation of the fast pair in closed form."""
    a, b, c, d = fast
    mean, half = 0.5 * (a + d), 0.5 * (a - d)
    turn = jnp.sqrt(jnp.maximum(-(half * half + b * c), 1.0))
    decay = jnp.exp(mean * duration_s)
    cos, sin = decay * jnp.cos(turn * duration_s), decay * jnp.sin(turn * duration_s) / turn
    x, y = pair
    return [(cos + sin * half) * x + sin * b * y, sin * c * x + (cos - sin * half) * y]
