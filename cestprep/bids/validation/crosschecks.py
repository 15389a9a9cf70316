"""What no schema can say: images that cannot be used, units of maps, images on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cestprep.bids.auxiliary import PLAUSIBLE, UNITS, unit_factor
from cestprep.bids.files import grid_difference, load_image
from cestprep.bids.protocols import frequency_mhz
from cestprep.bids.sidecars import metadata, parse_name
from cestprep.bids.spec import (
    MAGNITUDE,
    MAP_SUFFIXES,
    PREPROCESSED,
    QUANTITIES,
    REFERENCE,
    SERIES,
    SPACE,
    TABLED,
)
from cestprep.bids.validation import series
from cestprep.bids.validation.finding import Finding, of_faults, relative
from cestprep.errors import InputError
from cestprep.imaging.grid import Grid

#: Only to see whether a field map in Hz can be one, where its sidecar has no frequency: 3 T.
_SOME_FREQUENCY_MHZ = 128.0


@dataclass(frozen=True)
class _Placed:
    """An image of a session by its name and grid."""

    path: Path
    entities: Mapping[str, str]
    suffix: str
    grid: Grid

    @property
    def is_shared(self) -> bool:
        """Whether it is said to lie on the grid of the reference."""
        return bool(self.entities.get("space") == SPACE or self.suffix == REFERENCE)

    @property
    def is_raw(self) -> bool:
        """Whether it is as it was measured."""
        return not {"space", "desc", "model"} & set(self.entities)


def findings(root: Path) -> list[Finding]:
    """Everything wrong with the images of a dataset and their companions."""
    found: list[Finding] = []
    sessions: dict[Path, list[_Placed]] = {}
    images = [p for p in sorted(root.glob("sub-*/**/*.nii*")) if ".tmp-" not in p.name]
    for image in images:
        entities, suffix, _ = parse_name(image.name)
        try:
            loaded = load_image(image)
        except InputError as exc:
            found += of_faults(exc.faults, "IMAGE_UNUSABLE", image, root)
            continue
        found += _image(image, loaded, root, entities, suffix)
        placed = _Placed(image, entities, suffix, Grid(loaded.shape[:3], loaded.affine))
        sessions.setdefault(image.parent.parent, []).append(placed)
    for session in sessions.values():
        found += _grids(session, root)
    return found


def _image(
    image: Path, loaded: nib.Nifti1Image, root: Path, entities: Mapping[str, str], suffix: str
) -> list[Finding]:
    """What is wrong with one image."""
    if (
        suffix in TABLED
        and "model" not in entities
        and entities.get("desc") in (None, PREPROCESSED)
    ):
        return series.findings(image, loaded, root, suffix)
    if suffix in QUANTITIES and "stat" not in entities:
        return list(_map(image, loaded, root, suffix))
    return []


def _map(image: Path, loaded: nib.Nifti1Image, root: Path, suffix: str) -> Iterator[Finding]:
    """Values that the stated units make implausible."""
    quantity = QUANTITIES[suffix]
    try:
        fields = metadata(image, root)
        factor = unit_factor(quantity, image, fields, frequency_mhz(fields) or _SOME_FREQUENCY_MHZ)
    except InputError as exc:
        yield from of_faults(exc.faults, "MAP_UNITS", image, root)
        return
    values = loaded.get_fdata(dtype=np.float32)
    name, unit = relative(image, root), fields.get("Units", "s")
    inside = values[np.isfinite(values) & ((values != 0) | (quantity == "B0"))]
    if not inside.size:
        yield Finding(name, "MAP_EMPTY", "holds no value", "Store the map that was measured")
        return
    low, high = PLAUSIBLE[quantity]
    measured = inside[inside != 0]
    median = float(np.median(measured)) if measured.size else 0.0
    if measured.size and not low <= median * factor <= high:
        limits = f"{low:g} to {high:g} {UNITS[quantity]}"
        what = f"median {median:g} {unit} is no plausible {quantity} ({limits})"
        yield Finding(name, "MAP_UNITS", what, "Correct Units or the values")


def _grids(session: Sequence[_Placed], root: Path) -> Iterator[Finding]:
    """Images that are not on the grid they are said, or needed, to be on."""
    rule, mend = "GRID_NOT_CONSISTENT", "Resample it"
    shared = sorted((p for p in session if p.is_shared), key=lambda p: p.suffix != REFERENCE)
    for one in shared[1:]:
        how = grid_difference(one.grid, shared[0].grid)
        if how:
            what = f"is in space-{SPACE}, but not on the grid of {shared[0].path.name}: {how}"
            yield Finding(relative(one.path, root), rule, what, mend)
    fields = [p for p in session if p.suffix == MAP_SUFFIXES["B0"]]
    for one in (p for p in session if p.suffix == MAGNITUDE):
        like = next((p for p in fields if p.entities == one.entities), one)
        how = grid_difference(one.grid, like.grid)
        if how:
            what = f"is not on the grid of its field map: {how}"
            yield Finding(relative(one.path, root), rule, what, mend)
    raw = [p for p in session if p.is_raw and p.suffix in (SERIES, *QUANTITIES)]
    raw.sort(key=lambda p: p.suffix != SERIES)
    for one in raw[1:]:
        how = grid_difference(one.grid, raw[0].grid)
        if how:
            what = f"cannot be used together with {raw[0].path.name} as it is: {how}"
            mend = "Register and resample it; for arrays, convert it with --like"
            yield Finding(relative(one.path, root), "GRID_DIFFERS", what, mend, "warning")
