"""Real mice: a network of three answers for the fourth, beside the reference grid."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.validation.agreement import compare
from cestprep.bids.cohort import joined
from cestprep.bids.observe import observe
from cestprep.bids.plan import SessionPlan, plan_session
from cestprep.bids.session import make_layout, select_session
from cestprep.data import load_recipe
from cestprep.inference import methods, solving
from cestprep.inference.estimate import Estimate
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.recipe import Recipe

TRAINING, HELD_OUT = ("m01", "m02", "m03"), "m04"


def sessions(data: Path, subjects: tuple[str, ...]) -> list[SessionPlan]:
    """Plans of all sessions of some mice, without propagation as the papers' grid has it."""
    recipe = Recipe.from_mapping(load_recipe("mouse-7t"))
    layout = make_layout(data, subjects)
    masks = {"masks": make_layout(data / "derivatives/masks", subjects)}
    plans = []
    for subject in subjects:
        for folder in sorted((data / f"sub-{subject}").glob("ses-*")):
            files = select_session(layout, masks, subject, folder.name.removeprefix("ses-"))
            plans.append(plan_session(files, recipe, ("B0", "B1"), propagate=False))
    return plans


def estimates(
    plans: list[SessionPlan], stage: str, earlier: dict[str, dict[str, Estimate]]
) -> list[tuple[SessionPlan, InverseProblem, Observation, np.ndarray]]:
    """Usable voxels of a stage in all sessions."""
    found = []
    for session in plans:
        plan = session.stage(stage)
        observation, usable = observe(session, plan, earlier.get(session.label, {}))
        seen = solving.prepared(methods.load("psvae"), plan.problem, observation.take(usable))
        found.append((session, plan.problem, seen, usable))
    return found


def study(data: Path) -> dict[str, Any]:
    """MT, then amide with the MT estimates as exact."""
    psvae, grid = methods.load("psvae"), methods.load("grid")
    training, held_out = sessions(data, TRAINING), sessions(data, (HELD_OUT,))
    earlier: dict[str, dict[str, Estimate]] = {}
    rows: dict[str, Any] = {}
    for stage in ("mt", "amide"):
        seen = estimates(training, stage, earlier)
        learned = solving.learn(psvae, seen[0][1], joined([o for _, _, o, _ in seen]))
        others = estimates(held_out, stage, earlier)
        both = joined([o for _, _, o, _ in others])
        problem = others[0][1]
        reference = solving.estimate(grid, problem, both)
        for mode, refine in (("transfer", False), ("transfer+refine", True)):
            options = dataclasses.replace(psvae.Options(), refine=refine)
            found = solving.estimate(psvae, problem, both, 0, None, options, learned)
            rows[f"{stage}, {mode}"] = compare(found, reference)
        for session, problem, observation, usable in [*seen, *others]:
            full = Estimate.blank(2, problem.protocol.n_volumes, np.full(usable.size, 2))
            part = solving.estimate(psvae, problem, observation, learned=learned)
            earlier.setdefault(session.label, {})[stage] = full.fill(usable, part)
    return rows
