"""From a plan to the arrays a method sees: in-mask voxels, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cestprep.bids.auxiliary import auxiliary_values, usable_auxiliary
from cestprep.bids.files import image_data, read_json, replacing, write_json
from cestprep.bids.noise import fields_of, find_noise
from cestprep.bids.plan import SessionPlan, StagePlan
from cestprep.inference.estimate import Estimate
from cestprep.inference.noise import RESIDUAL
from cestprep.inference.normalization import Comparison
from cestprep.inference.problem import Observation
from cestprep.physics.protocol import without_volumes


def sampled(plan: StagePlan) -> StagePlan:
    """The plan without volumes whose place was lost to motion: they are played, not compared."""
    lost = lost_volumes(plan)
    if not lost:
        return plan
    protocol = without_volumes(plan.problem.protocol, lost)
    return replace(plan, problem=replace(plan.problem, protocol=protocol))


def lost_volumes(plan: StagePlan) -> list[int]:
    """Volumes of a prepared series whose place is not known, by index."""
    return [int(i) for i in fields_of(plan).get("LostVolumes", [])]


def observe(
    session: SessionPlan, plan: StagePlan, earlier: Mapping[str, Estimate]
) -> tuple[Observation, np.ndarray]:
    """Signals, their noise and known parameters of all voxels in the mask.

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
    volumes = image_data(plan.series.image)[..., list(plan.problem.protocol.sampled)]
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
    if not session.propagate:
        covariance[:] = 0
    found = find_noise(plan, volumes, mask)
    level = None if found is None else np.full(known.shape[1], found.sd)
    origin = RESIDUAL if found is None else found.source
    return Observation(volumes[mask].T, known, covariance, level, origin), usable


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


#: Noise and residuals that differ by more than this factor contradict each other.
_MOST_APART = 3.0


@dataclass(frozen=True)
class Record:
    """What sidecars and report say of a fit beside its estimate.

    Attributes
    ----------
    noise_source : str
        As in `Observation`.
    noise_sd : float or None
        SD of one volume in the units of the series; None where the source is the residual.
    residual_sd : float or None
        What the fit left, as `cestprep.inference.residual.residual_sd`; None where nothing was.
    normalization : mapping
        Fields of `Comparison`; empty where there is none.
    curve : sequence
        Of `cestprep.inference.training.Trained`; empty where nothing was trained.
    """

    noise_source: str
    noise_sd: float | None
    residual_sd: float | None
    normalization: Mapping[str, Any]
    curve: Sequence[Sequence[Any]] = ()

    @classmethod
    def of(
        cls,
        observation: Observation,
        comparison: Comparison | None,
        residual_sd: float | None,
        curve: Sequence[Sequence[Any]] = (),
    ) -> Record:
        """The record of a fit to an observation."""
        sd = None if observation.noise_sd is None else float(observation.noise_sd[0])
        compared = asdict(comparison) if comparison else {}
        return cls(observation.noise_source, sd, residual_sd, compared, curve)

    @property
    def doubt(self) -> str:
        """A sentence where the noise is far from what the fit left, else nothing."""
        if not self.noise_sd or not self.residual_sd:
            return ""
        ratio = self.residual_sd / self.noise_sd
        if 1 / _MOST_APART < ratio < _MOST_APART:
            return ""
        return (
            f"The noise ({self.noise_source}) has an SD of {self.noise_sd:.4g}, but fits leave "
            f"residuals of {self.residual_sd:.4g}: either the noise is not in the units of the "
            "series, or the model does not describe it."
        )


def save_record(path: Path, record: Record) -> Path:
    """Keep a record as JSON (atomically)."""
    noise = {
        "source": record.noise_source,
        "sd": record.noise_sd,
        "residual_sd": record.residual_sd,
    }
    about = {"normalization": dict(record.normalization), "noise": noise}
    return write_json(path, {**about, "curve": [list(row) for row in record.curve]})


def load_record(path: Path) -> Record:
    """Read what `save_record` wrote."""
    content = read_json(path)
    noise, curve = content["noise"], tuple(map(tuple, content["curve"]))
    compared = content["normalization"]
    return Record(noise["source"], noise["sd"], noise["residual_sd"], compared, curve)
