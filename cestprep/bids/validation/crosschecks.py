"""What no schema can say: tables against images, sequences against tables, grids and units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cestprep.bids.auxiliary import PLAUSIBLE, UNITS, unit_factor
from cestprep.bids.files import image_data, same_grid
from cestprep.bids.protocols import (
    frequency_contradiction,
    frequency_mhz,
    implausible,
    is_number,
    m0_contradiction,
    read_context,
)
from cestprep.bids.pulseq import contradictions, find_sequence, play
from cestprep.bids.sidecars import applicable, metadata, parse_name
from cestprep.bids.spec import CONTEXT, M0_TYPES, QUANTITIES, REFERENCE, SERIES, SPACE, TABLED
from cestprep.bids.validation.finding import Finding, of_faults, relative
from cestprep.errors import InputError

#: WASABI must reach beyond this offset on both sides of water, and stay below the other.
_LEAST_SPAN_PPM, _MOST_SPAN_PPM = 0.5, 10.0
#: Only to see whether a field map in Hz can be one, where its sidecar has no frequency: 3 T.
_SOME_FREQUENCY_MHZ = 128.0


def findings(root: Path) -> list[Finding]:
    """Everything wrong with the images of a dataset and their companions."""
    found: list[Finding] = []
    grids: dict[Path, tuple[str, nib.Nifti1Image]] = {}  # of the first in each session
    images = [p for p in sorted(root.glob("sub-*/**/*.nii*")) if ".tmp-" not in p.name]
    for image in images:
        entities, suffix, _ = parse_name(image.name)
        loaded = _loaded(image)
        if loaded is None:
            what, mend = "cannot be read as NIfTI", "Copy or convert the image again"
            found.append(Finding(relative(image, root), "NIFTI_UNREADABLE", what, mend))
            continue
        found += _affine(image, loaded, root)
        if suffix in TABLED and "desc" not in entities:
            found += _series(image, loaded, root, suffix)
        if suffix in QUANTITIES and "stat" not in entities:
            found += _map(image, root, suffix)
        if entities.get("space") == SPACE or suffix == REFERENCE:
            like = grids.setdefault(image.parent.parent, (image.name, loaded))
            found += _grid(image, loaded, *like, root)
    return found


def _loaded(image: Path) -> nib.Nifti1Image | None:
    try:
        loaded = nib.load(image)
    except Exception:  # what nibabel, gzip and zlib raise on bad files is an open list
        return None
    return loaded if isinstance(loaded, nib.Nifti1Image) else None


def _affine(image: Path, loaded: nib.Nifti1Image, root: Path) -> Iterator[Finding]:
    sides = loaded.affine[:3, :3]
    if not np.isfinite(loaded.affine).all() or abs(np.linalg.det(sides)) < 1e-9:
        what = "its affine is singular or not finite, so its voxels have no place"
        yield Finding(relative(image, root), "AFFINE_UNUSABLE", what, "Convert the image again")


def _series(image: Path, loaded: nib.Nifti1Image, root: Path, suffix: str) -> list[Finding]:
    try:
        fields = metadata(image, root)
        tables = applicable(image, root, CONTEXT, ".tsv")
    except InputError as exc:
        return of_faults(exc.faults, "SIDECAR_UNREADABLE", image, root)
    if not tables:
        what, mend = "has no cestcontext.tsv", "Add the table of what was played (CEST-BIDS 1.1)"
        return [Finding(relative(image, root), "CEST_CONTEXT_MISSING", what, mend)]
    try:
        table = read_context(tables[0])
    except InputError as exc:
        return of_faults(exc.faults, "CEST_CONTEXT_UNREADABLE", image, root)
    found = list(_rows(image, loaded, tables[0], table, root))
    found += table_findings(relative(tables[0], root), relative(image, root), table, fields, suffix)
    return found or _sequence(image, root, table, fields)


def table_findings(
    table_name: str, image_name: str, table: pd.DataFrame, fields: Mapping[str, Any], suffix: str
) -> list[Finding]:
    """What is wrong with the rows of a series and with its frequency."""
    kind = _m0(table_name, table, fields) if suffix == SERIES else _span(table_name, table)
    return [*_saturation(table_name, table), *kind, *_frequency(image_name, fields)]


def _rows(
    image: Path, loaded: nib.Nifti1Image, context: Path, table: pd.DataFrame, root: Path
) -> Iterator[Finding]:
    volumes = loaded.shape[3] if len(loaded.shape) > 3 else 1
    if volumes != len(table):
        name = relative(context, root)
        what = f"has {volumes} volumes, but {name} has {len(table)} rows"
        rule, mend = "CEST_CONTEXT_TSV_NOT_CONSISTENT", "Give one row per volume, in order"
        yield Finding(relative(image, root), rule, what, mend)


def _saturation(where: str, table: pd.DataFrame) -> Iterator[Finding]:
    saturated = table[table["volume_type"] == "saturated"]
    rule = "CEST_CONTEXT_UNDEFINED_SATURATION"
    undefined = saturated[["saturation_offset", "saturation_b1", "saturation_duration"]].isna()
    if undefined.any(axis=None):
        row = undefined.index[undefined.any(axis=1)].tolist()[0] + 1
        what = f"row {row}: offset, B1 and duration of a saturated volume must be given"
        yield Finding(where, rule, what, "Fill in the n/a")
    for number, row in enumerate(table.itertuples(index=False), start=1):
        odd = implausible(row)
        if odd:
            what = f"row {number}: {odd}"
            yield Finding(where, "CEST_CONTEXT_UNIT", what, "Write offsets in ppm and B1 in uT")
            return


def _m0(where: str, table: pd.DataFrame, fields: Mapping[str, Any]) -> Iterator[Finding]:
    kind = fields.get("M0Type")
    what = m0_contradiction(table, kind) if kind in M0_TYPES else None
    if what:
        yield Finding(where, "CEST_M0TYPE_INCORRECT", what, "Correct either")


def _span(where: str, table: pd.DataFrame) -> Iterator[Finding]:
    offsets = table.loc[table["volume_type"] == "saturated", "saturation_offset"]
    low, high = offsets.min(), offsets.max()
    if offsets.empty or low > -_LEAST_SPAN_PPM or high < _LEAST_SPAN_PPM:
        what = f"WASABI offsets go from {low:g} to {high:g} ppm, both sides of water are needed"
    elif max(-low, high) > _MOST_SPAN_PPM:
        what = f"WASABI offsets go from {low:g} to {high:g} ppm, which are no shifts of water"
    else:
        return
    yield Finding(where, "WASABI_SPAN", what, "Correct saturation_offset (ppm) or volume_type")


def _frequency(where: str, fields: Mapping[str, Any]) -> Iterator[Finding]:
    frequency, field = frequency_mhz(fields), fields.get("MagneticFieldStrength")
    if frequency is None or not is_number(field):
        return
    what = frequency_contradiction(frequency, field)
    if what:
        yield Finding(where, "FREQUENCY_NOT_CONSISTENT", what, "Correct either (in MHz and T)")


def _sequence(
    image: Path, root: Path, table: pd.DataFrame, fields: Mapping[str, Any]
) -> list[Finding]:
    frequency = frequency_mhz(fields)
    try:
        path = find_sequence(image, root, fields)
        if path is None or frequency is None:
            return []
        played = play(path, frequency)
    except InputError as exc:
        return of_faults(exc.faults, "PULSEQ_UNUSABLE", image, root)
    faults = contradictions(path, table, fields, played)
    return of_faults(faults, "PULSEQ_NOT_CONSISTENT", image, root)


def _map(image: Path, root: Path, suffix: str) -> Iterator[Finding]:
    quantity = QUANTITIES[suffix]
    try:
        fields = metadata(image, root)
        values = image_data(image)
    except InputError as exc:
        yield from of_faults(exc.faults, "MAP_UNREADABLE", image, root)
        return
    try:
        yield from map_findings(image, relative(image, root), values, fields, quantity)
    except InputError as exc:
        yield from of_faults(exc.faults, "MAP_UNITS", image, root)


def map_findings(
    image: Path, name: str, values: np.ndarray, fields: Mapping[str, Any], quantity: str
) -> Iterator[Finding]:
    """Values that the stated units make implausible.

    Raises
    ------
    InputError
        If the units are none of the quantity's.
    """
    factor = unit_factor(quantity, image, fields, frequency_mhz(fields) or _SOME_FREQUENCY_MHZ)
    unit = fields.get("Units", "s")
    inside = values[np.isfinite(values) & (values != 0)]
    low, high = PLAUSIBLE[quantity]
    median = float(np.median(inside)) if inside.size else 0.0
    if inside.size and not low <= median * factor <= high:
        limits = f"{low:g} to {high:g} {UNITS[quantity]}"
        what = f"median {median:g} {unit} is no plausible {quantity} ({limits})"
        yield Finding(name, "MAP_UNITS", what, "Correct Units or the values")


def _grid(
    image: Path, loaded: nib.Nifti1Image, known: str, like: nib.Nifti1Image, root: Path
) -> Iterator[Finding]:
    """Images said to lie on the grid of the series (``space-cestref``) do."""
    if not same_grid(loaded, like):
        what = f"is in space-cestref, but not on the grid of {known}"
        yield Finding(relative(image, root), "GRID_NOT_CONSISTENT", what, "Resample it")
