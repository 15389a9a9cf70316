"""From files found to a plan: what each stage uses and why; everything wrong is said at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cestprep.bids.auxiliary import AuxiliarySource, plan_auxiliary
from cestprep.bids.checks import check_images
from cestprep.bids.files import load_image
from cestprep.bids.preparation import (
    TISSUE,
    Outputs,
    Preparation,
    plan_preparation,
    why_still,
    with_prepared,
)
from cestprep.bids.protocols import is_number
from cestprep.bids.scans import Scan, anchor_of, played_protocol
from cestprep.bids.session import Region, Series, SessionFiles, session_label
from cestprep.bids.sidecars import source_entities
from cestprep.bids.templates import Space
from cestprep.errors import Fault, InputError
from cestprep.imaging.registration import SLOPPY, THOROUGH, Effort
from cestprep.inference.problem import InverseProblem
from cestprep.inference.recipe import Recipe, Stage
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
    raw : Path or None
        Image that ``series`` will be made from; None where ``series`` is taken as it is.
    """

    stage: Stage
    series: Series
    problem: InverseProblem
    recipe: Recipe
    noise_sd: float | None = None
    sequence: Path | None = None
    network: Path | None = None
    network_saw: tuple[str, ...] = ()
    raw: Path | None = None

    @property
    def found(self) -> Path:
        """Image of the series that exists beforehand."""
        return self.raw or self.series.image

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
        return anchor_of(self.problem.protocol)


@dataclass(frozen=True)
class SessionPlan:
    """Everything the workflow of one session needs to know.

    Without ``propagate`` the maps' SDs are left out of ``auxiliary``, and what an earlier stage
    found counts as exact.  With a ``preparation`` series, maps, mask and regions may be files that
    are made by it.  Maps are written in ``spaces`` too.  With ``sloppy`` registrations and training
    are short.
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
    preparation: Preparation | None = None
    made: tuple[Path, ...] = ()
    spaces: tuple[Space, ...] = ()
    sloppy: bool = False

    @property
    def effort(self) -> Effort:
        """How hard registrations search."""
        return SLOPPY if self.sloppy else THOROUGH

    @property
    def label(self) -> str:
        """``sub-…[_ses-…]``."""
        return session_label(self.subject, self.session)

    @property
    def files(self) -> list[Path]:
        """Every image the session reads that exists beforehand."""
        maps = [p for a in self.auxiliary for p in (a.image, a.sd) if p is not None]
        labels = [p for r in self.regions for p in (r.image, r.table) if p is not None]
        records = [plan.network for plan in self.stages if plan.network is not None]
        networks = [p for r in records for p in (r, r.with_suffix(".safetensors"))]
        series = (plan.found for plan in self.stages)
        played = [plan.sequence for plan in self.stages if plan.sequence is not None]
        raw = self.preparation.files if self.preparation else []
        used = dict.fromkeys([*series, *raw, *played, *maps, self.mask, *labels, *networks])
        return [path for path in used if path not in self.made]

    @property
    def frequency_mhz(self) -> float:
        """Scanner frequency."""
        return self.stages[0].problem.protocol.frequency_mhz

    def source_of(self, quantity: str) -> AuxiliarySource:
        """Where an auxiliary quantity comes from."""
        return next(a for a in self.auxiliary if a.quantity == quantity)

    def stage(self, name: str) -> StagePlan:
        """The plan of a stage."""
        return next(plan for plan in self.stages if plan.stage.name == name)

    def seen_by(self, plan: StagePlan) -> str:
        """Whom a stage's reused network was trained on, in words."""
        known = ", ".join(f"sub-{subject}" for subject in plan.network_saw)
        if self.subject not in plan.network_saw:
            return known
        return f"{known}: this participant is among them, so these are no held-out answers"

    def origin(self, source: AuxiliarySource) -> str:
        """Where an auxiliary quantity comes from, in words."""
        if source.image is None:
            return f"nominal {source.nominal:g} (asked for)"
        if source.image in self.made and self.preparation is not None:
            scan = self.preparation.scan_of(source.quantity)
            return f"made from {scan.name} ({', '.join(p.name for p in scan.images)})"
        return source.image.name + (" with SD map" if source.sd else "")

    def describe(self) -> str:
        """What will be used, for ``--dry-run`` and the log."""
        lines = [f"{self.label}: recipe {self.recipe.name}"]
        for plan in self.stages:
            wanted = ", ".join(f"{f.name} {f.low:g}-{f.high:g} {f.unit}" for f in plan.stage.free)
            lines.append(
                f"  {plan.stage.name}: {plan.found.name}, "
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
            lines.append(f"  {source.quantity}: {self.origin(source)}")
        if self.preparation is not None:
            lines += self.preparation.describe()
        if not self.propagate:
            lines.append("  uncertainty of maps and earlier stages left out (--no-propagate)")
        if self.spaces:
            lines.append(f"  maps also in: {', '.join(str(space) for space in self.spaces)}")
        if self.sloppy:
            lines.append("  registrations and training cut short (--sloppy): for trials only")
        if self.mask not in self.made:
            lines.append(f"  mask: {self.mask.name}")
        given = [r for r in self.regions if r.image not in self.made]
        lines += [f"  region {r.name}: {r.image.name}" for r in given]
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
    motion: bool = True,
    out_dir: Path | None = None,
    spaces: Sequence[Space] = (),
    sloppy: bool = False,
    adapt: Callable[[InverseProblem], InverseProblem] | None = None,
) -> SessionPlan:
    """Match a session's files with a recipe.

    Parameters
    ----------
    files : SessionFiles
    recipe : Recipe
    assume_nominal, solver, noise_sd, propagate, motion, sloppy
        As in `cestprep.settings.Settings`.
    out_dir : Path, optional
        Where what is made of raw scans goes; without it nothing is made, everything must be there.
    spaces : sequence of Space
        Standard spaces that maps are written in too.
    adapt : callable, optional
        What the method makes of a recipe's problem.

    Raises
    ------
    InputError
        With one fault for everything that is missing, contradictory or implausible.
    """
    faults: list[Fault] = []
    files = files if out_dir is None else with_prepared(files)
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
    preparation = None
    if out_dir is not None and len(stages) == len(recipe.stages):
        own = [
            Scan(p.stage.name, (p.series.image,), p.reference_volume, protocol=p.problem.protocol)
            for p in stages
        ]
        preparation = plan_preparation(files, recipe, own, assume_nominal, motion, faults)
    made = () if preparation is None else tuple(preparation.maps)
    sources = plan_auxiliary(files, recipe, assume_nominal, made, faults)
    if files.mask is None and not (preparation and preparation.mask):
        faults.append(
            Fault(
                files.folder,
                f"no {recipe.mask} mask (desc-{recipe.mask}_mask) was found",
                "Give a derivative dataset that holds one: --derivatives masks=PATH",
            )
        )
    elif stages:
        series = [(plan.series, plan.problem.protocol.n_volumes) for plan in stages]
        aligned = preparation is None or bool(preparation.still)
        faults += check_images(files.mask, series, sources, files.regions, aligned=aligned)
    if spaces and stages:
        faults += check_spaces(
            spaces,
            recipe,
            stages[0].series.image,
            [*made, *(a.quantity for a in sources if a.image)],
        )
    if faults:
        raise InputError(*faults)
    scans = preparation.files if preparation else []
    used = {*(plan.series.image for plan in stages), *scans}
    unused = tuple(s.image for s in files.series if s.image not in used)
    plan = SessionPlan(
        files.subject,
        files.session,
        files.root,
        recipe,
        tuple(stages),
        tuple(sources),
        files.mask,  # type: ignore[arg-type]  # where there is none it will be made
        files.regions,
        unused,
        propagate,
        spaces=tuple(spaces),
        sloppy=sloppy,
    )
    if preparation is None or out_dir is None:
        return plan
    return _with_made(plan, preparation, Outputs(out_dir, files))


def check_spaces(
    spaces: Sequence[Space], recipe: Recipe, first: Path, maps: Sequence[str]
) -> list[Fault]:
    """Why a session with some maps and a first series cannot be brought to standard spaces."""
    why = why_still(recipe, True, {first: load_image(first).shape[:3]})
    if not why and "T1" not in maps:
        why = "templates are found in a map of T1, and there is none"
    names = " ".join(str(space) for space in spaces)
    return [Fault(f"--output-spaces {names}", why, "Leave the option out")] if why else []


def _with_made(plan: SessionPlan, preparation: Preparation, outputs: Outputs) -> SessionPlan:
    """The plan with what is made in place of what is missing or raw."""
    stages = tuple(
        replace(s, series=outputs.series(s.series, s.entities), raw=s.series.image)
        if preparation.is_made(s.stage.name)
        else s
        for s in plan.stages
    )
    maps = [outputs.source(quantity, plan.frequency_mhz) for quantity in preparation.maps]
    if not plan.propagate:
        maps = [replace(source, sd=None) for source in maps]
    regions = plan.regions
    segmentation: tuple[Path, ...] = ()
    if preparation.anatomy and not any(r.name == TISSUE for r in plan.regions):
        own = outputs.regions()
        names = {r.name for r in own}
        segmentation = (outputs.segmentation(), *(r.image for r in own))
        regions = (*own, *(r for r in plan.regions if r.name not in names))
    mask = outputs.mask(plan.recipe.mask) if preparation.mask else plan.mask
    made = [s.series.image for s in stages if s.raw]
    made += [p for m in maps for p in (m.image, m.sd) if p is not None]
    return replace(
        plan,
        stages=stages,
        auxiliary=(*plan.auxiliary, *maps),
        mask=mask,
        regions=regions,
        preparation=preparation,
        made=(*made, *segmentation, *([mask] if preparation.mask else [])),
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
    protocol, sequence = played_protocol(series, files.root)
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
