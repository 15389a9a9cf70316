"""Training of networks: deterministic, with validation, plateau stop and best weights restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from cestprep.inference.chunks import Progress
from cestprep.inference.network import Network

#: Network, data (a pytree of arrays) and key to a number; it draws its batch with the key.
Loss = Callable[[Network, Any, Array], Array]


_CHECK_BATCHES = 4


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes
    ----------
    steps : int
    peak_rate : float
        Learning rate after the warm-up; it falls to a hundredth by a cosine.
    warm_up : float
        Share of the steps.
    checks : int
        How often the validation loss is looked at.
    patience : int
        Checks without improvement after which training stops.
    """

    steps: int
    peak_rate: float = 1e-3
    warm_up: float = 0.05
    checks: int = 40
    patience: int = 12


@dataclass(frozen=True)
class Trained:
    """A network, and the curve of its training: (step, training loss, validation loss)."""

    network: Network
    curve: tuple[tuple[int, float, float], ...]


def trainable(network: Network) -> Any:
    """Which leaves of a network are weights; the statistics of its inputs are not."""
    weights = jax.tree.map(eqx.is_inexact_array, network)
    return eqx.tree_at(lambda n: (n.centre, n.gain), weights, (False, False))


def train(
    network: Network,
    loss: Loss,
    data: Any,
    kept_aside: Any,
    schedule: Schedule,
    key: Array,
    progress: Progress | None = None,
) -> Trained:
    """Minimise a stochastic loss; the network of the best validation loss is returned.

    Parameters
    ----------
    network : Network
    loss : callable
    data : pytree of Array
    kept_aside : pytree of Array
        The same for voxels that are not trained on; their loss is always taken with one key.
    schedule : Schedule
    key : Array
        The same key gives the same network.
    progress : callable, optional
    """
    rate = optax.warmup_cosine_decay_schedule(
        0.0,
        schedule.peak_rate,
        max(1, int(schedule.warm_up * schedule.steps)),
        schedule.steps,
        schedule.peak_rate / 100,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4))
    per_check = max(1, schedule.steps // schedule.checks)
    arrays, static = eqx.partition(network, trainable(network))

    @jax.jit
    def advance(arrays: Any, state: Any, data: Any, keys: Array) -> tuple[Any, Any, Array]:
        def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], Array]:
            arrays, state = carry
            of = jax.value_and_grad(lambda a: loss(eqx.combine(a, static), data, key))
            value, slope = of(arrays)
            updates, state = optimizer.update(slope, state, arrays)
            return (optax.apply_updates(arrays, updates), state), value

        (arrays, state), values = jax.lax.scan(step, (arrays, state), keys)
        return arrays, state, jnp.mean(values)

    @jax.jit
    def check(arrays: Any, data: Any) -> Array:
        keys = jax.random.split(jax.random.key(0), _CHECK_BATCHES)
        return jnp.mean(jax.lax.map(lambda k: loss(eqx.combine(arrays, static), data, k), keys))

    state = optimizer.init(arrays)
    best, least, since, curve = arrays, float(check(arrays, kept_aside)), 0, []
    for done in range(0, per_check * schedule.checks, per_check):
        keys = jax.random.split(jax.random.fold_in(key, done), per_check)
        arrays, state, value = advance(arrays, state, data, keys)
        held_out = float(check(arrays, kept_aside))
        curve.append((done + per_check, float(value), held_out))
        since = 0 if held_out < least else since + 1
        if held_out < least:
            best, least = arrays, held_out
        if progress is not None:
            progress(done + per_check, per_check * schedule.checks)
        if since >= schedule.patience:
            break
    return Trained(eqx.combine(best, static), tuple(curve))
