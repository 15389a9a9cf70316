"""Training of networks: deterministic, with validation, plateau stop and best weights restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from cestprep.inference.chunks import Progress

#: Network, data (a pytree of arrays) and key to a number; it draws its batch with the key.
Loss = Callable[[Any, Any, Array], Array]


_CHECK_BATCHES = 4
#: How often a training looks at the voxels kept aside; its steps are a multiple of this.
CHECKS = 40


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
    checks: int = CHECKS
    patience: int = 12


class Store(Protocol):
    """Where interrupted training is kept, by name."""

    def load(self, name: str, like: Any) -> Any | None:
        """Pytree saved under a name, its leaves shaped like those of ``like``; None if absent."""
        ...

    def save(self, name: str, tree: Any) -> None:
        """Keep a pytree under a name, in place of an earlier one."""
        ...


@dataclass(frozen=True)
class Part:
    """One part of a training: what it is called, who listens, and where it is kept."""

    name: str
    progress: Progress | None = None
    store: Store | None = None


@dataclass(frozen=True)
class Trained:
    """A network, and the curve of its training.

    Attributes
    ----------
    network : pytree
    curve : tuple of (str, int, float, float)
        Part of the training, step, loss in training and on voxels kept aside.
    """

    network: Any
    curve: tuple[tuple[str, int, float, float], ...] = ()


class _Run(NamedTuple):
    """State between two checks, enough to go on from."""

    weights: Any
    optimizer: Any
    best: Any
    least: Any
    since: Any
    checked: Any
    curve: Any  # (checks, 2)


def trainable(network: Any) -> Any:
    """Which leaves of a network are weights; the statistics of its inputs are not."""
    weights = jax.tree.map(eqx.is_inexact_array, network)
    return eqx.tree_at(lambda n: (n.centre, n.gain), weights, (False, False))


def _optimizer(schedule: Schedule) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        0.0,
        schedule.peak_rate,
        max(1, int(schedule.warm_up * schedule.steps)),
        schedule.steps,
        schedule.peak_rate / 100,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4))


class Training:
    """Minimisation of one stochastic loss for networks of one shape.

    Parameters
    ----------
    network : pytree
        With ``centre`` and ``gain``, the statistics of its inputs.
    loss : callable
    schedule : Schedule
    """

    def __init__(self, network: Any, loss: Loss, schedule: Schedule) -> None:
        self._schedule, self._optimizer = schedule, _optimizer(schedule)
        self._per_check = max(1, schedule.steps // schedule.checks)
        self._static = eqx.partition(network, trainable(network))[1]
        static, optimizer = self._static, self._optimizer

        @jax.jit
        def advance(weights: Any, state: Any, data: Any, keys: Array) -> tuple[Any, Any, Array]:
            def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], Array]:
                weights, state = carry
                of = jax.value_and_grad(lambda a: loss(eqx.combine(a, static), data, key))
                value, slope = of(weights)
                updates, state = optimizer.update(slope, state, weights)
                return (optax.apply_updates(weights, updates), state), value

            (weights, state), values = jax.lax.scan(step, (weights, state), keys)
            return weights, state, jnp.mean(values)

        @jax.jit
        def check(weights: Any, data: Any) -> Array:
            keys = jax.random.split(jax.random.key(0), _CHECK_BATCHES)
            return jnp.mean(
                jax.lax.map(lambda k: loss(eqx.combine(weights, static), data, k), keys)
            )

        self._advance, self._check = advance, check

    def _weights(self, network: Any) -> Any:
        return eqx.partition(network, trainable(network))[0]

    def _keys(self, key: Array, done: int) -> Array:
        return jax.random.split(jax.random.fold_in(key, done), self._per_check)

    def rehearse(self, network: Any, data: Any, kept_aside: Any) -> None:
        """Compile what `run` needs for data of these shapes, by one round that is forgotten."""
        weights = self._weights(network)
        keys = self._keys(jax.random.key(0), 0)
        self._advance(weights, self._optimizer.init(weights), data, keys)
        self._check(weights, kept_aside)

    def run(self, network: Any, data: Any, kept_aside: Any, key: Array, part: Part) -> Trained:
        """Train a network (see `train`)."""
        schedule, per_check = self._schedule, self._per_check

        def start() -> _Run:
            weights = self._weights(network)
            least = np.float32(self._check(weights, kept_aside))
            curve = np.full((schedule.checks, 2), np.nan, np.float32)
            zero, state = np.int32(0), self._optimizer.init(weights)
            return _Run(weights, state, weights, least, zero, zero, curve)

        run = _resumed(part, start)
        while int(run.checked) < schedule.checks and int(run.since) < schedule.patience:
            done = int(run.checked) * per_check
            keys = self._keys(key, done)
            moved, state, value = self._advance(run.weights, run.optimizer, data, keys)
            held_out = float(self._check(moved, kept_aside))
            if not np.isfinite(held_out):
                raise FloatingPointError(
                    f"training ({part.name}): the loss is {held_out} after {done} steps"
                )
            run = _checked(run, moved, state, float(value), held_out)
            if part.progress is not None:
                part.progress(done + per_check, per_check * schedule.checks)
            if part.store is not None:
                part.store.save(part.name, run)
        done = int(run.checked) * per_check
        if part.progress is not None and done < per_check * schedule.checks:  # nothing better
            part.progress(done, done)
        steps = [(i + 1) * per_check for i in range(int(run.checked))]
        curve = tuple(
            (part.name, step, float(a), float(b))
            for step, (a, b) in zip(steps, np.asarray(run.curve), strict=False)
        )
        return Trained(eqx.combine(run.best, self._static), curve)


def train(
    network: Any,
    loss: Loss,
    data: Any,
    kept_aside: Any,
    schedule: Schedule,
    key: Array,
    part: Part,
) -> Trained:
    """Minimise a stochastic loss; the network of the best validation loss is returned.

    Parameters
    ----------
    network : pytree
        With ``centre`` and ``gain``, the statistics of its inputs.
    loss : callable
    data : pytree of Array
    kept_aside : pytree of Array
        The same for voxels that are not trained on; their loss is always taken with one key.
    schedule : Schedule
    key : Array
        The same key gives the same network, interrupted or not.
    part : Part

    Raises
    ------
    FloatingPointError
        If the loss is not finite; such weights answer nothing.
    """
    return Training(network, loss, schedule).run(network, data, kept_aside, key, part)


def _resumed(part: Part, start: Callable[[], _Run]) -> _Run:
    first = start()
    kept = None if part.store is None else part.store.load(part.name, first)
    return first if kept is None else kept


def _checked(run: _Run, weights: Any, state: Any, value: float, held_out: float) -> _Run:
    """State after another check; the best weights so far are kept."""
    better = held_out < run.least
    curve = np.array(run.curve)
    curve[int(run.checked)] = value, held_out
    return _Run(
        weights,
        state,
        weights if better else run.best,
        np.float32(held_out if better else run.least),
        np.int32(0 if better else run.since + 1),
        np.int32(run.checked + 1),
        curve,
    )
