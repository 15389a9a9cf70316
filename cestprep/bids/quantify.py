"""Estimation of one stage of one session, from its files to numbers and a trained network."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cestprep import __version__
from cestprep.bids.networks import TrainingFolder, read_network
from cestprep.bids.observe import Record, lost_volumes, observe, sampled
from cestprep.bids.plan import SessionPlan, StagePlan
from cestprep.inference import methods, solving
from cestprep.inference.checkpoint import Checkpoint, describe
from cestprep.inference.chunks import Progress, predict_all
from cestprep.inference.estimate import Estimate, Validity
from cestprep.inference.normalization import compare_normalizations
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import residual_sd
from cestprep.inference.training import Trained


@dataclass(frozen=True)
class How:
    """How to estimate.

    Attributes
    ----------
    method : str
    options : mapping of str to str
        Of the method.
    mode : str
        One of `cestprep.settings.MODES`.
    seed : int
    training_dir : Path
        Where interrupted training is kept.
    """

    method: str
    options: Mapping[str, str]
    mode: str
    seed: int
    training_dir: Path

    def settings(self) -> Any:
        """Options of the method in this mode."""
        return settings_of(self.method, self.options, self.mode)


def settings_of(method: str, given: Mapping[str, str], mode: str) -> Any:
    """Options of a method, where a checkpoint answers with what its mode says of refinement."""
    options = methods.options_of(method, given)
    if mode == "fit" or getattr(options, "paper", False):
        return options
    return replace(options, refine=mode == "transfer+refine")


@dataclass(frozen=True)
class Quantified:
    """Result of a stage; the network is there if one was trained."""

    estimate: Estimate
    record: Record
    network: Checkpoint | None


def quantify(
    session: SessionPlan,
    plan: StagePlan,
    earlier: Mapping[str, Estimate],
    how: How,
    progress: Progress | None = None,
) -> Quantified:
    """Estimate the free parameters of a stage in all voxels of the mask."""
    whole, plan = plan, sampled(plan)
    if plan.network is not None and plan.problem != whole.problem:
        raise RuntimeError(_LOST.format(stage=plan.stage.name, lost=_numbers(lost_volumes(plan))))
    observation, usable = observe(session, plan, earlier)
    codes = np.where(usable, Validity.OK, Validity.MISSING_AUXILIARY)
    estimate = Estimate.blank(len(plan.stage.free), plan.problem.protocol.n_volumes, codes)
    if not usable.any():
        return Quantified(estimate, Record.of(observation, None, None), None)
    method, options, problem = methods.load(how.method), how.settings(), plan.problem
    seen = solving.prepared(method, problem, observation.take(usable))
    network = _network(session, plan, seen, how, progress)
    learned = None if network is None else network.trained
    part = solving.estimate(method, problem, seen, how.seed, progress, options, learned)
    estimate = estimate.fill(usable, part)
    comparison = compare_normalizations(problem, seen, part)
    trained_here = network if how.mode == "fit" else None
    left = residual_sd(problem, part, seen.data)
    curve = trained_here.trained.curve if trained_here else ()
    record = Record.of(observation, comparison, left, curve)
    if plan.problem != whole.problem:
        estimate = _with_lost(whole, estimate, observation)
    return Quantified(estimate, record, trained_here)


_LOST = (
    "motion left the place of volumes {lost} of stage {stage} unknown, but a network that is "
    "reused needs all volumes. Run without --checkpoint, which trains one for the others"
)


def _numbers(volumes: Sequence[int]) -> str:
    return ", ".join(str(i + 1) for i in volumes)


def _with_lost(whole: StagePlan, estimate: Estimate, observation: Observation) -> Estimate:
    """The estimate with the fitted signal of all volumes, those that were left out too."""
    kept = np.array(sampled(whole).problem.protocol.sampled)
    dtype = estimate.fitted.dtype
    fitted = predict_all(whole.problem, estimate.mean.astype(dtype), observation.known)
    power = np.maximum(np.sum(fitted[kept] ** 2, axis=0), np.finfo(dtype).tiny)
    fitted = fitted * (np.sum(fitted[kept] * estimate.fitted, axis=0) / power)
    fitted = np.where(estimate.solver > 0, fitted, 0).astype(dtype)
    fitted[kept] = estimate.fitted
    return replace(estimate, fitted=fitted)


def _network(
    session: SessionPlan,
    plan: StagePlan,
    seen: Observation,
    how: How,
    progress: Progress | None,
) -> Checkpoint | None:
    """The network that answers: from the checkpoint, or trained on these voxels."""
    method = methods.load(how.method)
    if not methods.trains(method):
        return None
    if plan.network is not None:
        return read_network(plan.network)
    described = describe(plan.problem, session.propagate)
    folder = training_folder(how, f"{session.label}_{plan.stage.name}", described, seen)
    trained = train(plan.problem, seen, how, folder, progress)
    shutil.rmtree(folder, ignore_errors=True)
    if trained is None:
        return None
    return made(how, described, trained, [session.subject])


def made(
    how: How, described: Mapping[str, Any], trained: Trained, subjects: Sequence[str]
) -> Checkpoint:
    """A network that was trained, with everything it came from."""
    options = asdict(how.settings())
    seen = tuple(subjects)
    return Checkpoint(how.method, described, trained, seen, __version__, options, how.seed)


def train(
    problem: InverseProblem,
    seen: Observation,
    how: How,
    folder: Path,
    progress: Progress | None,
) -> Any:
    """Train a network, going on where an interrupted run stopped; ``folder`` is the caller's."""
    method, options, store = methods.load(how.method), how.settings(), TrainingFolder(folder)
    return solving.learn(method, problem, seen, how.seed, progress, options, store)


def training_folder(how: How, what: str, described: Mapping[str, Any], seen: Observation) -> Path:
    """Folder for the interrupted training of exactly this."""
    words = [described, how.method, dict(how.options), how.seed, __version__]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for array in (seen.data, seen.known, seen.known_covariance, seen.noise_sd):
        digest.update(np.ascontiguousarray(array).tobytes() if array is not None else b"")
    return how.training_dir / f"{what}_{digest.hexdigest()[:12]}"
