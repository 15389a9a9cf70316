"""What ``cestprep-tools simulate`` says and writes: summary, table, sidecar and figure."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cestprep import __version__

if TYPE_CHECKING:
    import numpy as np

    from cestprep.physics.protocol import Protocol, Volume
    from cestprep.physics.pulseq import PulseqSequence
    from cestprep.physics.pulseq_pools import PoolSimulation
    from cestprep.physics.pulseq_protocol import Conventions, Prepared

#: Rows of trains that are shown.
_MAX_TRAINS = 12
#: Offsets beyond this multiple of the median are references, left out of a figure.
_FAR = 10.0
_B1_DEFINITIONS = {
    "peak": "largest amplitude of one pulse",
    "mean": "magnitude of the mean over one pulse, which sets its flip angle",
    "rms": "root mean square over one pulse",
    "cwpe": "root mean square over the train of these pulses, tips and others left out, from the "
    "start of the first to the end of the last",
}


@dataclass(frozen=True)
class Problem:
    """What is simulated, and what it was read from.

    Attributes
    ----------
    sequence_file, pool_file : Path
    sequence : PulseqSequence
    pools : PoolSimulation
    conventions : Conventions
    played : Protocol
        The sequence, every pulse as it is played.
    protocol : Protocol
        What is simulated.
    ideal_tips : bool
    offset_mhz : float
        What offsets are in ppm of: the sequence's frequency, if it has one.
    """

    sequence_file: Path
    pool_file: Path
    sequence: PulseqSequence
    pools: PoolSimulation
    conventions: Conventions
    played: Protocol
    protocol: Protocol
    ideal_tips: bool
    offset_mhz: float


@dataclass(frozen=True)
class Computing:
    """How it is simulated: solver, why this one and its caveats, precision, device."""

    solver: str
    reason: str
    caveats: tuple[str, ...]
    precision: str
    device: str


@dataclass(frozen=True)
class Train:
    """Volumes of equal preparation but for offset and B1.

    Attributes
    ----------
    prepared : tuple of Prepared
        A volume each.
    offsets_ppm : tuple of float
        As written to the table.
    after_s : float
        From the last pulse to the readout.
    """

    prepared: tuple[Prepared, ...]
    offsets_ppm: tuple[float, ...]
    after_s: float


def trains_of(problem: Problem) -> list[Train]:
    """Volumes grouped by what they are prepared with, offset and amplitude aside."""
    from cestprep.physics.pulseq_protocol import prepared

    groups: dict[tuple[float, ...], list[tuple[Prepared, float]]] = {}
    pairs = zip(problem.played.volumes, prepared(problem.played), strict=True)
    for volume, train in pairs:
        after_s = _after_s(volume)
        groups.setdefault(_kind(train, after_s), []).append((train, after_s))
    scale = problem.played.frequency_mhz / problem.offset_mhz
    return [
        Train(
            tuple(train for train, _ in group),
            tuple(train.offset_ppm * scale for train, _ in group),
            group[0][1],
        )
        for group in groups.values()
    ]


def _kind(train: Prepared, after_s: float) -> tuple[float, ...]:
    peak = train.b1_peak_ut or 1.0
    times = train.pulse_duration_s, train.pulse_delay_s, after_s
    shape = train.b1_mean_ut, train.b1_rms_ut, train.b1_cwpe_ut
    return (
        train.n_pulses,
        train.n_others,
        train.tip_deg > 0,
        *(round(t, 6) for t in times),
        *(round(b1 / peak, 3) for b1 in shape),
    )


def _after_s(volume: Volume) -> float:
    """Time from the last pulse to the readout; 0 without pulses."""
    from cestprep.physics.protocol import Pulse, Recovery

    after = 0.0
    for block in reversed(volume.preparation):
        if isinstance(block, Pulse):
            return after
        after += block.duration_s if isinstance(block, Recovery) else 0.0
    return 0.0


def describe(problem: Problem, computing: Computing, trains: Sequence[Train]) -> str:
    """What was understood, for a human."""
    sections = [
        _aligned(_facts(problem, computing), 0),
        _aligned(_pool_rows(problem.pools), 2),
        _aligned(_train_rows(trains), 2),
        [f"Note: {note}" for note in problem.pools.notes],
        [f"Warning: {warning}" for warning in _warnings(problem, computing, trains)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _facts(problem: Problem, computing: Computing) -> list[tuple[str, str]]:
    conventions, pools = problem.conventions, problem.pools
    frequency = problem.protocol.frequency_mhz
    count = problem.protocol.n_volumes
    return [
        ("Sequence", f"{problem.sequence_file.name}, Pulseq {_version(problem)}, {count} volumes"),
        ("Pool model", problem.pool_file.name),
        ("Frequency", f"{frequency:.7g} MHz; offsets in ppm of {problem.offset_mhz:.7g} MHz"),
        ("Field", f"water at {pools.parameters['b0_ppm']:+g} ppm, B1 "
         f"{pools.parameters['b1_scale']:g} of nominal"),
        ("Start", _start(pools.reset)),
        ("Conventions", f"phase sign {conventions.phase_sign}, carrier phase "
         f"{conventions.carrier_phase.replace('_', '-')}, dead time "
         f"{1e6 * conventions.dead_time_s:g} us, ringdown {1e6 * conventions.ringdown_s:g} us, "
         f"tips {'ideal' if problem.ideal_tips else 'played'}"),
        ("Solver", f"{computing.solver} ({computing.reason})"),
        ("Computing", f"{computing.precision} precision on {computing.device}"),
    ]  # fmt: skip


def _start(reset: float | None) -> str:
    if reset is None:
        return "equilibrium, then magnetisation is carried on from volume to volume"
    return f"every volume from {'' if reset == 1 else f'{reset:g} times '}equilibrium"


def _version(problem: Problem) -> str:
    return ".".join(map(str, problem.sequence.version))


def _pool_rows(pools: PoolSimulation) -> list[tuple[str, ...]]:
    p = pools.parameters
    rows: list[tuple[str, ...]] = [
        ("pool", "fraction", "k (1/s)", "T1 (s)", "T2 (s)", "shift (ppm)", "kind"),
        ("water", f"{p['m0']:g}", "", f"{p['t1']:g}", f"{p['t2']:g}", "", ""),
    ]
    for pool in pools.model.pools:
        keys = ("fraction", "k_exchange", "t1", "t2", "offset_ppm")
        numbers = (f"{p[f'{pool.name}.{key}']:g}" for key in keys)
        kind = "CEST" if pool.kind == "cest" else f"MT, {pool.lineshape}"
        rows.append((pool.name, *numbers, kind))
    return rows


def _train_rows(trains: Sequence[Train]) -> list[tuple[str, ...]]:
    head = ("volumes", "offset (ppm)", "pulses", "delay (ms)", "B1 peak (uT)", "mean", "rms",
            "cwpe", "tips (deg)", "then (ms)")  # fmt: skip
    rows = [head, *map(_train_row, trains[:_MAX_TRAINS])]
    if len(trains) > _MAX_TRAINS:
        rows.append(("...", f"{len(trains) - _MAX_TRAINS} more kinds"))
    return rows


def _train_row(train: Train) -> tuple[str, ...]:
    first, count = train.prepared[0], str(len(train.prepared))
    if not first.n_pulses:
        return count, "no RF"
    return (
        count,
        _range(train.offsets_ppm),
        f"{first.n_pulses} x {1e3 * first.pulse_duration_s:.5g} ms"
        + (f" + {first.n_others} other" if first.n_others else ""),
        f"{1e3 * first.pulse_delay_s:.5g}" if first.n_pulses > 1 else "-",
        *(
            _range([getattr(q, f"b1_{name}_ut") for q in train.prepared])
            for name in _B1_DEFINITIONS
        ),
        _range([q.tip_deg for q in train.prepared]) if first.tip_deg else "-",
        f"{1e3 * train.after_s:.5g}",
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{_plain(min(values), 3):.4g}", f"{_plain(max(values), 3):.4g}"
    return low if low == high else f"{low} to {high}"


def _plain(value: float, digits: int) -> float:
    """Rounded, and zero without a sign."""
    return round(value, digits) + 0.0


def _warnings(problem: Problem, computing: Computing, trains: Sequence[Train]) -> list[str]:
    from cestprep.physics.pulseq_protocol import contradictions

    found = [*computing.caveats, *contradictions(problem.sequence, problem.played)]
    if problem.ideal_tips:
        volumes = [q for train in trains for q in train.prepared if q.n_pulses]
        left = sum(not q.tip_deg for q in volumes)
        if left:
            found.append(
                f"{left} of {len(volumes)} volumes with RF are not recognised as spin-locked by "
                "tips and are played as they are"
            )
    return found


def _aligned(rows: Sequence[tuple[str, ...]], indent: int) -> list[str]:
    columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        for row in rows
    )
    return [" " * indent + line.rstrip() for line in padded]


def offsets_of(problem: Problem) -> list[float]:
    """Offset of every volume; NaN without RF."""
    from cestprep.physics.pulseq_protocol import prepared

    scale = problem.played.frequency_mhz / problem.offset_mhz
    return [train.offset_ppm * scale for train in prepared(problem.played)]


def table_of(offsets: Sequence[float], mz: np.ndarray) -> str:
    """Text of the table."""
    rows = (
        f"{'n/a' if math.isnan(offset) else f'{_plain(offset, 4):.4f}'}\t{_plain(float(z), 9):.9f}"
        for offset, z in zip(offsets, mz, strict=True)
    )
    return "\n".join(["offset_ppm\tmz", *rows, ""])


def sidecar_of(problem: Problem, computing: Computing, trains: Sequence[Train]) -> dict[str, Any]:
    """What the table is, and what it was computed from."""
    from cestprep.physics.pools import parameter_unit
    from cestprep.physics.pulseq_protocol import prepared

    pools, conventions = problem.pools, problem.conventions
    return {
        "offset_ppm": {
            "Description": "RF frequency of the volume's longest pulse minus scanner frequency, "
            "positive downfield, in ppm of OffsetFrequency; n/a without RF",
            "Units": "ppm",
        },
        "mz": {
            "Description": "Longitudinal magnetisation of water at the readout, signed, in units "
            "of the equilibrium magnetisation of a water pool of fraction 1",
            "Units": "1",
        },
        "SequenceFile": problem.sequence_file.name,
        "PulseqVersion": _version(problem),
        "PoolFile": problem.pool_file.name,
        "Solver": computing.solver,
        "Precision": computing.precision,
        "Device": computing.device,
        "ScannerFrequency": {"Value": problem.protocol.frequency_mhz, "Units": "MHz"},
        "OffsetFrequency": {"Value": problem.offset_mhz, "Units": "MHz"},
        "Conventions": {
            "PhaseSign": conventions.phase_sign,
            "CarrierPhase": conventions.carrier_phase.replace("_", "-"),
            "DeadTime": {"Value": conventions.dead_time_s, "Units": "s"},
            "Ringdown": {"Value": conventions.ringdown_s, "Units": "s"},
            "Tips": "ideal" if problem.ideal_tips else "played",
            "ResetMagnetization": pools.reset,
            "MTConvention": pools.model.mt,
        },
        "Pools": {
            pool.name: "cest" if pool.kind == "cest" else f"mt, {pool.lineshape}"
            for pool in pools.model.pools
        },
        "Parameters": {
            name: {"Value": value, "Units": parameter_unit(name)}
            for name, value in pools.parameters.items()
        },
        "B1Definitions": {
            name: {"Description": text, "Units": "uT"} for name, text in _B1_DEFINITIONS.items()
        },
        "Trains": [_train_fields(train) for train in trains],
        "Notes": list(pools.notes),
        "Volumes": [
            _volume_fields(volume, train)
            for volume, train in zip(problem.played.volumes, prepared(problem.played), strict=True)
        ],
        "Warnings": _warnings(problem, computing, trains),
        "GeneratedBy": {"Name": "cestprep", "Version": __version__},
    }


def _train_fields(train: Train) -> dict[str, Any]:
    """A train with least and largest values; times in s, angles in degrees, B1 in uT."""
    first = train.prepared[0]
    fields: dict[str, Any] = {"Volumes": len(train.prepared), "NumberOfPulses": first.n_pulses}
    if not first.n_pulses:
        return fields
    tips = [q.tip_deg for q in train.prepared]
    return fields | {
        "PulseDuration": round(first.pulse_duration_s, 9),
        "PulseDelay": round(first.pulse_delay_s, 9),
        "NumberOfOtherPulses": first.n_others,
        "TipFlipAngle": [min(tips), max(tips)],
        "PostPreparationDelay": round(train.after_s, 9),
        "B1": {name: _ends([getattr(q, f"b1_{name}_ut") for q in train.prepared])
               for name in _B1_DEFINITIONS},
    }  # fmt: skip


def _ends(values: Sequence[float]) -> list[float]:
    return [round(min(values), 6), round(max(values), 6)]


def _volume_fields(volume: Volume, train: Prepared) -> dict[str, Any]:
    """What a row of the table was measured with: s, ppm, uT; the wait is before its RF."""
    fields: dict[str, Any] = {"RecoveryTime": round(volume.recovery_s, 9)}
    if train.n_pulses:
        fields |= {
            "NumberOfPulses": train.n_pulses,
            "Duration": round(train.duration_s, 9),
            "B1": {name: round(getattr(train, f"b1_{name}_ut"), 6) for name in _B1_DEFINITIONS},
        }
    return fields


def figure_of(
    problem: Problem, solver: str, offsets: Sequence[float], mz: np.ndarray, kind: str
) -> bytes:
    """Spectrum, or signal by volume where offsets repeat."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure((6.4, 4.0), 130, layout="constrained")
    axis = figure.subplots()
    ppm = np.array(offsets)
    finite = np.isfinite(ppm)
    shown = finite & (np.abs(ppm) <= _FAR * np.median(np.abs(ppm[finite])))
    line: dict[str, Any] = {"marker": "o", "ms": 2.5, "lw": 1.2, "color": "#1d3557"}
    title = f"{problem.sequence_file.stem}\n{solver}"
    if _is_spectrum(problem, ppm[shown]):
        order = np.argsort(ppm[shown])
        axis.plot(ppm[shown][order], mz[shown][order], **line)
        axis.invert_xaxis()
        axis.set_xlabel(f"offset (ppm of {problem.offset_mhz:.6g} MHz)")
        left = int(ppm.size - shown.sum())
        title += f"; {left} of {ppm.size} volumes further out, not shown" if left else ""
    else:
        axis.plot(np.arange(1, mz.size + 1), mz, **line)
        axis.set_xlabel("volume")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(min(0.0, 1.05 * float(mz.min())), max(1.02, 1.05 * float(mz.max())))
    axis.set_ylabel("mz / m0 of water")
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def _is_spectrum(problem: Problem, offsets: np.ndarray) -> bool:
    """Whether volumes differ in little but offset, so that a curve over it means something."""
    import numpy as np

    from cestprep.physics.pulseq_protocol import prepared

    played = [q for q in prepared(problem.played) if q.n_pulses]
    power = np.array([q.b1_cwpe_ut for q in played])
    alike = power.size > 2 and np.median(np.abs(power / np.median(power) - 1)) < 0.05
    return bool(alike and np.unique(offsets.round(4)).size > 0.6 * offsets.size)
