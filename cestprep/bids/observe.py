"""From a plan to the arrays a method sees: in-mask voxels, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cestprep.bids.auxiliary import auxiliary_values, usable_auxiliary
from cestprep.bids.files import image_data, replacing
from cestprep.bids.plan import SessionPlan, StagePlan
from cestprep.inference.estimate import Estimate
from cestprep.inference.problem import Observation


def observe(
    session: SessionPlan, plan: StagePlan, earlier: Mapping[str, Estimate]
) -> tuple[Observation, np.ndarray]:
    """Signals and known parameters of all voxels in the mask.

    Parameters
    ----------
    session, plan : SessionPlan, StagePlan
    earlier : mapping of stage name to Estimate
        Results whose posterior this stage inherits.

    Returns
    -------
    Observation
    ndarray of bool, shape (V,)
        Voxels for which every known parameter is usable.
    """
    mask = image_data(session.mask) > 0
    data = image_data(plan.series.image)[mask].T
    names = plan.problem.known_parameters
    known = np.zeros((len(names), mask.sum()), np.float32)
    covariance = np.zeros((len(names), *known.shape), np.float32)
    usable = np.ones(known.shape[1], bool)
    for source in session.auxiliary:
        if source.parameter in names:
            i = names.index(source.parameter)
            known[i], sd = auxiliary_values(source, mask)
            covariance[i, i] = sd**2
            usable &= usable_auxiliary(source.quantity, known[i]) & np.isfinite(sd)
    _inherit(plan, earlier, known, covariance, usable)
    known[:, ~usable] = 0
    covariance[:, :, ~usable] = 0
    return Observation(data, known, covariance), usable


def _inherit(
    plan: StagePlan,
    earlier: Mapping[str, Estimate],
    known: np.ndarray,
    covariance: np.ndarray,
    usable: np.ndarray,
) -> None:
    """Fill in the mean and joint covariance of parameters an earlier stage estimated."""
    names = plan.problem.known_parameters
    taken: dict[str, list[tuple[int, int]]] = {}
    for parameter, stage, free_name in plan.stage.inherited:
        order = plan.inherited_order[stage]
        taken.setdefault(stage, []).append((names.index(parameter), order.index(free_name)))
    for stage, pairs in taken.items():
        estimate = earlier[stage]
        usable &= estimate.valid
        for here, there in pairs:
            known[here] = estimate.mean[there]
            for here2, there2 in pairs:
                covariance[here, here2] = estimate.covariance[there, there2]


def save_estimate(path: Path, estimate: Estimate) -> Path:
    """Keep an estimate as .npz (atomically)."""
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **estimate.arrays())
    return path


def load_estimate(path: Path) -> Estimate:
    """Read what `save_estimate` wrote."""
    with np.load(path) as stored:
        return Estimate(**stored)
