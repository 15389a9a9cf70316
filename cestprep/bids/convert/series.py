"""Table and sidecar of a series from what its owner states; what is not stated is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cestprep.bids.convert.source import read_numbers
from cestprep.bids.pulseq import describe, play
from cestprep.errors import Fault, UsageError


@dataclass(frozen=True)
class Stated:
    """What the owner of a series says of it; None where nothing was said.

    Attributes
    ----------
    frequency_mhz, field_t : float
    b1_definition : str
        See `cestprep.bids.spec.B1_DEFINITIONS`.
    offset_unit : {"ppm", "Hz"}
    positive_offset : {"downfield", "upfield"}
        Where positive numbers of the table of offsets lie.
    m0 : {"first", "none", "zero-b1"}
        Which volumes are unsaturated references.
    offsets, b1, durations, recoveries : Path or None
        Text tables.
    duration_s, recovery_s : float
        Where all volumes have one.
    sequence : Path
    fields : mapping
        Further sidecar fields: pulses, readout, target, acquisition type.
    """

    frequency_mhz: float | None = None
    field_t: float | None = None
    b1_definition: str | None = None
    offset_unit: str | None = None
    positive_offset: str | None = None
    m0: str | None = None
    offsets: Path | None = None
    b1: Path | None = None
    durations: Path | None = None
    recoveries: Path | None = None
    duration_s: float | None = None
    recovery_s: float | None = None
    sequence: Path | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """Table, sidecar, and sentences on what was made of the input.

    Attributes
    ----------
    table : DataFrame
    fields : dict
    notes : tuple of str
        Rows that were marked or added, and what only the sequence says.
    """

    table: pd.DataFrame
    fields: dict[str, Any]
    notes: tuple[str, ...] = ()


class Questions(UsageError):  # noqa: N818
    """What must be answered before a series can be converted, with the table so far."""

    def __init__(self, table: pd.DataFrame, *faults: Fault) -> None:
        super().__init__(*faults)
        self.table = table

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (self.table, *self.faults)


def of_stated(stated: Stated, volumes: int) -> Series:
    """Table and sidecar of a series with so many volumes.

    Raises
    ------
    Questions
        If something that changes the numbers is not said.
    UsageError
        If files cannot be read or do not belong together.
    """
    unasked = _unasked(stated)
    first = _TABLES if stated.sequence is None else ("--frequency-mhz",)
    if any(fault.where in first for fault in unasked):
        raise Questions(pd.DataFrame(), *unasked)
    found = _of_sequence(stated) if stated.sequence is not None else _of_tables(stated, volumes)
    table, fields, notes = found
    table, marked, faults = _with_references(table, stated, volumes)
    faults = [*unasked, *faults]
    if faults:
        raise Questions(table, *faults)
    fields |= {
        "MagneticFieldStrength": plain(stated.field_t),
        "SpectrometerFrequency": plain(stated.frequency_mhz),
        "M0Type": "Included" if (table["volume_type"] == "m0scan").any() else "Absent",
        **{name: plain(value) for name, value in stated.fields.items()},
    }
    fields.setdefault("SaturationB1Definition", stated.b1_definition)
    return Series(table, fields, (*marked, *notes))


def plain(value: Any) -> Any:
    """A whole number without its point; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: Options of the columns of a table, without which there is none.
_TABLES = ("--offsets", "--b1", "--saturation-duration", "--recovery")


def _unasked(stated: Stated) -> list[Fault]:
    """Questions about what no file says."""
    ask: list[tuple[Any, str, str, str]] = [
        (stated.field_t, "--field-t", "the field strength is not said", "Give it in T"),
        (stated.frequency_mhz, "--frequency-mhz", "the scanner frequency, the reference of ppm, is "
         "not said", "Give it in MHz as the scanner had it, not computed from the field"),
        (stated.m0, "--m0", "it is not said which volumes are unsaturated references",
         "Give first, zero-b1 or none"),
    ]  # fmt: skip
    if stated.sequence is None:
        durations, recoveries = stated.durations, stated.recoveries
        neither = "neither a sequence nor this table is given"
        seconds = "Give seconds, or a table of seconds"
        ask += [
            (stated.b1_definition, "--b1-definition", "it is not said what the B1 numbers are",
             "Give rms, mean or peak of one pulse, or cwpe of the whole train"),
            (stated.offset_unit, "--offset-unit", "the unit of the offsets is not said",
             "Give ppm or Hz"),
            (stated.positive_offset, "--positive-offset",
             "it is not said where positive offsets lie",
             "Give downfield (amide at +3.5 ppm) or upfield"),
            (stated.offsets, "--offsets", neither, "Give both tables or --seq"),
            (stated.b1, "--b1", neither, "Give both tables or --seq"),
            (durations or stated.duration_s, "--saturation-duration", "is not given", seconds),
            (recoveries or stated.recovery_s, "--recovery", "is not given", seconds),
        ]  # fmt: skip
    return [Fault(option, what, mend) for answer, option, what, mend in ask if answer is None]


_Found = tuple[pd.DataFrame, dict[str, Any], tuple[str, ...]]


def _of_sequence(stated: Stated) -> _Found:
    assert stated.sequence is not None
    assert stated.frequency_mhz is not None  # asked before
    found = describe(play(stated.sequence, stated.frequency_mhz))
    only = (f"Only {stated.sequence.name} says: {sentence}" for sentence in found.unsaid)
    return found.table, dict(found.fields), tuple(only)


def _of_tables(stated: Stated, volumes: int) -> _Found:
    """Rows of the text tables, which may leave out a first reference volume."""
    assert stated.offsets is not None
    assert stated.b1 is not None  # asked before
    offsets, b1 = read_numbers(stated.offsets), read_numbers(stated.b1)
    count = max(offsets.size, b1.size)
    if count not in (volumes, volumes - 1) or {offsets.size, b1.size} - {1, count}:
        what = f"{offsets.size} offsets and {b1.size} B1 values for {volumes} volumes"
        raise UsageError(Fault(stated.offsets, what, "Give one of each per (saturated) volume"))
    scale = 1.0
    if stated.offset_unit == "Hz" and stated.frequency_mhz is not None:
        scale = 1 / stated.frequency_mhz
    scale *= -1.0 if stated.positive_offset == "upfield" else 1.0
    columns: dict[str, Any] = {
        "volume_type": "saturated",
        "saturation_offset": scale * offsets,
        "saturation_b1": b1,
        "saturation_duration": _column(stated.durations, stated.duration_s, count),
        "recovery_time": _column(stated.recoveries, stated.recovery_s, count),
    }
    wide = {k: np.broadcast_to(v, count).copy() for k, v in columns.items()}
    return pd.DataFrame(wide), {}, ()


def _column(path: Path | None, value: float | None, count: int) -> np.ndarray:
    return np.array([value]) if path is None else read_numbers(path, count)


#: A reference has no pulse, or one at least so far from water, in ppm.
_FAR_PPM = 20.0


def _with_references(
    table: pd.DataFrame, stated: Stated, volumes: int
) -> tuple[pd.DataFrame, list[str], list[Fault]]:
    """The table with its references marked, what was done to it, and what is wrong with it."""
    notes: list[str] = []
    one_short = len(table) == volumes - 1
    first_is_silent = bool(table["saturation_b1"].iloc[0] == 0)
    if stated.m0 == "first" and one_short and not first_is_silent:
        first = table.iloc[:1].assign(saturation_b1=0.0, saturation_duration=0.0)
        table = pd.concat([first, table], ignore_index=True)
        waits = f"recovery {first['recovery_time'].iloc[0]:g} s as that of the next"
        notes.append(f"A first row was added for the reference, {waits}.")
    what = _wrong_references(table, stated.m0, volumes)
    if what:
        return table, notes, [Fault("--m0", *what)]
    reference = table["saturation_b1"] == 0
    if stated.m0 == "first" and not reference.iloc[0]:
        reference.iloc[0] = True
        row = table.iloc[0]
        played = f"{row['saturation_b1']:g} uT at {row['saturation_offset']:g} ppm"
        notes.append(f"Row 1 ({played}) is taken as the reference.")
    table = table.assign(volume_type=np.where(reference, "m0scan", "saturated"))
    silent = reference & (table["saturation_b1"] == 0)
    table.loc[silent, "saturation_offset"] = np.nan
    table.loc[silent, "saturation_duration"] = 0.0
    return table, notes, []


def _wrong_references(table: pd.DataFrame, m0: str | None, volumes: int) -> tuple[str, str] | None:
    """What contradicts the answer to ``--m0`` and how to mend it, if anything."""
    one_short = len(table) == volumes - 1
    silent = table["saturation_b1"] == 0
    if m0 == "first" and one_short:  # whose first row was left out already
        what = "the tables begin with a row without B1, so another one is missing"
        return what, "Give one row per volume, or no row for the first"
    if len(table) != volumes:
        mend = "Give --m0 first if the first volume is a reference that the tables leave out"
        what = f"there are {len(table)} rows for {volumes} volumes"
        return what, mend if one_short else "Give one row per volume"
    if m0 == "none" and silent.any():
        what = f"{int(silent.sum())} volumes have no saturation, but --m0 says none"
        return what, "Give zero-b1 or first"
    if m0 == "zero-b1" and not silent.any():
        what = "no volume is without saturation, but --m0 says some are references"
        return what, "Give first or none"
    near = abs(table["saturation_offset"].iloc[0])
    if m0 == "first" and not silent.iloc[0] and near < _FAR_PPM:
        what = f"row 1 saturates {near:g} ppm from water, which is no reference"
        return what, "Give none, or one row less if a reference came before it"
    return None
