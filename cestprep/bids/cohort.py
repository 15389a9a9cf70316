"""Voxels of many sessions, to train one network on; never more than a fixed number in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cestprep.bids.observe import lost_volumes, observe
from cestprep.bids.plan import SessionPlan, StagePlan
from cestprep.errors import Fault, UsageError
from cestprep.inference import solving
from cestprep.inference.checkpoint import describe, differences
from cestprep.inference.estimate import Estimate, Validity
from cestprep.inference.methods import Method
from cestprep.inference.noise import RESIDUAL
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.training import Trained

#: Voxels of all sessions together.
MOST_VOXELS = 200_000


def common_problem(sessions: Sequence[SessionPlan], stage: str) -> InverseProblem:
    """The problem a stage poses in all sessions.

    Raises
    ------
    UsageError
        Naming the first session that poses another, and how it differs.
    """
    first = sessions[0]
    problem = first.stage(stage).problem
    for session in sessions[1:]:
        plan = session.stage(stage)
        pair = (describe(p, session.propagate) for p in (problem, plan.problem))
        lines = [x.replace("in the checkpoint", f"in {first.label}") for x in differences(*pair)]
        if lines:
            what = f"stage {stage} differs from that of {first.label}: {'; '.join(lines)}"
            mend = "Train on sessions of one protocol (--participant-label, --session-label)"
            raise UsageError(Fault(plan.series.image, what, mend))
    return problem


def pooled(
    sessions: Sequence[SessionPlan],
    stage: str,
    method: Method,
    earlier: Mapping[str, Mapping[str, Estimate]],
) -> tuple[Observation, dict[str, np.ndarray]]:
    """Voxels of all sessions, equally many of each as far as they go.

    Sessions that lost volumes to motion are left out.

    Parameters
    ----------
    sessions : sequence of SessionPlan
    stage : str
    method : Method
    earlier : mapping of session label to estimates by stage

    Returns
    -------
    Observation
    mapping of session label to ndarray
        Indices of the voxels chosen, among those in its mask.

    Raises
    ------
    UsageError
        If no session has a usable voxel.
    """
    parts, chosen = [], {}
    each = MOST_VOXELS // len(sessions)
    for session in sessions:
        plan = session.stage(stage)
        if lost_volumes(plan):
            continue
        observation, usable = observe(session, plan, earlier.get(session.label, {}))
        places = np.flatnonzero(usable)
        places = (
            places[np.unique(np.linspace(0, places.size - 1, each).round().astype(int))]
            if (places.size > each)
            else places
        )
        if not places.size:
            continue
        chosen[session.label] = places
        parts.append(solving.prepared(method, plan.problem, observation.take(places)))
    if not parts:
        where = ", ".join(s.label for s in sessions)
        what = f"no voxel of stage {stage} is usable, or all sessions lost volumes to motion"
        raise UsageError(Fault(where, what, "Look at their masks and maps"))
    return joined(parts), chosen


def joined(parts: Sequence[Observation]) -> Observation:
    """Observations one after the other; the noise of all is thermal only if that of each is."""
    known = [p.noise_sd for p in parts if p.noise_sd is not None]
    return Observation(
        np.concatenate([p.data for p in parts], axis=1),
        np.concatenate([p.known for p in parts], axis=1),
        np.concatenate([p.known_covariance for p in parts], axis=2),
        np.concatenate(known) if len(known) == len(parts) else None,
        RESIDUAL if any(p.noise_source == RESIDUAL for p in parts) else parts[0].noise_source,
    )


def answered(
    session: SessionPlan,
    plan: StagePlan,
    places: np.ndarray,
    method: Method,
    trained: Trained | None,
    earlier: Mapping[str, Estimate],
) -> Estimate:
    """Estimates of the voxels chosen, the others marked as missing, for the next stage."""
    observation, usable = observe(session, plan, earlier)
    codes = np.full(usable.size, Validity.MISSING_AUXILIARY)
    blank = Estimate.blank(len(plan.stage.free), plan.problem.protocol.n_volumes, codes)
    inside = np.zeros(usable.size, bool)
    inside[places] = True
    found = solving.estimate(method, plan.problem, observation.take(inside), learned=trained)
    return blank.fill(inside, found)
