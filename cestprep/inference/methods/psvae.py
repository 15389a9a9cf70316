"""Physics-structured variational autoencoder: a network's Gaussian posterior, decoded by physics.

Source: arXiv 2602.03317.  Here the evidence bound has each voxel's own noise level, errors of known
parameters enter the likelihood, parameters are unconstrained, and the network starts from the
posterior of simulated voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

from cestprep.inference import answers, fitting, paper
from cestprep.inference.chunks import Progress, phase
from cestprep.inference.estimate import Estimate, Meaning
from cestprep.inference.measured import CUT_GAUSSIAN, MARGINAL, Measured
from cestprep.inference.options import at_most
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.refine import NODES
from cestprep.inference.residual import voxels_of
from cestprep.inference.training import Part, Store, Trained

TITLE = "physics-structured variational autoencoder"
NEEDS_NOISE = True
PAPER_OPTIONS = frozenset({"paper", "steps"})


@dataclass(frozen=True)
class Options(fitting.Options):
    """The same, and more.

    Attributes
    ----------
    paper : bool
        Network and loss as published, trained on the subject's own voxels for ``steps``.
    """

    paper: bool = False


def meaning(options: fitting.Options) -> Meaning:
    """What means and intervals are."""
    if isinstance(options, Options) and options.paper:
        return Meaning("centre of the network's Gaussian", CUT_GAUSSIAN, gaussian=True)
    if options.refine:
        return Meaning("posterior mean", MARGINAL)
    return Meaning("posterior mean, by the network", "of the network's Gaussian of logits")


def adapted(problem: InverseProblem, options: fitting.Options) -> InverseProblem:
    """The problem; with the paper's ranges and normalisation in its mode."""
    if isinstance(options, Options) and options.paper:
        return paper.published_problem(problem, paper.PSVAE)
    if options.refine:
        at_most(max(NODES), [f.name for f in problem.free])
    return problem


def learn(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
    store: Store | None = None,
) -> Trained | None:
    """Train on the prior and on these voxels; None where none carries signal."""
    options = options or Options()
    if not options.paper:
        return fitting.learn(problem, observation, options, seed, progress, store)
    measured = Measured.of(problem, observation)
    if not measured.count:
        return None
    part = Part("own voxels", phase(progress, "training", "steps"), store)
    return paper.learn(problem, voxels_of(measured), paper.PSVAE, options.steps, seed, part)


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: fitting.Options | None = None,
    learned: Trained | None = None,
) -> Estimate:
    """Answer for every voxel, by what `learn` made."""
    del seed
    measured = Measured.of(problem, observation)
    if learned is None or not measured.count:
        return measured.blank()
    options, voxels = options or Options(), voxels_of(measured)
    if isinstance(options, Options) and options.paper:
        return answers.published(measured, voxels, learned.network)
    if options.refine:
        return answers.refined(measured, voxels, learned.network, progress)
    return answers.plain(measured, voxels, learned.network)
