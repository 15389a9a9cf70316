"""Which solver simulates which voxel of a problem."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate, Validity, flag_misfits
from cestprep.inference.methods import Method
from cestprep.inference.problem import InverseProblem, Observation
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
    """
    chosen = solver_by_voxel(problem, observation.known)
    n_voxels = chosen.size
    codes = np.full(n_voxels, Validity.OK)
    result = Estimate.blank(len(problem.free), problem.protocol.n_volumes, codes)
    parts = [(name, chosen == name) for name in solvers.SOLVERS if (chosen == name).any()]
    before = 0

    def advance(done: int, total: int) -> None:
        if progress is not None:
            progress(before + done, n_voxels)

    learn = getattr(method, "learn", None)
    known: dict[str, Any] = {}
    if learn is not None and parts:  # one network for all, with the solver of most voxels
        most = max(parts, key=lambda part: part[1].sum())[0]
        chosen_problem = dataclasses.replace(problem, solver=most)
        known = {"learned": learn(chosen_problem, observation, seed, progress)}
    for name, voxels in parts:
        part = method.estimate(
            dataclasses.replace(problem, solver=name),
            observation.take(voxels),
            seed,
            advance,
            **known,
        )
        result = result.fill(voxels, part)
        before += int(voxels.sum())
    return flag_misfits(result) if len(parts) > 1 else result
