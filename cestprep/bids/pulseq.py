"""Pulseq files of series: where they are, what they play, and whether the table says the same.

The ``.seq`` file is authoritative for pulse shape, phase and tips, the table for offset, B1 and
timing (CEST-BIDS 1.1); where they contradict each other nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cestprep.errors import Fault, InputError
from cestprep.physics.protocol import Protocol, Recovery
from cestprep.physics.pulseq import PulseqError, parse
from cestprep.physics.pulseq_protocol import NOTHING, Prepared, prepared, protocol_of

#: Agreement asked of table and sequence: of offsets (ppm), and relative of B1 and times.
OFFSET_PPM, RELATIVE = 2e-3, 5e-3
#: Times closer than this (s) are alike: spoilers and dead times count to one side or the other.
ALIKE_S = 0.02
#: Definitions of B1, by what of `Prepared` they are.
_B1 = {"rms": "b1_rms_ut", "mean": "b1_mean_ut", "peak": "b1_peak_ut", "cwpe": "b1_cwpe_ut"}


def find_sequence(image: Path, root: Path, fields: Mapping[str, Any]) -> Path | None:
    """The ``.seq`` of a series: beside it under its name, else what ``PulseqFile`` names.

    Raises
    ------
    InputError
        If ``PulseqFile`` names no file of the dataset.
    """
    beside = image.with_name(image.name.split(".")[0] + ".seq")
    uri = fields.get("PulseqFile")
    if beside.exists() or uri is None:
        return beside if beside.exists() else None
    named = root / str(uri).removeprefix("bids::")
    if not (str(uri).startswith("bids::") and named.is_file()):
        what = f"PulseqFile is {uri!r}, which names no file of the dataset"
        raise InputError(Fault(image, what, "Write bids::<path in the dataset>, or copy the file"))
    return named


def play(path: Path, frequency_mhz: float) -> Protocol:
    """What a sequence file plays, every pulse as it is.

    Raises
    ------
    InputError
        If it cannot be read or does what cannot be simulated.
    """
    try:
        return protocol_of(parse(path.read_text("utf-8")), frequency_mhz)
    except (OSError, UnicodeDecodeError, PulseqError) as exc:
        raise InputError(Fault(path, f"cannot be used ({exc})", "Export the file again")) from None


@dataclass(frozen=True)
class _Row:
    """A row of the table beside the volume of the sequence it belongs to."""

    number: int
    table: Any
    played: Prepared
    recovery_s: float


def conflicts(table: pd.DataFrame, fields: Mapping[str, Any], played: Protocol) -> list[str]:
    """Where table and sidecar contradict the sequence, a sentence each; equal ones once.

    Unsaturated reference volumes may be missing in the sequence.
    """
    paired = _paired(table, played)
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


def _paired(table: pd.DataFrame, played: Protocol) -> list[_Row] | None:
    volumes = list(zip(played.volumes, prepared(played), strict=True))
    rows: list[tuple[int, Any]] = list(enumerate(table.itertuples(index=False), start=1))
    if len(volumes) != len(rows):
        rows = [(n, r) for n, r in rows if r.saturation_b1 > 0]
    if len(volumes) != len(rows):
        return None
    found = []
    for (number, row), (volume, train) in zip(rows, volumes, strict=True):
        found.append(_Row(number, row, train, volume.recovery_s + _lead(volume.preparation)))
    return found


def _lead(preparation: tuple[Any, ...]) -> float:
    """Silence at the start of a preparation."""
    first = preparation[0] if preparation else None
    return first.duration_s if isinstance(first, Recovery) else 0.0


def _differences(row: _Row, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of columns or fields and what is said there and played."""
    said, train = row.table, row.played
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
    if row.number > 1 and abs(said.recovery_time - row.recovery_s) > ALIKE_S:
        yield (
            "recovery_time",
            f"recovery_time is {said.recovery_time:g} s, the file waits {row.recovery_s:g} s",
        )


def _count(row: Any, fields: Mapping[str, Any]) -> float:
    own = getattr(row, "saturation_pulses", np.nan)
    return _number(fields.get("MTNumberOfPulses")) if pd.isna(own) else float(own)


def _number(value: Any) -> float:
    """A field as a number; NaN, which contradicts nothing, where it is none."""
    return float(value) if isinstance(value, int | float) else np.nan
