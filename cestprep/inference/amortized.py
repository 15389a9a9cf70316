"""What networks learn from: simulated voxels with known truth, and a subject's own voxels."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import likelihood, linalg, unconstrained
from cestprep.inference.chunks import Progress, over_chunks, voxels_per_chunk
from cestprep.inference.likelihood import Metric, Voxels
from cestprep.inference.network import Network, predict
from cestprep.inference.problem import InverseProblem
from cestprep.inference.refine import climb
from cestprep.inference.training import Loss
from cestprep.phantom import sampler


class Simulated(NamedTuple):
    """Voxels drawn from the prior.

    Attributes
    ----------
    u : Array, shape (p, V)
        Truth, unconstrained.
    clean : Array, shape (n, V)
        Normalised signals without noise, simulated with the true known parameters.
    voxels : Voxels
        What is known about them, with errors; ``data`` is not used.
    """

    u: Array
    clean: Array
    voxels: Voxels


class Measurements(NamedTuple):
    """A subject's voxels and the metric of their residuals."""

    voxels: Voxels
    along: Array


def simulate(
    problem: InverseProblem,
    like: Voxels,
    count: int,
    seed: int,
    progress: Progress | None = None,
) -> Simulated:
    """Voxels with parameters from the prior and known values like those of some voxels."""
    rng = np.random.default_rng(seed)
    dtype = np.asarray(like.data).dtype
    theta = sampler.draw_prior(problem, count, rng).astype(dtype)
    voxels = sampler.draw_voxels(like, count, rng)
    known = sampler.draw_truth(problem, voxels, rng)
    size = voxels_per_chunk(problem, None, dtype)
    run = partial(_normalized, problem)
    clean, theta = over_chunks(run, [theta, known], size, progress)
    return Simulated(np.asarray(unconstrained.to_u(problem, jnp.asarray(theta))), clean, voxels)  # type: ignore[arg-type]


@partial(jax.jit, static_argnums=0)
def _normalized(problem: InverseProblem, theta: Array, known: Array) -> tuple[Array, Array]:
    """Normalised signals, and the parameters that give them: a free scale is divided too."""
    z = problem.signal(theta, known)
    names = [f.parameter for f in problem.free]
    if "m0" in names:
        theta = theta.at[names.index("m0")].divide(problem.scale(z))
    return problem.normalize(z), theta


def measurements(problem: InverseProblem, voxels: Voxels, u: Array) -> Measurements:
    """Voxels with the metric that errors of their known parameters have at an estimate."""
    size = voxels_per_chunk(problem, None, np.asarray(voxels.data).dtype)
    along = over_chunks(  # a climb of no steps: its program is needed anyway
        lambda *chunk: climb(problem, Voxels(*chunk[:4]), chunk[4], 0).along,
        [*voxels, np.asarray(u)],
        size,
    )
    return Measurements(voxels, along)


def _log_scale(factor: Array) -> Array:
    """Half the logarithm of the determinant of covariances, by their factors."""
    return sum((jnp.log(factor[i, i]) for i in range(factor.shape[0])), jnp.zeros(factor.shape[2:]))


def truth_loss(problem: InverseProblem, batch: int) -> Loss:
    """Minus log density of the truth of simulated voxels, with new noise each time.

    Its minimum is the Gaussian with the mean and covariance of the posterior.
    """

    def loss(network: Network, data: Simulated, key: Array) -> Array:
        chosen, drawn = jax.random.split(key)
        index = jax.random.randint(chosen, (batch,), 0, data.u.shape[1])
        u, clean = data.u[:, index], data.clean[:, index]
        voxels = Voxels(*(x[..., index] for x in data.voxels))
        noisy = clean + voxels.noise * jax.random.normal(drawn, clean.shape)
        mean, factor = predict(network, voxels._replace(data=problem.normalize(noisy)))
        white = linalg.solve_lower(factor, u - mean)
        return jnp.mean(0.5 * jnp.sum(white**2, axis=0) + _log_scale(factor))

    return loss


def evidence_loss(problem: InverseProblem, batch: int) -> Loss:
    """Minus the evidence lower bound of measured voxels, with two antithetic samples each."""

    def loss(network: Network, data: Measurements, key: Array) -> Array:
        chosen, drawn = jax.random.split(key)
        index = jax.random.randint(chosen, (batch,), 0, data.along.shape[-1])
        voxels = Voxels(*(x[..., index] for x in data.voxels))
        metric = Metric(voxels.noise, data.along[..., index], jnp.zeros(()))
        mean, factor = predict(network, voxels)
        step = jnp.einsum("ijv,jv->iv", factor, jax.random.normal(drawn, mean.shape))
        both = jnp.concatenate([mean + step, mean - step], axis=1)
        known = jnp.concatenate([voxels.known, voxels.known], axis=1)
        z = problem.predict(unconstrained.to_theta(problem, both), known)
        misfit = sum(
            likelihood.product(metric, r, r)
            for r in (voxels.data - z[:, :batch], voxels.data - z[:, batch:])
        )
        prior = unconstrained.log_prior(both)
        return jnp.mean(0.25 * misfit) - jnp.mean(prior) - jnp.mean(_log_scale(factor))

    return loss


def signal_loss(problem: InverseProblem, batch: int, parameter_noise: float) -> Loss:
    """Minus log posterior of what the network says of noisier copies of measured voxels.

    Parameters
    ----------
    problem : InverseProblem
    batch : int
    parameter_noise : float
        SD of parameters around the answer, unconstrained.
    """

    def loss(network: Network, voxels: Voxels, key: Array) -> Array:
        chosen, drawn, varied = jax.random.split(key, 3)
        index = jax.random.randint(chosen, (batch,), 0, voxels.noise.size)
        some = Voxels(*(x[..., index] for x in voxels))
        noisy = some.data + some.noise * jax.random.normal(drawn, some.data.shape)
        mean, _ = predict(network, some._replace(data=problem.normalize(noisy)))
        u = mean + parameter_noise * jax.random.normal(varied, mean.shape)
        away = problem.predict(unconstrained.to_theta(problem, u), some.known) - some.data
        misfit = 0.5 * jnp.sum(away**2, axis=0) / some.noise**2
        return jnp.mean(misfit - unconstrained.log_prior(mean))

    return loss
