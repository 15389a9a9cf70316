"""How much a stage's numbers depend on the normalisation: the same voxels under both."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference.estimate import Estimate
from cestprep.inference.least_squares import Options, degrees_of_freedom, minimize
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.recipe import Normalization
from cestprep.inference.solving import most_common_solver
from cestprep.physics import simulate


@dataclass(frozen=True)
class Comparison:
    """Medians of the free parameters over the same voxels under two normalisations.

    Attributes
    ----------
    n_voxels : int
        Voxels compared, evenly spaced among the valid ones.
    medians : mapping of normalisation to list of float
        In package units, one per free parameter.
    """

    n_voxels: int
    medians: dict[str, list[float]]


def other_normalization(problem: InverseProblem) -> Normalization | None:
    """The normalisation to compare with; None where the series has no reference volume."""
    if not any(problem.protocol.is_m0) or problem.normalization == "free-scale":
        return None
    return "m0" if problem.normalization == "unit-norm" else "unit-norm"


def compare_normalizations(
    problem: InverseProblem, observation: Observation, estimate: Estimate, most_voxels: int = 64
) -> Comparison | None:
    """Fit some valid voxels by least squares under both normalisations, from their estimates.

    One small program fits both, whatever method estimated: another run of the method would compile
    everything again, and train networks again.

    Parameters
    ----------
    problem, observation, estimate
        A stage, its data and its result, for the same voxels.
    most_voxels : int
        Enough for a median known to a few percent at small cost.
    """
    other = other_normalization(problem)
    valid = np.flatnonzero(estimate.valid)
    if other is None or not valid.size:
        return None
    count = min(most_voxels, valid.size)
    chosen = valid[np.linspace(0, valid.size - 1, count).round().astype(int)]
    names: tuple[Normalization, Normalization] = (problem.normalization, other)
    theta, converged = _fit_both(problem, observation.take(chosen), estimate.mean[:, chosen], names)
    both = converged.all(axis=0)
    if not both.any():
        return None
    medians: dict[str, list[float]] = {
        name: np.median(values[:, both], axis=1).tolist()
        for name, values in zip(names, theta, strict=True)
    }
    return Comparison(int(both.sum()), medians)


def _fit_both(
    problem: InverseProblem,
    observation: Observation,
    start: np.ndarray,
    names: tuple[Normalization, Normalization],
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters ``(2, p, V)`` under two normalisations, and which converged ``(2, V)``."""
    solver_problem = most_common_solver(problem, observation)
    arrays = [np.asarray(a, np.float32) for a in (observation.data, observation.known, start)]
    theta, converged = _fit(solver_problem, names, *arrays)
    return np.asarray(theta), np.asarray(converged)


@partial(jax.jit, static_argnames=("problem", "names"))
def _fit(
    problem: InverseProblem,
    names: tuple[Normalization, Normalization],
    data: Array,
    known: Array,
    start: Array,
) -> tuple[Array, Array]:
    """Every voxel twice, side by side, so that the simulator is compiled once."""
    low, high = (jnp.asarray(b, data.dtype)[:, None] for b in problem.bounds.T)
    kinds = [dataclasses.replace(problem, normalization=name) for name in names]
    twice = partial(jnp.tile, reps=(1, 2))
    known = twice(known)

    def normalized(z: Array) -> Array:
        halves = jnp.split(z, 2, axis=1)
        return jnp.concatenate(
            [kind.normalize(half) for kind, half in zip(kinds, halves, strict=True)], axis=1
        )

    def linearize(u: Array) -> tuple[Array, Array]:
        return simulate.value_and_tangents(
            lambda v: normalized(problem.signal(low + v * (high - low), known)), u
        )

    u = jnp.clip((twice(start) - low) / (high - low), 0.0, 1.0)
    dof = float(degrees_of_freedom(problem))
    end, converged = minimize(linearize, normalized(twice(data)), u, dof, Options())
    theta = low + end.u * (high - low)
    return jnp.stack(jnp.split(theta, 2, axis=1)), jnp.stack(jnp.split(converged, 2))
