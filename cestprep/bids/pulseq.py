"""Pulseq files of series: where they are, what they play, and whether the table says the same.

The ``.seq`` file is authoritative for pulse shape, phase and tips, the table for offset, B1 and
timing (CEST-BIDS 1.1); where they contradict each other nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cestprep.bids.sidecars import companion
from cestprep.errors import Fault, InputError
from cestprep.physics.protocol import Block, Protocol, Pulse, Recovery, Spoil, Volume
from cestprep.physics.pulseq import PulseqSequence, parse
from cestprep.physics.pulseq_protocol import NOTHING, Prepared, frequency_of, prepared, protocol_of

#: Agreement asked of table and sequence: of offsets (ppm), and relative of B1 and times.
OFFSET_PPM, RELATIVE = 2e-3, 5e-3
#: Times closer than this (s) are alike: spoilers and dead times count to one side or the other.
ALIKE_S = 0.02
#: Relative agreement asked of a scanner frequency with a field strength or with a sequence.
FREQUENCY_TOLERANCE = 0.05
#: Definitions of B1, by what of `Prepared` they are.
_B1 = {"rms": "b1_rms_ut", "mean": "b1_mean_ut", "peak": "b1_peak_ut", "cwpe": "b1_cwpe_ut"}


def find_sequence(image: Path, root: Path, fields: Mapping[str, Any]) -> Path | None:
    """The ``.seq`` of a series: beside it under its name, else what ``PulseqFile`` names.

    Raises
    ------
    InputError
        If ``PulseqFile`` names no file of the dataset.
    """
    beside = companion(image, ".seq")
    uri = fields.get("PulseqFile")
    if beside.exists() or uri is None:
        return beside if beside.exists() else None
    named = root / str(uri).removeprefix("bids::")
    try:
        there = str(uri).startswith("bids::") and named.is_file()
    except (OSError, ValueError):  # no name a file can have
        there = False
    if not there:
        what = f"PulseqFile is {uri!r}, which names no file of the dataset"
        raise InputError(Fault(image, what, "Write bids::<path in the dataset>, or copy the file"))
    return named


def play(path: Path, frequency_mhz: float) -> Protocol:
    """What a sequence file plays, every pulse as it is (see `read_and_play`)."""
    return read_and_play(path, frequency_mhz)[1]


def read_and_play(path: Path, frequency_mhz: float) -> tuple[PulseqSequence, Protocol]:
    """A sequence file and what it plays, every pulse as it is.

    Raises
    ------
    InputError
        If it cannot be read or does what cannot be simulated.
    """
    with _usable(path):
        sequence = parse(path.read_text("utf-8"))
        return sequence, protocol_of(sequence, frequency_mhz)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ArithmeticError) as exc:  # ValueError: text, numbers, PulseqError
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        fault = Fault(path, f"cannot be used ({reason})", "Export the file again")
        raise InputError(fault) from None


def _other_field(sequence: PulseqSequence, frequency_mhz: float) -> list[str]:
    """What a sequence says of its frequency that makes it one for another field."""
    own = frequency_of(sequence)
    if own is None or abs(own - frequency_mhz) <= FREQUENCY_TOLERANCE * frequency_mhz:
        return []
    return [f"is written for {own:.6g} MHz, the scanner frequency is {frequency_mhz:.6g} MHz"]


@dataclass(frozen=True)
class PlayedRow:
    """A row of the table beside the volume of the sequence it belongs to.

    Attributes
    ----------
    number : int
        Of the row, from 1.
    table : tuple
    volume : Volume
    train : Prepared
    """

    number: int
    table: Any
    volume: Volume
    train: Prepared

    def blocks(self, definition: str) -> list[Block]:
        """What is played, from the recovery to the readout, at the table's offset and B1.

        Pulse shape, phase and tips are those of the sequence.
        """
        said, train = self.table, self.train
        if train == NOTHING or not said.saturation_b1 > 0:
            return [Recovery(float(said.recovery_time))]
        away = float(said.saturation_offset) - train.offset_ppm
        scale = float(said.saturation_b1) / getattr(train, _B1[definition])
        pulses = [
            replace(b, offset_ppm=b.offset_ppm + away, b1_ut=b.b1_ut * scale)
            if isinstance(b, Pulse)
            else b
            for b in self.volume.preparation
        ]
        return [Recovery(max(float(said.recovery_time) - train.lead_s, 0.0)), *pulses, Spoil()]


def conflicts(table: pd.DataFrame, fields: Mapping[str, Any], played: Protocol) -> list[str]:
    """Where table and sidecar contradict the sequence, a sentence each; equal ones once.

    Unsaturated reference volumes may be missing in the sequence.
    """
    paired = played_rows(table, played)
    if paired is None:
        silent = int((table["volume_type"] != "saturated").sum())
        return [
            f"the sequence has {played.n_volumes} readouts, the table {len(table)} rows "
            f"({silent} of them without saturation)"
        ]
    alike: dict[str, list[str]] = {}
    for row in paired:
        for column, sentence in _differences(row, fields):
            alike.setdefault(column, []).append(f"row {row.number}: {sentence}")
    return [
        sentences[0] + (f" (and {len(sentences) - 1} more rows)" if len(sentences) > 1 else "")
        for sentences in alike.values()
    ]


def contradictions(
    path: Path,
    sequence: PulseqSequence,
    table: pd.DataFrame,
    fields: Mapping[str, Any],
    played: Protocol,
) -> list[Fault]:
    """Another field and what `conflicts` finds, as faults of the sequence file."""
    mend = "Store the sequence that was played, or correct table and sidecar"
    texts = [*_other_field(sequence, played.frequency_mhz), *conflicts(table, fields, played)]
    return [Fault(path, text, mend) for text in texts]


def played_rows(table: pd.DataFrame, played: Protocol) -> list[PlayedRow] | None:
    """Rows with their volumes of the sequence; None where their numbers do not fit.

    Rows without saturation may be missing in the sequence, and are then left out.
    """
    volumes = list(zip(played.volumes, prepared(played), strict=True))
    rows: list[tuple[int, Any]] = list(enumerate(table.itertuples(index=False), start=1))
    if len(volumes) != len(rows):
        rows = [(n, r) for n, r in rows if r.saturation_b1 > 0]
    if len(volumes) != len(rows):
        return None
    return [
        PlayedRow(number, row, volume, train)
        for (number, row), (volume, train) in zip(rows, volumes, strict=True)
    ]


def _recovery(volume: Volume, train: Prepared) -> float:
    """Time before the first saturation pulse of a volume; of a silent one, all of it."""
    if train != NOTHING:
        return volume.recovery_s + train.lead_s
    silent = (b.duration_s for b in volume.preparation if isinstance(b, Recovery))
    return volume.recovery_s + sum(silent)


def _differences(row: PlayedRow, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of columns or fields and what is said there and played."""
    said, train = row.table, row.train
    if train == NOTHING or not said.saturation_b1 > 0:
        if (train == NOTHING) != (not said.saturation_b1 > 0):
            plays = "nothing" if train == NOTHING else "pulses"
            yield (
                "saturation_b1",
                f"saturation_b1 is {said.saturation_b1:g}, the file plays {plays}",
            )
        return
    definition = str(fields.get("SaturationB1Definition"))
    b1 = getattr(train, _B1[definition]) if definition in _B1 else np.nan
    for name, stated, is_played, unit, absolute, relative in (
        ("saturation_offset", said.saturation_offset, train.offset_ppm, "ppm", OFFSET_PPM, 0.0),
        ("saturation_b1", said.saturation_b1, b1, "uT", 0.0, RELATIVE),
        ("saturation_duration", said.saturation_duration, train.duration_s, "s", 0.0, RELATIVE),
        ("MTPulseDuration", _number(fields.get("MTPulseDuration")), train.pulse_duration_s, "s",
         0.0, RELATIVE if train.n_pulses > 1 else np.inf),
        ("MTNumberOfPulses", _count(said, fields), train.n_pulses, "pulses", 0.0, 0.0),
    ):  # fmt: skip
        if abs(stated - is_played) > absolute + relative * abs(is_played):
            yield name, f"{name} is {stated:g} {unit}, the file plays {is_played:g} {unit}"
    spin_lock = fields.get("SaturationSpinLock")
    if isinstance(spin_lock, bool) and spin_lock != (train.tip_deg > 0):
        tips = "tips" if train.tip_deg > 0 else "no tips"
        yield "SaturationSpinLock", f"SaturationSpinLock is {spin_lock}, the file plays {tips}"
    waits = _recovery(row.volume, train)
    if row.number > 1 and abs(said.recovery_time - waits) > ALIKE_S:
        yield (
            "recovery_time",
            f"recovery_time is {said.recovery_time:g} s, the file waits {waits:g} s",
        )


def _count(row: Any, fields: Mapping[str, Any]) -> float:
    own = getattr(row, "saturation_pulses", np.nan)
    return _number(fields.get("MTNumberOfPulses")) if pd.isna(own) else float(own)


def _number(value: Any) -> float:
    """A field as a number; NaN, which contradicts nothing, where it is none."""
    return float(value) if isinstance(value, int | float) else np.nan


@dataclass(frozen=True)
class Described:
    """A sequence as table and sidecar can say it.

    Attributes
    ----------
    table : DataFrame
        Columns of ``cestcontext.tsv``.
    fields : mapping
        Of the saturation, for the sidecar.
    unsaid : tuple of str
        A sentence for each thing that only the sequence says.
    """

    table: pd.DataFrame
    fields: Mapping[str, Any]
    unsaid: tuple[str, ...]


def describe(played: Protocol) -> Described:
    """Table and sidecar of a sequence, and what they cannot say.

    Of preparations in several parts the last is described.
    """
    volumes = played.volumes
    trains = prepared(played)
    pulsed = [train for train in trains if train.n_pulses]
    rows = [
        {
            "volume_type": "saturated" if train.n_pulses else "m0scan",
            "saturation_offset": train.offset_ppm,
            "saturation_b1": train.b1_rms_ut,
            "saturation_duration": train.duration_s,
            "recovery_time": _recovery(volume, train),
            "saturation_pulses": train.n_pulses,
        }
        for volume, train in zip(volumes, trains, strict=True)
    ]
    table = pd.DataFrame(rows)
    counts = {train.n_pulses for train in pulsed}
    if len(counts) < 2:
        table = table.drop(columns="saturation_pulses")
    unsaid = tuple(_unsaid(volumes, trains))
    return Described(table, _fields(pulsed, _rectangular(volumes)), unsaid)


def _fields(pulsed: Sequence[Prepared], rectangular: bool) -> dict[str, Any]:
    if not pulsed:
        return {}
    longest = max(pulsed, key=lambda train: (train.n_pulses, train.pulse_duration_s))
    return {
        "MTNumberOfPulses": longest.n_pulses,
        "MTPulseDuration": longest.pulse_duration_s,
        **({"MTPulseShape": "HARD"} if rectangular else {}),
        "SaturationPulseDelay": longest.pulse_delay_s,
        "SaturationSpinLock": longest.tip_deg > 0,
        "SaturationB1Definition": "rms",
    }


def _rectangular(volumes: Sequence[Volume]) -> bool:
    return all(pulse.waveform.is_rectangular for pulse in _pulses(volumes))


def _pulses(volumes: Sequence[Volume]) -> Iterator[Pulse]:
    for volume in volumes:
        yield from (block for block in volume.preparation if isinstance(block, Pulse))


def _unsaid(volumes: Sequence[Volume], trains: Sequence[Prepared]) -> Iterator[str]:
    """A sentence for each thing of a sequence that no table says."""
    pulsed = [train for train in trains if train.n_pulses]
    if not pulsed:
        yield "No volume has a saturation pulse."
        return
    if not _rectangular(volumes):
        yield "The shape of the pulses, which are not rectangular."
    tips = [train.tip_deg for train in pulsed if train.tip_deg > 0]
    if tips:
        yield f"The tips around each pulse, {min(tips):.3g} to {max(tips):.3g} degrees, take time."
    if any(train.n_pulses > 1 and not train.tip_deg for train in pulsed):
        yield "The phase of each pulse of a train."
    others = max(train.n_others for train in pulsed)
    if others:
        yield f"Up to {others} pulses of another length or B1 in the train of a volume."
    if any(_parts(volume) > 1 for volume in volumes):
        yield "What is played before a spoiler that is not the last of a volume."
    if any(train.gap_spread_s > _EXACT_S for train in pulsed):
        yield "Delays between the pulses of a train that are not equal."
    single = {round(t.pulse_duration_s, 9) for t in pulsed if t.n_pulses > 1}
    delays = {round(t.pulse_delay_s, 9) for t in pulsed if t.n_pulses > 1}
    if len(single) > 1 or len(delays) > 1:
        yield "Pulse lengths or delays of trains that differ between volumes."
    after = max(train.after_s for train in pulsed)
    if after > _EXACT_S:
        yield f"The time from saturation to readout, up to {1e3 * after:.3g} ms."


#: Times that differ by less (s) are the same.
_EXACT_S = 1e-6


def _parts(volume: Volume) -> int:
    """Parts of a preparation with pulses, from spoiler to spoiler."""
    parts, playing = 0, False
    for block in volume.preparation:
        if isinstance(block, Pulse) and not playing:
            parts, playing = parts + 1, True
        elif not isinstance(block, Pulse | Recovery):
            playing = False
    return parts
