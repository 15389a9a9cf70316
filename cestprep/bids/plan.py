"""From files found to a plan: what each stage uses and why; everything wrong is said at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cestprep.bids.files import image_data, load_image, same_grid
from cestprep.bids.protocols import build_protocol, frequency_mhz, is_number, read_context
from cestprep.bids.session import MAP_SUFFIXES, MapFile, Region, Series, SessionFiles, session_label
from cestprep.bids.sidecars import source_entities
from cestprep.errors import Fault, InputError
from cestprep.inference.problem import InverseProblem
from cestprep.inference.recipe import AUXILIARY, Recipe, Stage

UNITS = {"T1": "s", "T2": "s", "B0": "ppm", "B1": "of nominal"}
NOMINAL = {"B0": 0.0, "B1": 1.0}
#: Plausible values in package units; voxels outside count as missing.
PLAUSIBLE = {"T1": (0.05, 10.0), "T2": (0.001, 5.0), "B0": (-5.0, 5.0), "B1": (0.2, 2.0)}


@dataclass(frozen=True)
class AuxiliarySource:
    """Where an auxiliary quantity comes from.

    Attributes
    ----------
    quantity : {"T1", "T2", "B0", "B1"}
    image, sd : Path or None
        Map and its SD map; no map means the nominal value.
    to_si : float
        Factor from file units to package units.
    dataset : str
        Name of the dataset the map is from, or "nominal".
    """

    quantity: str
    image: Path | None
    sd: Path | None
    to_si: float
    dataset: str

    @property
    def parameter(self) -> str:
        """Name in the simulator."""
        return AUXILIARY[self.quantity]

    @property
    def nominal(self) -> float:
        """Value used without a map."""
        return NOMINAL[self.quantity]


@dataclass(frozen=True)
class StagePlan:
    """A stage of the recipe and the series that feeds it."""

    stage: Stage
    series: Series
    problem: InverseProblem
    recipe: Recipe

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

    @property
    def unread(self) -> list[Path]:
        """Files that belong to the series but that this version does not read."""
        pulseq = self.series.image.with_name(self.series.image.name.split(".")[0] + ".seq")
        return [pulseq] if pulseq.exists() else []


@dataclass(frozen=True)
class SessionPlan:
    """Everything the workflow of one session needs to know."""

    subject: str
    session: str | None
    root: Path
    recipe: Recipe
    stages: tuple[StagePlan, ...]
    auxiliary: tuple[AuxiliarySource, ...]
    mask: Path
    regions: tuple[Region, ...]
    unused: tuple[Path, ...]

    @property
    def label(self) -> str:
        """``sub-…[_ses-…]``."""
        return session_label(self.subject, self.session)

    @property
    def files(self) -> list[Path]:
        """Every image the session reads."""
        maps = [p for a in self.auxiliary for p in (a.image, a.sd) if p is not None]
        return [*(plan.series.image for plan in self.stages), *maps, self.mask]

    def stage(self, name: str) -> StagePlan:
        """The plan of a stage."""
        return next(plan for plan in self.stages if plan.stage.name == name)

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
        for source in self.auxiliary:
            name = source.image.name if source.image else f"nominal {source.nominal:g} (asked for)"
            lines.append(f"  {source.quantity}: {name}" + (" with SD map" if source.sd else ""))
        lines.append(f"  mask: {self.mask.name}")
        lines += [f"  region {r.name}: {r.image.name} (found; not used yet)" for r in self.regions]
        lines += [
            f"  not read: {path.name} (Pulseq files are not read yet; table and sidecar count)"
            for plan in self.stages
            for path in plan.unread
        ]
        lines += [
            f"  not used: {path.name} (no stage of the recipe asks for it)" for path in self.unused
        ]
        return "\n".join(lines)


def plan_session(files: SessionFiles, recipe: Recipe, assume_nominal: Sequence[str]) -> SessionPlan:
    """Match a session's files with a recipe.

    Raises
    ------
    InputError
        With one fault for everything that is missing, contradictory or implausible.
    """
    faults: list[Fault] = []
    stages = []
    for stage in recipe.stages:
        try:
            stages.append(_plan_stage(files, recipe, stage))
        except InputError as exc:
            faults += exc.faults
    sources = _plan_auxiliary(files, recipe, stages, assume_nominal, faults)
    if files.mask is None:
        faults.append(
            Fault(
                files.folder,
                "no brain mask (desc-brain_mask) was found",
                "Give a derivative dataset that holds one: --derivatives masks=PATH",
            )
        )
    else:
        faults += _check_images(files.mask, stages, sources, files.regions)
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
    )


def _plan_stage(files: SessionFiles, recipe: Recipe, stage: Stage) -> StagePlan:
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
                "Set SaturationTarget in the sidecars"
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
    protocol = build_protocol(table, series.fields, series.image, series.context)
    needed = len(stage.free) + 2
    if protocol.n_volumes < needed:
        what = f"has {protocol.n_volumes} volumes, too few to fit {len(stage.free)} parameters"
        raise InputError(Fault(series.image, what, f"Supply at least {needed} volumes"))
    try:
        problem = InverseProblem.of_stage(recipe, stage, protocol)
    except ValueError as exc:
        raise InputError(Fault(series.image, str(exc), "Choose another normalisation")) from None
    return StagePlan(stage, series, problem, recipe)


def _plan_auxiliary(
    files: SessionFiles,
    recipe: Recipe,
    stages: Sequence[StagePlan],
    assume_nominal: Sequence[str],
    faults: list[Fault],
) -> list[AuxiliarySource]:
    sources = []
    needed = dict.fromkeys(q for stage in recipe.stages for q in stage.auxiliary)
    for quantity in needed:
        found = files.maps.get(quantity)
        if quantity in assume_nominal:
            if found is not None:
                faults.append(
                    Fault(
                        f"--assume-nominal {quantity}",
                        f"contradicts the map {found.image}",
                        "Leave the option out, or take the map out of the dataset",
                    )
                )
            sources.append(AuxiliarySource(quantity, None, None, 1.0, "nominal"))
        elif found is None:
            suffix = MAP_SUFFIXES[quantity]
            choice = f", or accept the nominal value: --assume-nominal {quantity}"
            faults.append(
                Fault(
                    files.folder,
                    f"no {quantity} map ({suffix}) was found",
                    f"Add {suffix} to the dataset or give --derivatives NAME=PATH with one"
                    + (choice if quantity in NOMINAL else ""),
                )
            )
        else:
            factor = _unit_factor(quantity, found, files.series, faults)
            sources.append(AuxiliarySource(quantity, found.image, found.sd, factor, found.dataset))
    return sources


def _unit_factor(
    quantity: str, found: MapFile, series: Sequence[Series], faults: list[Fault]
) -> float:
    """Factor from the map's unit to s, ppm or 1."""
    unit = found.fields.get("Units")
    sd_unit = found.sd_fields.get("Units", unit)
    accepted: dict[str | None, float]
    if quantity in ("T1", "T2"):
        accepted = {"s": 1.0, None: 1.0}  # BIDS: these maps are in seconds
    elif quantity == "B0":
        # without a frequency the series itself is at fault, which is said elsewhere
        frequencies = [f for f in (frequency_mhz(s.fields) for s in series) if f]
        accepted = {"ppm": 1.0, "Hz": 1 / frequencies[0] if frequencies else 1.0}
    else:
        accepted = {"percent": 0.01, "%": 0.01, "arbitrary": 1.0, "1": 1.0}
    if found.sd is not None and sd_unit != unit:
        what = f"Units is {sd_unit!r}, but {found.image.name} is in {unit!r}"
        faults.append(Fault(found.sd, what, "Give both maps in one unit"))
    if (isinstance(unit, str) or unit is None) and unit in accepted:
        return accepted[unit]
    faults.append(
        Fault(
            found.image,
            f"Units is {unit!r}, expected {' or '.join(str(u) for u in accepted if u)}",
            "State the unit in the sidecar, converting the map if need be",
        )
    )
    return 1.0


def _check_images(
    mask_path: Path,
    stages: Sequence[StagePlan],
    sources: Sequence[AuxiliarySource],
    regions: Sequence[Region],
) -> list[Fault]:
    """Grids, volumes and values of everything a session uses."""
    faults: list[Fault] = []

    def load(path: Path) -> nib.Nifti1Image | None:
        try:
            return load_image(path)
        except InputError as exc:
            faults.extend(exc.faults)
            return None

    mask_image = load(mask_path)
    if mask_image is None:
        return faults
    mask = image_data(mask_path) > 0
    if mask.ndim != 3 or not mask.any():
        what = f"has {mask.ndim} axes" if mask.ndim != 3 else "is empty"
        return [
            *faults,
            Fault(mask_path, f"the brain mask {what}", "Supply a 3D mask of the brain"),
        ]
    others = [s.image for s in sources if s.image] + [s.sd for s in sources if s.sd]
    others += [r.image for r in regions]
    for path in [*(p.series.image for p in stages), *others]:
        image = load(path)
        if image is not None and not same_grid(image, mask_image):
            faults.append(
                Fault(
                    path,
                    f"its grid {image.shape[:3]} differs from that of {mask_path.name} "
                    f"{mask_image.shape} in shape or affine",
                    "Resample all images of the session to one grid first",
                )
            )
    if faults:
        return faults
    for plan in stages:
        faults += _check_series(plan, mask)
    for source in sources:
        faults += _check_map(source, mask) + _check_sd(source, mask)
    return faults


def _check_series(plan: StagePlan, mask: np.ndarray) -> list[Fault]:
    path, rows = plan.series.image, plan.problem.protocol.n_volumes
    data = image_data(path)
    if data.ndim > 4:
        return [Fault(path, f"has {data.ndim} axes", "Supply a 4D series")]
    volumes = data.shape[3] if data.ndim == 4 else 1
    if volumes != rows:
        return [
            Fault(
                path,
                f"has {volumes} volumes, but {plan.series.context} has {rows} rows",
                "Give one row per volume",
            )
        ]
    inside = data[mask]
    faults = []
    if not np.isfinite(inside).all():
        bad = ", ".join(str(v + 1) for v in np.flatnonzero(~np.isfinite(inside).all(axis=0)))
        faults.append(
            Fault(path, f"holds NaN or infinite values in volumes {bad}", "Reconstruct the series")
        )
    elif (inside < 0).any():
        faults.append(
            Fault(path, "holds negative values in the mask", "Supply magnitude images, not phase")
        )
    elif not inside.any():
        faults.append(Fault(path, "is zero everywhere in the mask", "Check series and mask"))
    elif not inside.any(axis=0).all():
        empty = ", ".join(str(v + 1) for v in np.flatnonzero(~inside.any(axis=0)))
        faults.append(
            Fault(
                path, f"volumes {empty} are zero everywhere in the mask", "Reconstruct the series"
            )
        )
    return faults


def _check_sd(source: AuxiliarySource, mask: np.ndarray) -> list[Fault]:
    if source.sd is None:
        return []
    values = image_data(source.sd)
    if values.ndim != 3:
        return [Fault(source.sd, f"has {values.ndim} axes", "Supply a 3D map")]
    inside = values[mask]
    if not np.isfinite(inside).any() or (inside < 0).any():
        return [
            Fault(source.sd, "is no map of standard deviations (negative or NaN)", "Correct it")
        ]
    return []


def _check_map(source: AuxiliarySource, mask: np.ndarray) -> list[Fault]:
    if source.image is None:
        return []
    values = image_data(source.image)
    if values.ndim != 3:
        return [Fault(source.image, f"has {values.ndim} axes", "Supply a 3D map")]
    inside = values[mask] * source.to_si
    if not np.any(np.isfinite(inside) & (inside != 0)):
        return [Fault(source.image, "holds no value inside the mask", "Supply another map")]
    if usable_auxiliary(source.quantity, inside).mean() < 0.5:
        low, high = PLAUSIBLE[source.quantity]
        median = float(np.nanmedian(inside[np.isfinite(inside)]))
        return [
            Fault(
                source.image,
                f"median {source.quantity} in the mask is {median:g} after conversion and most "
                f"voxels lie outside {low:g} to {high:g} {UNITS[source.quantity]}",
                "Check the unit of the map (BIDS: T1map and T2map in seconds) and its sidecar",
            )
        ]
    return []


def usable_auxiliary(quantity: str, values: np.ndarray) -> np.ndarray:
    """Voxels whose auxiliary value (package units) is finite and physically plausible."""
    low, high = PLAUSIBLE[quantity]
    usable: np.ndarray = np.isfinite(values) & (values >= low) & (values <= high)
    return usable
