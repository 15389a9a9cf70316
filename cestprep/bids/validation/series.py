"""Series with a table: rows against volumes, sequence and sidecar, and what cannot be simulated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cestprep.bids.protocols import (
    build_protocol,
    frequency_contradiction,
    frequency_mhz,
    implausible,
    is_number,
    m0_contradiction,
    read_context,
)
from cestprep.bids.pulseq import contradictions, find_sequence, read_and_play
from cestprep.bids.sidecars import applicable, metadata
from cestprep.bids.spec import CONTEXT, M0_TYPES, SERIES
from cestprep.bids.validation.finding import Finding, of_faults, relative
from cestprep.errors import Absent, InputError
from cestprep.physics.protocol import Protocol
from cestprep.physics.pulseq_protocol import contradictions as definition_contradictions

#: WASABI must reach beyond this offset on both sides of water, and stay below the other.
_LEAST_SPAN_PPM, _MOST_SPAN_PPM = 0.5, 10.0
#: Series whose offsets all lie closer to water (ppm) were rather meant in another unit.
_LEAST_OFFSET_PPM = 0.3
#: Magnitudes are not below zero by more than this share of their largest (interpolation).
_NEGATIVE = 0.1


def findings(image: Path, loaded: nib.Nifti1Image, root: Path, suffix: str) -> list[Finding]:
    """Everything wrong with a series."""
    found = list(_signals(relative(image, root), loaded))
    try:
        fields = metadata(image, root)
        tables = applicable(image, root, CONTEXT, ".tsv")
    except InputError as exc:
        return found + of_faults(exc.faults, "SIDECAR_UNREADABLE", image, root)
    if not tables:
        what, mend = "has no cestcontext.tsv", "Add the table of what was played (CEST-BIDS 1.1)"
        return [*found, Finding(relative(image, root), "CEST_CONTEXT_MISSING", what, mend)]
    try:
        table = read_context(tables[0])
    except InputError as exc:
        return found + of_faults(exc.faults, "CEST_CONTEXT_UNREADABLE", image, root)
    name = relative(tables[0], root)
    rows = [
        *_rows(image, loaded, tables[0], table, root),
        *_table(name, table, fields, suffix),
        *_frequency(relative(image, root), fields),
    ]
    if not rows and suffix == SERIES:
        rows = _played(image, root, tables[0], table, fields)
    return found + rows


def _signals(where: str, loaded: nib.Nifti1Image) -> Iterator[Finding]:
    """What magnitudes of a scanner do not hold."""
    data = loaded.get_fdata(dtype=np.float32)
    finite = np.isfinite(data)
    volumes = data.shape[3] if data.ndim > 3 else 1
    silent = ~np.any(finite & (data != 0), axis=(0, 1, 2)).reshape(-1)
    mend = "Reconstruct or convert the series again"
    if silent.any():
        first = int(np.argmax(silent)) + 1
        what = f"{int(silent.sum())} of {volumes} volumes hold no signal, the first is {first}"
        yield Finding(where, "CEST_NO_SIGNAL", what, mend)
        return
    if not finite.all():
        what = "holds NaN or infinite values"
        yield Finding(where, "CEST_NOT_FINITE", what, mend, "warning")
    low, high = np.min(data, where=finite, initial=np.inf), np.max(data, where=finite, initial=0)
    if low < -_NEGATIVE * abs(high):
        what = f"holds values from {low:g} to {high:g}, which are no magnitudes"
        yield Finding(where, "CEST_NOT_MAGNITUDE", what, "Store magnitudes; phase is part-phase")


def _rows(
    image: Path, loaded: nib.Nifti1Image, context: Path, table: pd.DataFrame, root: Path
) -> Iterator[Finding]:
    volumes = loaded.shape[3] if len(loaded.shape) > 3 else 1
    if volumes != len(table):
        name = relative(context, root)
        what = f"has {volumes} volumes, but {name} has {len(table)} rows"
        rule, mend = "CEST_CONTEXT_TSV_NOT_CONSISTENT", "Give one row per volume, in order"
        yield Finding(relative(image, root), rule, what, mend)


def _table(
    where: str, table: pd.DataFrame, fields: Mapping[str, Any], suffix: str
) -> Iterator[Finding]:
    """What is wrong with the rows of a series."""
    yield from _saturation(where, table)
    if suffix == SERIES:
        yield from _m0(where, table, fields)
        yield from _offsets(where, table)
    else:
        yield from _span(where, table)


def _saturation(where: str, table: pd.DataFrame) -> Iterator[Finding]:
    saturated = table[table["volume_type"] == "saturated"]
    rule = "CEST_CONTEXT_UNDEFINED_SATURATION"
    needed = saturated[["saturation_offset", "saturation_b1", "saturation_duration"]]
    undefined = needed.isna() | (needed[["saturation_duration"]] == 0)
    if undefined.any(axis=None):
        row = undefined.index[undefined.any(axis=1)].tolist()[0] + 1
        what = f"row {row}: offset, B1 and duration of a saturated volume must be given"
        yield Finding(
            where, rule, what, "Fill in the n/a (a duration above 0), or correct volume_type"
        )
    for number, row in enumerate(table.itertuples(index=False), start=1):
        odd = implausible(row)
        if odd:
            what = f"row {number}: {odd}"
            yield Finding(where, "CEST_CONTEXT_UNIT", what, "Write offsets in ppm and B1 in uT")
            return


def _offsets(where: str, table: pd.DataFrame) -> Iterator[Finding]:
    offsets = table.loc[table["volume_type"] == "saturated", "saturation_offset"].abs()
    if len(offsets) and offsets.max() < _LEAST_OFFSET_PPM:
        what = f"all offsets lie within {offsets.max():g} ppm of water (kHz or Hz/Hz perhaps?)"
        yield Finding(where, "CEST_CONTEXT_UNIT", what, "Write offsets in ppm")


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


def _played(
    image: Path, root: Path, context: Path, table: pd.DataFrame, fields: Mapping[str, Any]
) -> list[Finding]:
    """Sequence against table and sidecar, then what cannot be simulated."""
    found: list[Finding] = []
    played: Protocol | None = None
    frequency = frequency_mhz(fields)
    try:
        path = find_sequence(image, root, fields)
        if path is not None and frequency is not None:
            sequence, played = read_and_play(path, frequency)
            faults = contradictions(path, sequence, table, fields, played)
            found += of_faults(faults, "PULSEQ_NOT_CONSISTENT", image, root)
            name, mend = relative(path, root), "RF events count; export it again if they are wrong"
            found += [
                Finding(name, "PULSEQ_DEFINITIONS", f"says of itself: {text}", mend, "warning")
                for text in definition_contradictions(sequence, played)
            ]
    except InputError as exc:
        return of_faults(exc.faults, "PULSEQ_UNUSABLE", image, root)
    if any(finding.severity == "error" for finding in found):
        return found
    try:
        build_protocol(table, fields, image, context, played)
    except InputError as exc:
        found += _unusable(exc, image, root)
    return found


def _unusable(error: InputError, image: Path, root: Path) -> Iterator[Finding]:
    """A warning for fields that BIDS only recommends, an error for those that are wrong."""
    for fault in error.faults:
        (finding,) = of_faults([fault], "CEST_NOT_SIMULATED", image, root)
        yield replace(finding, severity="warning") if isinstance(fault, Absent) else finding
