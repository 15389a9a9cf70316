"""What is made of a session's raw images before the estimation, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cestprep.bids.anatomy import AnatomyFiles
from cestprep.bids.auxiliary import MADE_FROM, AuxiliarySource, written_unit
from cestprep.bids.checks import check_scan
from cestprep.bids.files import load_image
from cestprep.bids.naming import auxiliary_path, derivative_path, mask_path
from cestprep.bids.scans import WATER, Scan, angle_scan, field_scan, only, relaxation_scan
from cestprep.bids.session import Region, Series, SessionFiles
from cestprep.bids.sidecars import source_entities
from cestprep.bids.spec import (
    ANGLES,
    MASK,
    PREPROCESSED,
    SEGMENTATION,
    SERIES,
    SPACE,
    WASABI,
    WASSR,
)
from cestprep.errors import Fault, InputError
from cestprep.imaging.tissue import TISSUES
from cestprep.inference.recipe import Recipe

#: With fewer voxels along an axis nothing holds a rigid registration in place.
FEWEST_VOXELS = 8
#: Name of the segmentation that is made, and of its regions.
TISSUE = "tissue"


@dataclass(frozen=True)
class Preparation:
    """Steps before the estimation.

    Attributes
    ----------
    series : tuple of Scan
        Of the stages, in order; the anchor of the first is the reference.
    scans : tuple of Scan
        That maps are made from.
    maps : mapping of quantity to name of the scan
        Maps that are made.
    still : str
        Why nothing is registered; empty where motion is corrected.
    prepared : tuple of str
        Stages whose series was found aligned with the reference.
    anatomy : bool
        Whether brain and tissues are made.
    mask : bool
        Whether the brain is taken from there.
    given : AnatomyFiles or None
        What they are made from; None: from T1, by the template.
    """

    series: tuple[Scan, ...]
    scans: tuple[Scan, ...] = ()
    maps: Mapping[str, str] = field(default_factory=dict)
    still: str = ""
    prepared: tuple[str, ...] = ()
    anatomy: bool = False
    mask: bool = False
    given: AnatomyFiles | None = None

    @property
    def moving(self) -> tuple[Scan, ...]:
        """Scans whose place is to be found."""
        if self.still:
            return ()
        return tuple(s for s in (*self.series, *self.scans) if s.name not in self.prepared)

    @property
    def files(self) -> list[Path]:
        """Every raw image that is read."""
        scans = [path for scan in (*self.series, *self.scans) for path in scan.images]
        return scans + (self.given.files if self.given else [])

    def scan_of(self, quantity: str) -> Scan:
        """The scan a quantity is mapped from."""
        return next(s for s in self.scans if s.name == self.maps[quantity])

    def is_made(self, stage: str) -> bool:
        """Whether a stage's series is written anew."""
        return not self.still and stage not in self.prepared

    def describe(self) -> Iterator[str]:
        """Lines for ``--dry-run`` and the log."""
        if self.still:
            yield f"  motion: not corrected, nothing registered ({self.still})"
        else:
            names = ", ".join(s.name for s in self.moving if not s.banded)
            yield f"  motion: of {names}; all registered to volume {self.series[0].anchor + 1} of "\
                  f"{self.series[0].images[0].name}"  # fmt: skip
        if self.prepared:
            yield f"  found prepared: {', '.join(self.prepared)}"
        if self.anatomy:
            parts = (["brain mask"] if self.mask else []) + ["tissues"]
            source = "T1 and the template ICBM 152"
            if self.given is not None:
                source = f"{self.given.t1w.name} and its segmentation, registered to the reference"
            yield f"  {' and '.join(parts)}: from {source}"


def plan_preparation(
    files: SessionFiles,
    recipe: Recipe,
    series: Sequence[Scan],
    nominal: Sequence[str],
    motion: bool,
    faults: list[Fault],
) -> Preparation | None:
    """What is to be made before the estimation; None where everything is there.

    Parameters
    ----------
    files : SessionFiles
    recipe : Recipe
    series : sequence of Scan
        Of the stages, in order; of those that were found aligned already too.
    nominal : sequence of str
        Quantities that are assumed.
    motion : bool
        Whether motion is to be corrected.
    faults : list of Fault
        What is wrong with scans is added.
    """
    needed = list(dict.fromkeys(q for stage in recipe.stages for q in stage.auxiliary))
    scans, maps = plan_scans(files, needed, nominal, faults)
    if WASABI in maps.values() and not {"T1", "T2"} <= set(needed):
        what = f"B0 and B1 by WASABI need T1 and T2, which recipe {recipe.name} does not use"
        faults.append(Fault(files.folder, what, "Supply maps of B0 and B1"))
    images = {s.image for s in files.prepared}
    prepared = tuple(s.name for s in series if s.images[0] in images)
    raw = [s for s in (*series, *scans) if s.name not in prepared]
    shapes = {s.images[0]: load_image(s.images[0]).shape[:3] for s in (*series, *scans)}
    still = why_still(recipe, motion, {s.images[0]: shapes[s.images[0]] for s in raw})
    knows_t1 = "T1" in maps or "T1" in files.maps
    thick = not why_still(recipe, True, {s.images[0]: shapes[s.images[0]] for s in series})
    segmented = any(r.name == TISSUE for r in files.regions)
    possible = thick and (knows_t1 or files.anatomy is not None)
    mask = files.mask is None and possible
    anatomy = possible and (mask or not segmented)
    if not (maps or anatomy or (raw and not still)):
        return None
    given = files.anatomy if anatomy else None
    return Preparation(tuple(series), scans, maps, still, prepared, anatomy, mask, given)


def with_prepared(files: SessionFiles) -> SessionFiles:
    """The files, with series that were found aligned in place of their raw ones."""
    aligned = {tuple(sorted(source_entities(s.image).items())): s for s in files.prepared}
    series = tuple(
        aligned.get(tuple(sorted(source_entities(s.image).items())), s) for s in files.series
    )
    return replace(files, series=series)


def plan_scans(
    files: SessionFiles, needed: Sequence[str], nominal: Sequence[str], faults: list[Fault]
) -> tuple[tuple[Scan, ...], dict[str, str]]:
    """Scans for the quantities without a map, and which scan each is made from."""
    scans: list[Scan] = []
    maps: dict[str, str] = {}
    missing = [q for q in needed if q not in files.maps and q not in nominal]

    def add(quantities: Sequence[str], find: Callable[[], Scan | None]) -> None:
        wanted = [q for q in quantities if q in missing and q not in maps]
        if not wanted:
            return
        try:
            scan = find()
        except InputError as exc:
            faults.extend(exc.faults)
            maps.update(dict.fromkeys(wanted, ""))  # said already
            return
        if scan is not None:
            faults.extend(check_scan(scan))
            scans.append(scan)
            maps.update(dict.fromkeys(wanted, scan.name))

    found = files.scans
    for quantity in ("T1", "T2"):
        add([quantity], partial(relaxation_scan, found, MADE_FROM[quantity]))
    if found.get(WASABI):
        add(["B0", "B1"], lambda: field_scan(only(found[WASABI], WASABI), files.root, WASABI))
    water = [s for s in files.series if WATER in s.targets]
    if water:
        add(["B0"], lambda: field_scan(only(water, WASSR), files.root, WASSR))
    if found.get(ANGLES):
        add(["B1"], lambda: angle_scan(found[ANGLES]))
    return tuple(scans), maps


def why_still(recipe: Recipe, motion: bool, shapes: Mapping[Path, Sequence[int]]) -> str:
    """Why motion of images of these shapes is not corrected; empty where it is."""
    if recipe.subject != "human":
        return f"recipe {recipe.name} is for {recipe.subject}s"
    if not motion:
        return "--no-motion"
    for path, shape in shapes.items():
        if min(shape) < FEWEST_VOXELS:
            size = " x ".join(map(str, shape))
            return f"{path.name} has {size} voxels, too few to hold a registration in place"
    return ""


class Outputs:
    """Names of what is made, in the output dataset."""

    def __init__(self, out_dir: Path, files: SessionFiles) -> None:
        self._out, self._whose = out_dir, files

    def series(self, one: Series, entities: Mapping[str, str]) -> Series:
        """A stage's series as it will be written."""
        path = derivative_path(
            self._out, self._whose, SERIES, **entities, space=SPACE, desc=PREPROCESSED
        )
        return replace(one, image=path)

    def source(self, quantity: str, frequency_mhz: float) -> AuxiliarySource:
        """A map with its SD as they will be written."""
        image = auxiliary_path(self._out, self._whose, quantity)
        sd = auxiliary_path(self._out, self._whose, quantity, stat="std")
        _, factor = written_unit(quantity, frequency_mhz)
        return AuxiliarySource(quantity, image, sd, 1 / factor, "")

    def mask(self, desc: str) -> Path:
        """The brain."""
        return mask_path(self._out, self._whose, desc)

    def segmentation(self) -> Path:
        """Tissues as labels."""
        return derivative_path(
            self._out, self._whose, SEGMENTATION, datatype="anat", space=SPACE, segmentation=TISSUE
        )

    def regions(self) -> tuple[Region, ...]:
        """Inner parts of the tissues."""
        return tuple(
            Region(
                name,
                derivative_path(
                    self._out, self._whose, MASK, datatype="anat", space=SPACE, label=name
                ),
                None,
                False,
            )
            for name in TISSUES
        )
