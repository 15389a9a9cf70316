"""From ``cestcontext.tsv`` and sidecar to a `Protocol`; nothing is guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from cestprep.bids.pulseq import FREQUENCY_TOLERANCE, played_rows
from cestprep.bids.spec import (
    B1_DEFINITIONS,
    CONTEXT_COLUMNS,
    M0_TYPES,
    OPTIONAL_COLUMNS,
    VOLUME_TYPES,
)
from cestprep.errors import Absent, Fault, InputError
from cestprep.physics.constants import GAMMA_HZ_PER_UT
from cestprep.physics.protocol import Block, Protocol, Readout, Recovery, Saturation, Spoil
from cestprep.physics.pulseq_protocol import simplified

#: Columns the program reads; the optional ones may be absent.
KNOWN_COLUMNS = (*CONTEXT_COLUMNS, *OPTIONAL_COLUMNS)
SIGNED_COLUMNS = ("saturation_offset", "saturation_frequency")
#: Relative agreement asked of a table's duration with pulses and delays.
DURATION_TOLERANCE = 1e-3
#: Beyond these, a saturated volume's numbers are taken for another unit (Hz, T) and refused.
LARGEST_OFFSET_PPM = 200.0
LARGEST_B1_UT = 100.0
SMALLEST_B1_UT = 1e-3
LONGEST_RECOVERY_S = 100.0
LONGEST_SHOT_INTERVAL_S = 10.0


def read_context(path: Path) -> pd.DataFrame:
    """Rows of a ``cestcontext.tsv``, ``n/a`` as NaN.

    Raises
    ------
    InputError
        If columns are missing, a volume type is unknown or a cell is not a number.
    """
    try:
        table = pd.read_csv(path, sep="\t", na_values=["n/a"], dtype={"volume_type": str})
    except (OSError, ValueError, pd.errors.ParserError) as exc:
        raise InputError(
            Fault(path, f"cannot be read as a table ({exc})", "Mend the TSV")
        ) from None
    missing = [c for c in CONTEXT_COLUMNS if c not in table]
    if missing:
        raise InputError(
            Fault(path, f"lacks the column(s) {', '.join(missing)}", "Add them (CEST-BIDS 1.1)")
        )
    twice = [c for c in KNOWN_COLUMNS if f"{c}.1" in table]
    if twice or table.empty:
        what = f"has the column(s) {', '.join(twice)} twice" if twice else "has no rows"
        raise InputError(Fault(path, what, "Give each column once and one row per volume"))
    faults = []
    unknown = sorted(set(table["volume_type"].dropna()) - set(VOLUME_TYPES))
    if unknown or table["volume_type"].isna().any():
        what = f"has volume_type {unknown or 'n/a'}, expected {', '.join(VOLUME_TYPES)}"
        faults.append(Fault(path, what, "Correct the column volume_type"))
    for column in KNOWN_COLUMNS[1:]:
        if column not in table:
            continue
        if not pd.api.types.is_numeric_dtype(table[column]) or table[column].dtype == bool:
            faults.append(
                Fault(path, f"column {column} holds text", "Write numbers, or n/a where undefined")
            )
        elif np.isinf(table[column]).any():
            faults.append(Fault(path, f"column {column} is infinite", "Write finite numbers"))
        elif column not in SIGNED_COLUMNS and (table[column] < 0).any():
            faults.append(Fault(path, f"column {column} is negative", "Write numbers >= 0"))
    if faults:
        raise InputError(*faults)
    return table


class _Sidecar:
    """Sidecar fields with faults collected instead of raised."""

    def __init__(self, fields: Mapping[str, Any], where: Path) -> None:
        self.fields, self.where = fields, where
        self.faults: list[Fault] = []
        self._rows: dict[tuple[str, str], list[int]] = {}

    def row_fault(self, number: int, what: str, mend: str) -> None:
        """Note what is wrong with a row; equal notes are joined by `collect_rows`."""
        self._rows.setdefault((what, mend), []).append(number)

    def collect_rows(self, context: Path) -> None:
        """Turn the notes on rows into faults of the table."""
        for (what, mend), rows in self._rows.items():
            shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
            where = f"row{'s' if len(rows) > 1 else ''} {shown}"
            self.faults.append(Fault(context, f"{where}: {what}", mend))

    def check_frequency_column(self, number: int, row: Any, frequency: float | None) -> None:
        """Compare an offset in Hz, where one is given, with the one in ppm."""
        hertz = getattr(row, "saturation_frequency", float("nan"))
        if pd.isna(hertz) or pd.isna(row.saturation_offset) or not frequency:
            return
        expected = row.saturation_offset * frequency
        if abs(hertz - expected) > 0.01 * abs(expected) + 1:
            what = (
                f"saturation_frequency is {hertz:g} Hz, but {row.saturation_offset:g} ppm at "
                f"{frequency:g} MHz are {expected:g} Hz"
            )
            self.row_fault(number, what, "Make the two columns agree")

    def fault(self, what: str, mend: str, key: str | None = None) -> None:
        """Note what is wrong, or that the field ``key`` is not there."""
        absent = key is not None and self.fields.get(key) is None
        self.faults.append((Absent if absent else Fault)(self.where, what, mend))

    def number(self, key: str, unit: str, mend: str, default: float | None = None) -> float:
        value = self.fields.get(key, default)
        if is_number(value) and value >= 0:
            return float(value)
        found = "is missing" if value is None else f"is {value!r}"
        self.fault(f"{key} {found}, expected a number in {unit}", mend, key)
        return 1.0

    def count(self, key: str, unit: str, mend: str) -> int:
        before = len(self.faults)
        value = self.number(key, unit, mend)
        if len(self.faults) > before:
            return 1
        if value < 1 or not value.is_integer():
            self.fault(f"{key} is {self.fields.get(key)!r}, expected a whole number above 0", mend)
            return 1
        return int(value)

    def choice(self, key: str, choices: tuple[str, ...], mend: str) -> str:
        value = self.fields.get(key)
        if value not in choices:
            found = "is missing" if value is None else f"is {value!r}"
            self.fault(f"{key} {found}, expected one of {', '.join(choices)}", mend, key)
            return choices[0]
        return str(value)


def frequency_mhz(fields: Mapping[str, Any]) -> float | None:
    """Scanner frequency in MHz (``ImagingFrequency`` is what dcm2niix calls it), if given."""
    value = fields.get("SpectrometerFrequency", fields.get("ImagingFrequency"))
    return float(value) if is_number(value) and value > 0 else None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def build_protocol(
    table: pd.DataFrame,
    fields: Mapping[str, Any],
    where: Path,
    context: Path,
    played: Protocol | None = None,
) -> Protocol:
    """Protocol of a series.

    Parameters
    ----------
    table : DataFrame
        From `read_context`.
    fields : mapping
        Sidecar fields.
    where, context : Path
        Image and table, for messages.
    played : Protocol, optional
        Of the sequence file, which must agree with table and sidecar
        (`cestprep.bids.pulseq.conflicts`); shape, phase and tips of the pulses are its own.

    Raises
    ------
    InputError
        With every missing, contradictory or unsupported field.
    """
    side = _Sidecar(fields, where)
    frequency = frequency_mhz(fields)
    if frequency is None:
        key = "ImagingFrequency" if "ImagingFrequency" in fields else "SpectrometerFrequency"
        key = "SpectrometerFrequency" if "SpectrometerFrequency" in fields else key
        found = "is missing" if fields.get(key) is None else f"is {fields[key]!r}"
        side.fault(
            f"{key} {found}, so ppm have no reference",
            "Write the scanner frequency in MHz into the sidecar (about 123.2 on a 3 T scanner)",
            key,
        )
    else:
        _check_frequency(side, frequency)
    _check_m0(side, table, context)
    readout = _readout(side)
    definition = side.choice(
        "SaturationB1Definition",
        B1_DEFINITIONS,
        "Say what saturation_b1 means: rms, mean or peak of one pulse, or cwpe of the module",
    )
    pulses = _Pulses.of(side, definition) if played is None else None
    own_blocks = {
        row.number: row.blocks(definition) for row in (played and played_rows(table, played)) or ()
    }
    blocks: list[Block] = []
    rows: list[Any] = list(table.itertuples(index=False))
    for number, row in enumerate(rows, start=1):
        if pd.isna(row.recovery_time) or row.recovery_time > LONGEST_RECOVERY_S:
            found = "n/a" if pd.isna(row.recovery_time) else f"{row.recovery_time:g}"
            side.row_fault(number, f"recovery_time is {found}, expected seconds", "Correct it")
            continue
        if number in own_blocks:
            blocks += own_blocks[number]
        else:
            blocks.append(Recovery(float(row.recovery_time)))
            saturation = pulses.saturation(row, number, side) if pulses else None
            blocks += [saturation, Spoil()] if saturation else []
        side.check_frequency_column(number, row, frequency)
        angle = getattr(row, "flip_angle", float("nan"))
        own = readout.flip_angle_deg if pd.isna(angle) else float(angle)
        blocks.append(Readout(own, readout.n_shots, readout.shot_interval_s))
    if pulses:
        pulses.check_duration(table, side)
    side.collect_rows(context)
    if side.faults:
        raise InputError(*side.faults)
    is_m0 = tuple(bool(v) for v in table["volume_type"] == "m0scan")
    protocol = Protocol(tuple(blocks), frequency or 1.0, is_m0)
    return protocol if played is None else simplified(protocol)


def _check_frequency(side: _Sidecar, frequency: float) -> None:
    field = side.number("MagneticFieldStrength", "T", "Add the field strength to the sidecar")
    what = frequency_contradiction(frequency, field)
    if what:
        side.fault(what, "Correct either (the frequency is in MHz)")


def frequency_contradiction(frequency: float, field: float) -> str | None:
    """What is wrong with a scanner frequency (MHz) at a field strength (T), if anything."""
    expected = GAMMA_HZ_PER_UT * field
    if abs(frequency - expected) <= FREQUENCY_TOLERANCE * expected:
        return None
    return (
        f"SpectrometerFrequency is {frequency:g} MHz, but protons at {field:g} T resonate near "
        f"{expected:.1f} MHz"
    )


def _check_m0(side: _Sidecar, table: pd.DataFrame, context: Path) -> None:
    kind = side.choice("M0Type", M0_TYPES, "Say in the sidecar where the unsaturated volume is")
    if not (table["volume_type"] == "saturated").any():
        side.faults.append(Fault(context, "has no saturated row", "Correct the column volume_type"))
    what = m0_contradiction(table, kind)
    if what:
        side.faults.append(Fault(context, what, "Correct either"))


def m0_contradiction(table: pd.DataFrame, kind: str) -> str | None:
    """What is wrong with the reference rows of a table for an ``M0Type``, if anything."""
    has_m0 = bool((table["volume_type"] == "m0scan").any())
    if has_m0 == (kind == "Included"):
        return None
    return f"has {'an' if has_m0 else 'no'} m0scan row although M0Type is '{kind}'"


def _readout(side: _Sidecar) -> Readout:
    mend = "The readout determines the magnetisation each volume starts from; add it to the sidecar"
    flip = side.number("FlipAngle", "degrees", mend)
    if flip > 180:
        side.fault(f"FlipAngle is {flip:g}, expected at most 180 degrees", mend)
    shots = side.count("NumberShots", "shots per volume", mend)
    interval = 0.0
    if shots > 1:
        interval = side.number("RepetitionTimeExcitation", "s between shots", mend)
        if not 0 < interval <= LONGEST_SHOT_INTERVAL_S:
            side.fault(f"RepetitionTimeExcitation is {interval:g}, expected seconds", mend)
    return Readout(flip, shots, interval)


class _Pulses:
    """Pulse train of a series as its sidecar describes it."""

    def __init__(
        self, count: int, duration: float, delay: float, lock: bool, to_rms: float, known: bool
    ) -> None:
        self.count, self.duration, self.delay = count, duration, delay
        self.lock, self.to_rms = lock, to_rms
        self.known = known  # whether count, duration and delay are the sidecar's

    @classmethod
    def of(cls, side: _Sidecar, definition: str) -> _Pulses:
        mend = "Describe the saturation pulses in the sidecar (CEST-BIDS 1.2)"
        before = len(side.faults)
        count = side.count("MTNumberOfPulses", "pulses", mend)
        duration = side.number("MTPulseDuration", "s", mend)
        delay = side.number("SaturationPulseDelay", "s", mend, default=0.0 if count <= 1 else None)
        known = len(side.faults) == before
        shape = side.fields.get("MTPulseShape")
        if shape != "HARD":
            side.fault(
                f"MTPulseShape is {shape!r}; only HARD (rectangular) pulses can be told by a table",
                "Store the .seq file that was played beside the image, or write HARD (rectangular)",
                "MTPulseShape",
            )
        lock = side.fields.get("SaturationSpinLock", None if count > 1 else False)
        if not isinstance(lock, bool):
            found = "is missing" if lock is None else f"is {lock!r}"
            side.fault(
                f"SaturationSpinLock {found}",
                "Write true if tips enclose each pulse, else false",
                "SaturationSpinLock",
            )
        if duration <= 0:
            side.fault("MTPulseDuration is 0", mend)
            duration, known = 1.0, False
        duty = count * duration / (count * duration + (count - 1) * delay)
        # a rectangular pulse has one amplitude; cwpe is its rms over the whole module
        to_rms = duty**-0.5 if definition == "cwpe" else 1.0
        return cls(count, duration, delay, bool(lock), to_rms, known)

    def check_duration(self, table: pd.DataFrame, side: _Sidecar) -> None:
        """A single pulse may differ in length between rows, but not from the sidecar in all."""
        durations = table.loc[table["volume_type"] == "saturated", "saturation_duration"]
        away = (durations - self.duration).abs() > DURATION_TOLERANCE * self.duration
        if self.known and self.count == 1 and len(durations) and away.all():
            side.fault(
                f"MTPulseDuration is {self.duration:g} s, which no saturation_duration equals",
                "Make table and sidecar agree",
            )

    def saturation(self, row: Any, number: int, side: _Sidecar) -> Saturation | None:
        """Saturation of a table row; None where nothing is played."""
        b1, offset, total = row.saturation_b1, row.saturation_offset, row.saturation_duration
        if row.volume_type == "noRF" and b1 > 0:
            side.row_fault(number, f"noRF with a saturation_b1 of {b1:g}", "Correct either")
        if row.volume_type == "noRF" or (row.volume_type == "m0scan" and not b1 > 0):
            return None
        if pd.isna(b1) or pd.isna(offset) or pd.isna(total) or total <= 0:
            what = "offset, B1 and duration of a saturated volume must be given"
            side.row_fault(number, what, "Fill in the n/a")
            return None
        own = getattr(row, "saturation_pulses", float("nan"))
        odd = implausible(row)
        if not (pd.isna(own) or (own >= 1 and float(own).is_integer())):
            odd = f"saturation_pulses is {own:g}, expected a whole number above 0"
        if odd:
            side.row_fault(number, odd, "Correct the table")
            return None
        count = self.count if pd.isna(own) else int(own)
        duration = float(total) if count == 1 else self.duration
        expected = count * duration + (count - 1) * self.delay
        if self.known and abs(expected - total) > DURATION_TOLERANCE * total:
            what = (
                f"saturation_duration is {total:g} s, but {count} pulses of {duration:g} s with "
                f"{self.delay:g} s between take {expected:g} s"
            )
            side.row_fault(number, what, "Make table and sidecar agree")
            return None
        return Saturation(
            offset_ppm=float(offset),
            b1_ut=float(b1) * self.to_rms,
            pulse_duration_s=duration,
            n_pulses=count,
            pulse_delay_s=self.delay if count > 1 else 0.0,
            spin_lock="ideal" if self.lock else "none",
        )


def implausible(row: Any) -> str | None:
    """What looks like another unit in a saturated row, if anything."""
    offset, b1 = abs(row.saturation_offset), row.saturation_b1
    if row.volume_type == "saturated" and offset > LARGEST_OFFSET_PPM:
        return f"saturation_offset {row.saturation_offset:g} is no plausible ppm (Hz perhaps?)"
    if b1 > LARGEST_B1_UT or 0 < b1 < SMALLEST_B1_UT:
        return f"saturation_b1 {b1:g} is no plausible amplitude in uT (T, nT or Hz perhaps?)"
    return None
