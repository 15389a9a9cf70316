"""Methods with a network: train it, ask it, refine its answers, flag what cannot be trusted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import chi2

from cestprep.inference import amortized, least_squares, unconstrained
from cestprep.inference.chunks import Progress, over_chunks, voxels_per_chunk
from cestprep.inference.estimate import Estimate, Validity
from cestprep.inference.likelihood import Voxels
from cestprep.inference.measured import GAUSSIAN_QUANTILE, Measured
from cestprep.inference.network import Network, features, infer
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.refine import Refined, gaussian_nodes, refine, weighted
from cestprep.inference.residual import fit_measured, voxels_of
from cestprep.inference.training import Schedule, Trained, train

#: Voxels with a p-value below are flagged where the noise is known independently of the fit.
MISFIT_P = 1e-3
#: A density this far (SD of the log-ratio) from the Gaussian of its moments is not Gaussian.
MOST_DEPARTURE = 1.0


@dataclass(frozen=True)
class Options:
    """How networks are trained and used.

    Attributes
    ----------
    simulated : int
        Voxels drawn from the prior.
    steps : int
        Training on them.
    evidence_steps : int
        Training on the subject's own voxels after that.
    batch : int
    refine : bool
        Whether each voxel's answer is refined on its own data.
    """

    simulated: int = 200_000
    steps: int = 6000
    evidence_steps: int = 1000
    batch: int = 512
    refine: bool = True


def learn_prior(
    problem: InverseProblem,
    voxels: Voxels,
    options: Options,
    seed: int,
    progress: Progress | None = None,
) -> Trained:
    """Network trained on voxels drawn from the prior with known values like those of ``voxels``."""
    drawn = amortized.simulate(problem, voxels, options.simulated, seed)
    aside = amortized.simulate(problem, voxels, 4 * options.batch, seed + 1)
    inputs = np.asarray(features(drawn.voxels._replace(data=drawn.clean)))
    start = Network.initial(inputs, len(problem.free), jax.random.key(seed))
    return train(
        start,
        amortized.truth_loss(problem, options.batch),
        _on_device(drawn),
        _on_device(aside),
        Schedule(options.steps),
        jax.random.key(seed + 2),
        progress,
    )


def learn_subject(
    problem: InverseProblem,
    voxels: Voxels,
    trained: Trained,
    options: Options,
    seed: int,
    progress: Progress | None = None,
) -> Trained:
    """The network, trained on by the evidence of a subject's voxels; every tenth is kept aside."""
    count = voxels.noise.shape[0]
    if not options.evidence_steps or count < 20:
        return trained
    mean, _ = infer(trained.network, voxels)
    data = amortized.measurements(problem, voxels, jnp.asarray(mean))
    aside = np.arange(count) % 10 == 5
    seen, kept = (
        jax.tree.map(lambda x, chosen=chosen: jnp.asarray(np.asarray(x)[..., chosen]), data)
        for chosen in (~aside, aside)
    )
    batch = min(options.batch, int(aside.sum()) * 4)
    schedule = Schedule(options.evidence_steps, peak_rate=2e-4, checks=20, patience=6)
    loss = amortized.evidence_loss(problem, batch)
    end = train(trained.network, loss, seen, kept, schedule, jax.random.key(seed + 3), progress)
    return Trained(end.network, trained.curve + end.curve)


def learn(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
) -> Network | None:
    """Train on the prior, then on these voxels; None where none carries signal."""
    options = options or Options()
    measured = Measured.of(problem, observation)
    if not measured.count:
        return None
    voxels = voxels_of(measured)
    trained = learn_prior(problem, voxels, options, seed, progress)
    return learn_subject(problem, voxels, trained, options, seed).network


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    learned: Network | None = None,
    options: Options | None = None,
) -> Estimate:
    """Answer for every voxel, by a network `learn` made or a new one."""
    learned = learned or learn(problem, observation, seed, progress, options)
    measured = Measured.of(problem, observation)
    if learned is None or not measured.count:
        return measured.blank()
    return answer(measured, voxels_of(measured), learned, options or Options())


def _on_device(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def answer(measured: Measured, voxels: Voxels, network: Network, options: Options) -> Estimate:
    """Estimates of all voxels by a trained network."""
    mean, factor = infer(network, voxels)
    outside = _outside(network, voxels)
    if options.refine:
        return _refined(measured, voxels, mean, outside)
    moments = jax.jit(partial(_theta_moments, measured.problem))(mean, factor)
    theta = np.asarray(moments[0])
    size = voxels_per_chunk(measured.problem, None, measured.data.dtype)
    fitted = over_chunks(jax.jit(measured.problem.predict), [theta, voxels.known], size)
    return measured.finish(
        theta,
        moments[1],
        fitted,
        at_bound=_at_bound(mean),
        interval=_interval(measured.problem, mean, factor),
        codes={Validity.OUT_OF_RANGE: outside},
    )


def _refined(
    measured: Measured, voxels: Voxels, first: np.ndarray, outside: np.ndarray
) -> Estimate:
    """Answers refined on each voxel's own data; a full fit starts those that still misfit."""
    problem = measured.problem
    found = _run_refine(problem, voxels, first)
    poor = ~found.converged | (_p_value(problem, found.chi2) < MISFIT_P)
    if poor.any():
        again = np.flatnonzero(poor)
        fit = fit_measured(measured.take(again), least_squares.Options())
        start = np.asarray(unconstrained.to_u(problem, jnp.asarray(fit.theta)))
        some = Voxels(*(np.asarray(x)[..., again] for x in voxels))  # type: ignore[arg-type]
        other = _run_refine(problem, some, start)
        better = other.converged & (~found.converged[again] | (other.chi2 < found.chi2[again]))
        found = jax.tree.map(
            lambda old, new: _put(old, again[better], new[..., better]), found, other
        )
    codes: dict[Validity, Any] = {Validity.NOT_CONVERGED: ~found.converged}
    if measured.noise is not None:
        codes[Validity.MISFIT] = _p_value(problem, found.chi2) < MISFIT_P
    estimate = measured.finish(
        found.mean,
        found.covariance,
        found.fitted,
        at_bound=_at_bound(found.mode),
        interval=_interval(problem, found.u_mean, found.u_factor),
        codes={**codes, Validity.OUT_OF_RANGE: outside & poor},
    )
    bent = np.zeros(measured.fittable.shape, bool)
    bent[measured.fittable] = found.departure > MOST_DEPARTURE
    plain = bent & (estimate.validity == Validity.OK)
    codes_of = np.where(plain, Validity.NOT_GAUSSIAN, estimate.validity).astype(np.uint8)
    return dataclasses.replace(estimate, validity=codes_of)


def _put(old: np.ndarray, where: np.ndarray, new: np.ndarray) -> np.ndarray:
    merged = old.copy()
    merged[..., where] = new
    return merged


def _run_refine(problem: InverseProblem, voxels: Voxels, first: np.ndarray) -> Refined:
    size = voxels_per_chunk(problem, None, first.dtype)
    found: Refined = over_chunks(
        lambda *chunk: refine(problem, Voxels(*chunk[:4]), chunk[4]), [*voxels, first], size
    )
    return found


def _p_value(problem: InverseProblem, distance2: Any) -> np.ndarray:
    p: np.ndarray = chi2.sf(distance2, least_squares.degrees_of_freedom(problem))
    return p


def _at_bound(u: Any) -> np.ndarray:
    end = np.log(1e-3 / (1 - 1e-3))
    found: np.ndarray = (np.abs(np.asarray(u)) > -end).any(axis=0)
    return found


def _interval(problem: InverseProblem, mean: Any, factor: Any) -> tuple[Array, Array]:
    """Central 95 % intervals of a Gaussian in unconstrained space."""
    reach = GAUSSIAN_QUANTILE * jnp.sqrt(jnp.sum(jnp.asarray(factor) ** 2, axis=1))
    low, high = (unconstrained.to_theta(problem, jnp.asarray(mean) + s * reach) for s in (-1, 1))
    return low, high


def _theta_moments(problem: InverseProblem, mean: Array, factor: Array) -> tuple[Array, Array]:
    """Mean and covariance in package units of a Gaussian in unconstrained space."""
    z, w = (jnp.asarray(x, mean.dtype) for x in gaussian_nodes(mean.shape[0]))
    u = mean[None] + jnp.einsum("ijv,jm->miv", factor, z)
    theta = jax.vmap(partial(unconstrained.to_theta, problem))(u)
    return weighted(theta, jnp.broadcast_to(w[:, None], (w.size, mean.shape[1])))


def _outside(network: Network, voxels: Voxels) -> np.ndarray:
    """Voxels with an input farther from those of training than any was likely to be."""
    inputs = features(_on_device(voxels))
    away = jnp.abs(inputs - network.centre[:, None]) * network.gain[:, None]
    return np.asarray(jnp.max(away, axis=0) > 6.0)
