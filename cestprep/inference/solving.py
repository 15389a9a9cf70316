"""Which solver simulates which voxel of a problem."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cestprep.inference import methods
from cestprep.inference.chunks import Progress, phase
from cestprep.inference.estimate import Estimate, Validity, flag_misfits
from cestprep.inference.methods import Method
from cestprep.inference.noise import RESIDUAL
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import with_noise
from cestprep.inference.training import Store, Trained
from cestprep.physics import solvers


def solver_by_voxel(problem: InverseProblem, known: np.ndarray) -> np.ndarray:
    """Name of the solver for each voxel, shape (V,).

    Under ``auto`` that is ``reduced`` where it is accurate for every value the free parameters may
    take (fractions and rates at their upper bounds ask most of it), else ``general``.

    Parameters
    ----------
    problem : InverseProblem
    known : ndarray, shape (q, V)
    """
    n = known.shape[1]
    if problem.solver != "auto":
        return np.full(n, problem.solver)
    protocol, model = problem.protocol, problem.model
    if solvers.unsuitable("reduced", protocol, model) is not None:
        return np.full(n, "general")
    hardest = {name: np.full(n, value) for name, value in problem.constants}
    hardest |= {"m0": np.ones(n)} | dict(zip(problem.known_parameters, known, strict=True))
    hardest |= {
        f.parameter: np.full(n, high)
        for f, (_, high) in zip(problem.free, problem.bounds, strict=True)
    }
    accurate = solvers.reduced_is_accurate(protocol, model, hardest)
    return np.where(accurate, "reduced", "general")


def estimate(
    method: Method,
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Any = None,
    learned: Any = None,
) -> Estimate:
    """Estimate all voxels, each with its solver.

    Parameters
    ----------
    method : Method
    problem : InverseProblem
        Its solver may be ``auto``.
    observation : Observation
    seed : int
    progress : callable, optional
    options : Options of the method, optional
    learned
        What `learn` or the method's own ``learn`` made; needed where the method has one.
    """
    chosen = solver_by_voxel(problem, observation.known)
    codes = np.full(chosen.size, Validity.OK)
    result = Estimate.blank(len(problem.free), problem.protocol.n_volumes, codes)
    parts = [(name, chosen == name) for name in solvers.SOLVERS if (chosen == name).any()]
    observation = prepared(method, problem, observation)
    known = {"learned": learned} if methods.trains(method) else {}
    for name, voxels in parts:
        part = method.estimate(
            dataclasses.replace(problem, solver=name),
            observation.take(voxels),
            seed,
            progress if len(parts) == 1 else phase(progress, f"{name} solver"),
            options or method.Options(),
            **known,
        )
        result = result.fill(voxels, part)
    alone = len(parts) == 1 or observation.noise_source != RESIDUAL
    return result if alone else flag_misfits(result)


def prepared(method: Method, problem: InverseProblem, observation: Observation) -> Observation:
    """The observation with a noise level, if the method needs one and none is known."""
    if not method.NEEDS_NOISE:
        return observation
    return with_noise(most_common_solver(problem, observation), observation)


def learn(
    method: Any,
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Any = None,
    store: Store | None = None,
) -> Trained | None:
    """Train a method's network for all voxels, with the solver of most of them."""
    chosen = most_common_solver(problem, observation)
    seen = prepared(method, problem, observation)
    trained: Trained | None = method.learn(
        chosen, seen, seed, progress, options or method.Options(), store
    )
    return trained


def most_common_solver(problem: InverseProblem, observation: Observation) -> InverseProblem:
    """The problem with the solver of most voxels."""
    chosen = solver_by_voxel(problem, observation.known)
    names, counts = np.unique(chosen, return_counts=True)
    solver = str(names[np.argmax(counts)]) if names.size else "general"
    return dataclasses.replace(problem, solver=solver)
