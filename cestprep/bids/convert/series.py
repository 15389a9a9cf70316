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
    """Table, sidecar and what only the sequence says."""

    table: pd.DataFrame
    fields: dict[str, Any]
    unsaid: tuple[str, ...] = ()


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
    found = _of_sequence(stated) if stated.sequence is not None else _of_tables(stated, volumes)
    table, fields, unsaid = found
    table, faults = _with_references(table, stated, volumes)
    faults = [*_unasked(stated), *faults]
    if faults:
        raise Questions(table, *faults)
    fields |= {
        "MagneticFieldStrength": _plain(stated.field_t),
        "SpectrometerFrequency": _plain(stated.frequency_mhz),
        "M0Type": "Included" if (table["volume_type"] == "m0scan").any() else "Absent",
        **stated.fields,
    }
    if "SaturationB1Definition" not in fields or stated.sequence is None:
        fields["SaturationB1Definition"] = stated.b1_definition
    return Series(table, fields, unsaid)


def _plain(number: float | None) -> float | int | None:
    """A whole number without its point."""
    return int(number) if number is not None and float(number).is_integer() else number


def _unasked(stated: Stated) -> list[Fault]:
    """Questions about what no file says."""
    ask = [
        ("field_t", "--field-t", "the field strength is not said", "Give it in T"),
        ("frequency_mhz", "--frequency-mhz", "the scanner frequency, the reference of ppm, is not "
         "said", "Give it in MHz as the scanner had it, not computed from the field"),
    ]  # fmt: skip
    if stated.sequence is None:
        ask += [
            ("b1_definition", "--b1-definition", "it is not said what the B1 numbers are",
             "Give rms, mean or peak of one pulse, or cwpe of the whole train"),
            ("offset_unit", "--offset-unit", "the unit of the offsets is not said",
             "Give ppm or Hz"),
            ("positive_offset", "--positive-offset", "it is not said where positive offsets lie",
             "Give downfield (amide at +3.5 ppm) or upfield"),
        ]  # fmt: skip
    ask.append(
        ("m0", "--m0", "it is not said which volumes are unsaturated references",
         "Give first, zero-b1 or none")
    )  # fmt: skip
    return [Fault(option, what, mend) for name, option, what, mend in ask
            if getattr(stated, name) is None]  # fmt: skip


_Found = tuple[pd.DataFrame, dict[str, Any], tuple[str, ...]]


def _of_sequence(stated: Stated) -> _Found:
    assert stated.sequence is not None
    if stated.frequency_mhz is None:
        fault = Fault(
            "--frequency-mhz",
            "the scanner frequency is not said; a sequence holds Hz, whose ppm depend on it",
            "Give it in MHz as the scanner had it",
        )
        raise Questions(pd.DataFrame(), fault)
    found = describe(play(stated.sequence, stated.frequency_mhz))
    return found.table, dict(found.fields), found.unsaid


def _of_tables(stated: Stated, volumes: int) -> _Found:
    """Rows of the text tables, which may leave out a first reference volume."""
    missing = [
        Fault(option, "neither a sequence nor this table is given", "Give both tables or --seq")
        for option, path in (("--offsets", stated.offsets), ("--b1", stated.b1))
        if path is None
    ]
    if missing or stated.offsets is None or stated.b1 is None:
        raise UsageError(*missing)
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
        "saturation_duration": _column(
            "--saturation-duration", stated.durations, stated.duration_s, count
        ),
        "recovery_time": _column("--recovery", stated.recoveries, stated.recovery_s, count),
    }
    wide = {k: np.broadcast_to(v, count).copy() for k, v in columns.items()}
    return pd.DataFrame(wide), {}, ()


def _column(option: str, path: Path | None, value: float | None, count: int) -> np.ndarray:
    if path is not None:
        return read_numbers(path, count)
    if value is None:
        raise UsageError(Fault(option, "is not given", "Give seconds, or a table of seconds"))
    return np.array([value])


def _with_references(
    table: pd.DataFrame, stated: Stated, volumes: int
) -> tuple[pd.DataFrame, list[Fault]]:
    """The table with its unsaturated volumes marked, and what is wrong with their number."""
    one_short = len(table) == volumes - 1
    if stated.m0 == "first" and one_short and table["saturation_b1"].iloc[0] == 0:
        what = "the tables begin with a row without B1, so another one is missing"
        return table, [Fault("--m0", what, "Give one row per volume, or no row for the first")]
    if stated.m0 == "first" and one_short:
        first = table.iloc[:1].assign(saturation_b1=0.0, saturation_duration=0.0)
        table = pd.concat([first, table], ignore_index=True)
    elif len(table) != volumes:
        what = f"there are {len(table)} rows for {volumes} volumes"
        mend = "Give --m0 first if the first volume is a reference that the tables leave out"
        return table, [Fault("--m0", what, mend if one_short else "Give one row per volume")]
    reference = table["saturation_b1"] == 0
    if stated.m0 == "first":
        reference |= table.index == 0
    if stated.m0 == "none" and reference.any():
        what = f"{int(reference.sum())} volumes have no saturation, but --m0 says none"
        return table, [Fault("--m0", what, "Give zero-b1 or first")]
    if stated.m0 == "zero-b1" and not reference.any():
        what = "no volume is without saturation, but --m0 says some are references"
        return table, [Fault("--m0", what, "Give first or none")]
    table = table.assign(volume_type=np.where(reference, "m0scan", "saturated"))
    silent = reference & (table["saturation_b1"] == 0)
    table.loc[silent, "saturation_offset"] = np.nan
    table.loc[silent, "saturation_duration"] = 0.0
    return table, []
