"""From files found to a plan: what each stage uses and why; everything wrong is said at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cestprep.bids.auxiliary import AuxiliarySource, plan_auxiliary
from cestprep.bids.checks import check_images
from cestprep.bids.protocols import build_protocol, frequency_mhz, is_number, read_context
from cestprep.bids.pulseq import contradictions, find_sequence, read_and_play
from cestprep.bids.session import Region, Series, SessionFiles, session_label
from cestprep.bids.sidecars import source_entities
from cestprep.errors import Fault, InputError
from cestprep.inference.problem import InverseProblem
from cestprep.inference.recipe import Recipe, Stage
from cestprep.physics.protocol import Protocol
from cestprep.physics.solvers import unsuitable
from cestprep.settings import ALL_STAGES


@dataclass(frozen=True)
class StagePlan:
    """A stage of the recipe and the series that feeds it.

    Attributes
    ----------
    stage : Stage
    series : Series
    problem : InverseProblem
    recipe : Recipe
    noise_sd : float or None
        SD of the noise of one volume on the user's word, in the units of the series.
    sequence : Path or None
        Pulseq file of the series, whose pulses are simulated.
    network : Path or None
        Record of the trained network that answers; its weights are beside it.
    network_saw : tuple of str
        Participants it was trained on.
    """

    stage: Stage
    series: Series
    problem: InverseProblem
    recipe: Recipe
    noise_sd: float | None = None
    sequence: Path | None = None
    network: Path | None = None
    network_saw: tuple[str, ...] = ()

    @property
    def inherited_order(self) -> dict[str, list[str]]:
        """Free parameters of each earlier stage, in the order of its estimate."""
        return {s.name: [f.name for f in s.free] for s in self.recipe.stages}

    @property
    def inputs_from(self) -> tuple[str, ...]:
        """Earlier stages whose result this one needs."""
        return tuple(dict.fromkeys(stage for _, stage, _ in self.stage.inherited))

    @property
    def entities(self) -> dict[str, str]:
        """Entities of the series (``acq``, ``run``, …); they only go into file names."""
        return source_entities(self.series.image)

    @property
    def reference_volume(self) -> int:
        """Index of the first unsaturated volume, else 0."""
        is_m0 = self.problem.protocol.is_m0
        return is_m0.index(True) if True in is_m0 else 0


@dataclass(frozen=True)
class SessionPlan:
    """Everything the workflow of one session needs to know.

    Without ``propagate`` the maps' SDs are left out of ``auxiliary``, and what an earlier stage
    found counts as exact.
    """

    subject: str
    session: str | None
    root: Path
    recipe: Recipe
    stages: tuple[StagePlan, ...]
    auxiliary: tuple[AuxiliarySource, ...]
    mask: Path
    regions: tuple[Region, ...]
    unused: tuple[Path, ...]
    propagate: bool = True

    @property
    def label(self) -> str:
        """``sub-…[_ses-…]``."""
        return session_label(self.subject, self.session)

    @property
    def files(self) -> list[Path]:
        """Every image the session reads."""
        maps = [p for a in self.auxiliary for p in (a.image, a.sd) if p is not None]
        labels = [p for r in self.regions for p in (r.image, r.table) if p is not None]
        records = [plan.network for plan in self.stages if plan.network is not None]
        networks = [p for r in records for p in (r, r.with_suffix(".safetensors"))]
        series = (plan.series.image for plan in self.stages)
        played = [plan.sequence for plan in self.stages if plan.sequence is not None]
        return [*series, *played, *maps, self.mask, *labels, *networks]

    def stage(self, name: str) -> StagePlan:
        """The plan of a stage."""
        return next(plan for plan in self.stages if plan.stage.name == name)

    def seen_by(self, plan: StagePlan) -> str:
        """Whom a stage's reused network was trained on, in words."""
        known = ", ".join(f"sub-{subject}" for subject in plan.network_saw)
        if self.subject not in plan.network_saw:
            return known
        return f"{known}: this participant is among them, so these are no held-out answers"

    def describe(self) -> str:
        """What will be used, for ``--dry-run`` and the log."""
        lines = [f"{self.label}: recipe {self.recipe.name}"]
        for plan in self.stages:
            wanted = ", ".join(f"{f.name} {f.low:g}-{f.high:g} {f.unit}" for f in plan.stage.free)
            lines.append(
                f"  {plan.stage.name}: {plan.series.image.name}, "
                f"{plan.problem.protocol.n_volumes} volumes, model {plan.stage.model}, "
                f"normalisation {plan.stage.normalization} -> {wanted}"
            )
            if plan.sequence is not None:
                lines.append(f"    pulses of {plan.sequence.name}, offset and B1 of the table")
            if plan.network is not None:
                lines.append(f"    network {plan.network} (--checkpoint)")
                lines.append(f"    trained on {self.seen_by(plan)}")
            if plan.noise_sd is not None:
                lines.append(f"    noise SD {plan.noise_sd:g} (--noise-sd)")
        for source in self.auxiliary:
            name = source.image.name if source.image else f"nominal {source.nominal:g} (asked for)"
            lines.append(f"  {source.quantity}: {name}" + (" with SD map" if source.sd else ""))
        if not self.propagate:
            lines.append("  uncertainty of maps and earlier stages left out (--no-propagate)")
        lines.append(f"  mask: {self.mask.name}")
        lines += [f"  region {r.name}: {r.image.name}" for r in self.regions]
        lines += [
            f"  not used: {path.name} (no stage of the recipe asks for it)" for path in self.unused
        ]
        return "\n".join(lines)


def plan_session(
    files: SessionFiles,
    recipe: Recipe,
    assume_nominal: Sequence[str],
    solver: str = "auto",
    *,
    noise_sd: Mapping[str, float] | None = None,
    propagate: bool = True,
    adapt: Callable[[InverseProblem], InverseProblem] | None = None,
) -> SessionPlan:
    """Match a session's files with a recipe.

    Parameters
    ----------
    files : SessionFiles
    recipe : Recipe
    assume_nominal, solver, noise_sd, propagate
        As in `cestprep.settings.Settings`.
    adapt : callable, optional
        What the method makes of a recipe's problem.

    Raises
    ------
    InputError
        With one fault for everything that is missing, contradictory or implausible.
    """
    faults: list[Fault] = []
    stages = []
    for stage in recipe.stages:
        try:
            stages.append(
                replace(
                    _plan_stage(files, recipe, stage, solver, adapt),
                    noise_sd=_given_noise(noise_sd or {}, stage.name),
                )
            )
        except InputError as exc:
            faults += exc.faults
    if not propagate:
        files = replace(files, maps={q: replace(m, sd=None) for q, m in files.maps.items()})
    sources = plan_auxiliary(files, recipe, assume_nominal, faults)
    if files.mask is None:
        faults.append(
            Fault(
                files.folder,
                f"no {recipe.mask} mask (desc-{recipe.mask}_mask) was found",
                "Give a derivative dataset that holds one: --derivatives masks=PATH",
            )
        )
    else:
        series = [(plan.series, plan.problem.protocol.n_volumes) for plan in stages]
        faults += check_images(files.mask, series, sources, files.regions)
    if faults or files.mask is None:
        raise InputError(*faults)
    used = {plan.series.image for plan in stages}
    return SessionPlan(
        files.subject,
        files.session,
        files.root,
        recipe,
        tuple(stages),
        tuple(sources),
        files.mask,
        files.regions,
        tuple(s.image for s in files.series if s.image not in used),
        propagate,
    )


def _given_noise(noise_sd: Mapping[str, float], stage: str) -> float | None:
    value = noise_sd.get(stage, noise_sd.get(ALL_STAGES))
    return None if value is None else float(value)


def _plan_stage(
    files: SessionFiles,
    recipe: Recipe,
    stage: Stage,
    solver: str,
    adapt: Callable[[InverseProblem], InverseProblem] | None,
) -> StagePlan:
    found = [s for s in files.series if stage.target in s.targets]
    if len(found) != 1:
        others = ", ".join(
            f"{s.image.name} ({', '.join(s.targets) or 'none'})" for s in files.series
        )
        raise InputError(
            Fault(
                files.folder,
                f"stage '{stage.name}' needs one series with SaturationTarget '{stage.target}', "
                f"found {len(found)} (series and their targets: {others or 'none at all'})",
                "Add it, set SaturationTarget in its sidecar, or give a recipe without this stage"
                if not found
                else "Repeated series are not handled yet: keep one of them in the dataset",
            )
        )
    series = found[0]
    if series.context is None:
        raise InputError(
            Fault(series.image, "has no cestcontext.tsv", "Add the table (CEST-BIDS 1.1)")
        )
    field = series.fields.get("MagneticFieldStrength")
    if not is_number(field) or abs(field - recipe.field_t) > 0.1 * recipe.field_t:
        raise InputError(
            Fault(
                series.image,
                f"MagneticFieldStrength is {field!r}, but recipe {recipe.name} is for "
                f"{recipe.field_t:g} T",
                "Choose the recipe for this scanner (--recipe) or correct the sidecar",
            )
        )
    table = read_context(series.context)
    sequence = find_sequence(series.image, files.root, series.fields)
    played = _played(sequence, series, table)
    protocol = build_protocol(table, series.fields, series.image, series.context, played)
    needed = len(stage.free) + 2
    if protocol.n_volumes < needed:
        what = f"has {protocol.n_volumes} volumes, too few to fit {len(stage.free)} parameters"
        raise InputError(Fault(series.image, what, f"Supply at least {needed} volumes"))
    try:
        problem = InverseProblem.of_stage(recipe, stage, protocol, solver)
        if adapt is not None:
            problem = adapt(problem)
            stage = replace(stage, free=problem.free, normalization=problem.normalization)
    except ValueError as exc:
        mend = "Choose another recipe, or other options of the method"
        raise InputError(Fault(series.image, str(exc), mend)) from None
    why = unsuitable(solver, protocol, problem.model) if solver != "auto" else None
    if why:
        raise InputError(Fault(series.image, f"--solver {solver}: {why}", "Use --solver auto"))
    return StagePlan(stage, series, problem, recipe, sequence=sequence)


def _played(sequence: Path | None, series: Series, table: pd.DataFrame) -> Protocol | None:
    """What the sequence of a series plays, if there is one.

    Raises
    ------
    InputError
        If it cannot be used, or contradicts table or sidecar.
    """
    frequency = frequency_mhz(series.fields)
    if sequence is None or frequency is None:  # of a missing frequency the protocol complains
        return None
    content, played = read_and_play(sequence, frequency)
    faults = contradictions(sequence, content, table, series.fields, played)
    if faults:
        raise InputError(*faults)
    return played
