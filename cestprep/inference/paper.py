"""Networks, losses and sampling as published, for comparison with `psvae` and `nbmf`.

From the papers (Finkelstein 2025, Commun. Phys. 8:164; arXiv 2602.03317) and what their released
code does where they are silent.  Two free parameters, a fraction and a rate.  Batch statistics are
left out: the papers do not have them.  Optimiser and stopping are those of all networks here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference.chunks import over_chunks
from cestprep.inference.likelihood import Voxels
from cestprep.inference.problem import InverseProblem
from cestprep.inference.recipe import FreeParameter, Normalization
from cestprep.inference.training import Loss, Part, Schedule, Trained, train
from cestprep.physics import simulate

_WIDTH, _TOGETHER, _SLICE = 256, 2048, 1024


@dataclass(frozen=True)
class Published:
    """What a paper's method is made of.

    Attributes
    ----------
    hidden : int
        Layers of 256.
    activation : callable
    steepness : float
        Outputs are sigmoid(x / steepness).
    normalization : {"m0", "unit-norm"}
    pairwise : bool
        Each volume is simulated from the measured one before it.
    widest : float
        Largest variance of a sample, in squared ranges.
    squared : bool
        Loss of the relative distance squared.
    fit_weight, spread_weight : float
    noise : float
        SD of the noise added to signals in training.
    multiplicative : bool
        Noise in proportion to each volume.
    high : tuple of (name, parameter, float)
        Upper ends of the ranges in package units, lower ends being 0.
    """

    hidden: int
    activation: Callable[[Array], Array]
    steepness: float
    normalization: Normalization
    pairwise: bool
    widest: float
    squared: bool
    fit_weight: float
    spread_weight: float
    noise: float
    multiplicative: bool
    high: tuple[tuple[str, str, float], ...]


NBMF = Published(
    hidden=3,
    activation=jax.nn.relu,
    steepness=10.0,
    normalization="m0",
    pairwise=True,
    widest=1.0,
    squared=False,
    fit_weight=100.0,
    spread_weight=0.8,
    noise=1e-3,
    multiplicative=False,
    high=(
        ("fss", "semisolid.fraction", 0.3),
        ("kssw", "semisolid.k_exchange", 150.0),
        ("fs", "amide.fraction", 0.012),
        ("ksw", "amide.k_exchange", 400.0),
    ),
)
PSVAE = Published(
    hidden=2,
    activation=jax.nn.sigmoid,
    steepness=3.0,
    normalization="unit-norm",
    pairwise=False,
    widest=0.3,
    squared=True,
    fit_weight=1000.0,
    spread_weight=0.1,
    noise=1e-2,
    multiplicative=True,
    high=(
        ("fss", "semisolid.fraction", 0.3),
        ("kssw", "semisolid.k_exchange", 70.0),
        ("fs", "amide.fraction", 0.01),
        ("ksw", "amide.k_exchange", 500.0),
    ),
)


def published_problem(problem: InverseProblem, what: Published) -> InverseProblem:
    """The problem with a paper's normalisation and ranges, where it has the parameters.

    Raises
    ------
    ValueError
        If other than two parameters are free, or the series has no reference volume to divide by.
    """
    only_two(problem)
    high = {(name, parameter): most for name, parameter, most in what.high}

    def of(free: FreeParameter) -> FreeParameter:
        most = high.get((free.name, free.parameter))
        return free if most is None else replace(free, low=0.0, high=most / free.to_si)

    return replace(
        problem, free=tuple(of(f) for f in problem.free), normalization=what.normalization
    )


def only_two(problem: InverseProblem) -> None:
    """Raise ValueError where other than two parameters are free."""
    if len(problem.free) != 2:
        raise ValueError(f"paper mode has two free parameters, found {len(problem.free)}")


class PaperNetwork(eqx.Module):
    """Perceptron on inputs as they are; outputs a place in the ranges and a spread.

    Attributes
    ----------
    layers : tuple of Linear
    centre, gain : Array, shape (d,)
        Zeros and ones: the papers do not scale inputs.
    what : Published
    """

    layers: tuple[eqx.nn.Linear, ...]
    centre: Array
    gain: Array
    what: Published = eqx.field(static=True)

    @classmethod
    def initial(cls, n_inputs: int, what: Published, key: Array) -> PaperNetwork:
        """Untrained network."""
        sizes = [n_inputs, *[_WIDTH] * what.hidden, 5]
        keys = jax.random.split(key, len(sizes) - 1)
        layers = [
            eqx.nn.Linear(a, b, key=k) for a, b, k in zip(sizes, sizes[1:], keys, strict=False)
        ]
        return cls(tuple(layers), jnp.zeros(n_inputs), jnp.ones(n_inputs), what)

    def __call__(self, inputs: Array) -> tuple[Array, Array, Array]:
        """Place ``(2,)`` in the ranges, variances ``(2,)`` and angle of the sampled Gaussian."""
        x = (inputs - self.centre) * self.gain
        for layer in self.layers[:-1]:
            x = self.what.activation(layer(x))
        out = jax.nn.sigmoid(self.layers[-1](x) / self.what.steepness)
        return out[:2], self.what.widest * out[2:4], jnp.pi * (out[4] - 0.5)


def _inputs(problem: InverseProblem, voxels: Voxels) -> Array:
    """Relaxation rates, B1, earlier stages' estimates and signals; no B0, no errors, no noise."""
    known = dict(zip(problem.known_parameters, jnp.asarray(voxels.known), strict=True))
    rows = [1.0 / known[name] for name in ("t1", "t2") if name in known]
    rows += [x for name, x in known.items() if name not in ("t1", "t2", "b0_ppm")]
    return jnp.concatenate([jnp.stack(rows), jnp.asarray(voxels.data)])


def _rotation(angle: Array) -> Array:
    """Rotations, shape (2, 2, V)."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])])


def _simulated(problem: InverseProblem, what: Published, theta: Array, voxels: Voxels) -> Array:
    if not what.pairwise:
        return problem.predict(theta, voxels.known)
    p = problem.parameters(theta, voxels.known)
    z = simulate.pairwise_signal(problem.protocol, problem.model, p, voxels.data, problem.solver)
    return problem.normalize(z)


def published_loss(problem: InverseProblem, what: Published, batch: int) -> Loss:
    """The papers' loss: relative distance of signals, less a reward for a wide Gaussian."""
    low, high = (jnp.asarray(b, jnp.float32)[:, None] for b in problem.bounds.T)

    def loss(network: PaperNetwork, voxels: Voxels, key: Array) -> Array:
        chosen, drawn, varied = jax.random.split(key, 3)
        index = jax.random.randint(chosen, (batch,), 0, voxels.noise.size)
        some = Voxels(*(x[..., index] for x in voxels))
        noise = what.noise * jax.random.normal(drawn, some.data.shape)
        noisy = problem.normalize(some.data + noise * (some.data if what.multiplicative else 1.0))
        some = some._replace(data=noisy)  # the target is the noisy signal too
        place, variance, angle = jax.vmap(network, in_axes=-1, out_axes=-1)(_inputs(problem, some))
        away = jnp.sqrt(variance) * jax.random.normal(varied, place.shape)
        away = jnp.einsum("ijv,jv->iv", _rotation(angle), away)
        theta = low + jnp.clip(place + away, 0.0, 1.0) * (high - low)
        residual = _simulated(problem, what, theta, some) - noisy
        distance2 = jnp.sum(residual**2, axis=0) / jnp.sum(noisy**2, axis=0)
        distance = distance2 if what.squared else jnp.sqrt(distance2 + 1e-12)
        if what.squared:
            reward = jnp.log(variance[0] * variance[1])
        else:
            reward = jnp.sum(jnp.abs(away), axis=0)
        return jnp.mean(what.fit_weight * distance - what.spread_weight * reward)

    return loss


def learn(
    problem: InverseProblem, voxels: Voxels, what: Published, steps: int, seed: int, part: Part
) -> Trained:
    """Train as published on measured voxels."""
    some = jax.tree.map(jnp.asarray, voxels)
    network = PaperNetwork.initial(_inputs(problem, some).shape[0], what, jax.random.key(seed))
    loss = published_loss(problem, what, min(_SLICE, some.noise.size))
    return train(network, loss, some, some, Schedule(steps), jax.random.key(seed + 1), part)


def infer(
    problem: InverseProblem, network: PaperNetwork, voxels: Voxels
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates ``(2, V)`` and covariances ``(2, 2, V)`` in package units."""
    answers: tuple[np.ndarray, np.ndarray] = over_chunks(
        lambda *chunk: _infer_chunk(problem, network, Voxels(*chunk)), list(voxels), _TOGETHER
    )
    return answers


@eqx.filter_jit
def _infer_chunk(problem: Any, network: PaperNetwork, voxels: Voxels) -> tuple[Array, Array]:
    place, variance, angle = jax.vmap(network, in_axes=-1, out_axes=-1)(_inputs(problem, voxels))
    low, high = (jnp.asarray(b, place.dtype)[:, None] for b in problem.bounds.T)
    turn = _rotation(angle) * (high - low)[:, None]
    return low + place * (high - low), jnp.einsum("ijv,jv,kjv->ikv", turn, variance, turn)
