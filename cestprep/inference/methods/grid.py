"""Reference posterior: exact signals on a grid refined until it resolves the density."""

from __future__ import annotations

from dataclasses import dataclass

from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate, Meaning, Validity
from cestprep.inference.grid import FINAL_CELLS, explore_all, published_all
from cestprep.inference.measured import MARGINAL, Measured
from cestprep.inference.options import at_most
from cestprep.inference.paper import only_two
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import departures, voxels_of

TITLE = "reference posterior on a refined grid (uniform prior, exact signals)"
NEEDS_NOISE = True
PAPER_OPTIONS = frozenset({"paper"})


@dataclass(frozen=True)
class Options:
    """Settings of the grid.

    Attributes
    ----------
    paper : bool
        The published reference instead: one fixed grid of 100 x 100 cells over the ranges, known
        parameters taken as exact, the noise from the best cell's residual.
    """

    paper: bool = False


def meaning(options: Options) -> Meaning:
    """What means and intervals are."""
    del options
    return Meaning("posterior mean", MARGINAL)


def adapted(problem: InverseProblem, options: Options) -> InverseProblem:
    """The problem, if a grid can have its axes."""
    if options.paper:
        only_two(problem)
    at_most(max(FINAL_CELLS), [f.name for f in problem.free if f.parameter != "m0"])
    return problem


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
) -> Estimate:
    """Posterior mean, covariance and intervals of every voxel; deterministic."""
    del seed
    measured = Measured.of(problem, observation)
    if not measured.count:
        return measured.blank()
    explore = published_all if options is not None and options.paper else explore_all
    found = explore(problem, voxels_of(measured), progress)
    return measured.finish(
        found.summary.mean,
        found.summary.covariance,
        found.fitted,
        at_bound=found.summary.at_bound,
        departure=departures(measured, found.summary.best),
        interval=(found.summary.lower, found.summary.upper),
        codes={Validity.NOT_CONVERGED: found.thin},
    )
