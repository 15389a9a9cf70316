"""Pulseq sequences as protocols, and what their RF events say against their own definitions.

The events are what a scanner plays; definitions are only compared with them.  A block with a
gradient spoils, a block with an ADC samples, everything else is precession and pulses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from cestprep.physics.constants import GAMMA_HZ_PER_UT
from cestprep.physics.protocol import (
    Block,
    CarrierPhase,
    Protocol,
    Pulse,
    Readout,
    Recovery,
    Saturation,
    Spoil,
)
from cestprep.physics.pulseq import PulseqError, PulseqSequence, RfEvent, SequenceBlock
from cestprep.physics.waveforms import Waveform

PhaseSign = Literal["pulseq", "conjugate"]

#: Relative amplitude below which a pulse counts as off: files hold rounded differences.
_SILENT = 1e-6

#: Shapes already turned into waveforms: silence before (s), peak and what is played.
Waveforms = dict[tuple[int, int, float], tuple[float, float, Waveform] | None]


@dataclass(frozen=True)
class Conventions:
    """What sequence files leave open, and how simulators differ in reading them.

    Attributes
    ----------
    phase_sign : {"pulseq", "conjugate"}
        Which way a rising phase of a shape turns: ``pulseq``, as the standard says, is a higher
        frequency.
    carrier_phase : {"exact", "whole_degrees"}
        See `cestprep.physics.protocol.Protocol`.
    dead_time_s, ringdown_s : float
        Shortest silence before and after each pulse; a file may list less than was played.
    """

    phase_sign: PhaseSign = "pulseq"
    carrier_phase: CarrierPhase = "exact"
    dead_time_s: float = 0.0
    ringdown_s: float = 0.0


def frequency_of(sequence: PulseqSequence) -> float | None:
    """Scanner frequency in MHz that a sequence's definitions imply (FREQ, else B0), if any."""
    for name, factor in (("FREQ", 1.0), ("B0", GAMMA_HZ_PER_UT)):
        value = sequence.definitions.get(name)
        if isinstance(value, tuple) and len(value) == 1 and value[0] > 0:
            return value[0] * factor
    return None


def protocol_of(
    sequence: PulseqSequence,
    frequency_mhz: float,
    reset: float | None = None,
    conventions: Conventions = Conventions(),
) -> Protocol:
    """Protocol of a sequence, every pulse as it is played.

    Parameters
    ----------
    sequence : PulseqSequence
    frequency_mhz : float
        Scanner frequency; RF offsets in the file are Hz and stay what they are.
    reset : float or None
        See `cestprep.physics.protocol.Readout`.
    conventions : Conventions

    Raises
    ------
    PulseqError
        If the sequence does what cannot be simulated; the block is named.
    """
    blocks: list[Block] = []
    waveforms: Waveforms = {}
    spoiled, readouts = True, 0
    for block in sequence.blocks:
        if block.adc is not None and not spoiled:
            raise PulseqError(
                f"block {block.number}: the ADC follows RF without a spoiler between; image "
                "readouts are not supported, write one ADC per offset after the spoiler"
            )
        readouts += block.adc is not None
        for item in _blocks(block, frequency_mhz, reset, conventions, waveforms):
            spoiled = isinstance(item, Spoil) or (spoiled and not isinstance(item, Pulse))
            blocks.append(item)
    last = max((i for i, b in enumerate(blocks) if isinstance(b, Readout)), default=None)
    if last is None:
        raise PulseqError("the sequence has no ADC, so nothing is read out")
    if any(isinstance(b, Pulse) for b in blocks[last:]):
        raise PulseqError("the sequence plays RF after its last ADC, which nothing reads out")
    return Protocol(
        tuple(_merged(blocks[: last + 1])),
        frequency_mhz,
        (False,) * readouts,
        conventions.carrier_phase,
    )


def _blocks(
    block: SequenceBlock,
    frequency_mhz: float,
    reset: float | None,
    conventions: Conventions,
    waveforms: Waveforms,
) -> Iterator[Block]:
    if block.rf is not None and (block.gradient or block.adc is not None):
        other = "a gradient" if block.gradient else "an ADC"
        raise PulseqError(
            f"block {block.number}: RF together with {other} (slice selection, image readout) is "
            "not supported; put them into blocks of their own"
        )
    if block.adc is not None:
        yield Readout(0.0, reset=reset)
    if block.gradient:
        yield Spoil()
    if block.rf is None:
        yield Recovery(block.duration_s)
    else:
        yield from _rf(block.rf, block.duration_s, frequency_mhz, conventions, waveforms)


def _rf(
    rf: RfEvent,
    duration_s: float,
    frequency_mhz: float,
    conventions: Conventions,
    waveforms: Waveforms,
) -> Iterator[Block]:
    """Pulse without the silence around it."""
    key = (id(rf.magnitude), id(rf.phase), rf.raster_s)
    if key not in waveforms:  # a sequence plays one shape hundreds of times
        waveforms[key] = _loud(rf, conventions.phase_sign)
    found = waveforms[key]
    if found is None or rf.amplitude_hz == 0:
        yield Recovery(duration_s)
        return
    lead, peak, waveform = found
    if rf.amplitude_hz < 0:
        waveform = Waveform(waveform.durations_s, -waveform.envelope)
    frequency_hz = rf.frequency_hz + rf.frequency_ppm * frequency_mhz
    phase = rf.phase_rad + rf.phase_ppm * frequency_mhz + 2 * math.pi * frequency_hz * lead
    yield Recovery(max(rf.delay_s, conventions.dead_time_s) + lead)
    yield Pulse(
        waveform,
        abs(rf.amplitude_hz) * peak / GAMMA_HZ_PER_UT,
        frequency_hz / frequency_mhz,
        math.remainder(phase, 2 * math.pi),
    )
    rest = duration_s - rf.delay_s - lead - waveform.duration_s
    yield Recovery(max(rest, conventions.ringdown_s, 0.0))


def _loud(rf: RfEvent, phase_sign: PhaseSign) -> tuple[float, float, Waveform] | None:
    """Silence before a shape (s), its peak and what is played; None if it is all silence."""
    durations, envelope = _envelope(rf, phase_sign)
    peak = float(np.abs(envelope).max(initial=0.0))
    loud = np.flatnonzero(np.abs(envelope) > _SILENT * peak)
    if not loud.size:
        return None
    played = slice(loud[0], loud[-1] + 1)
    lead = float(durations[: loud[0]].sum())
    return lead, peak, Waveform(durations[played], envelope[played] / peak)


def _envelope(rf: RfEvent, phase_sign: PhaseSign) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (s) and complex values of a pulse's runs."""
    ends = np.cumsum(rf.magnitude.counts)
    turns = np.zeros(1)
    if rf.phase is not None:
        phase_ends = np.cumsum(rf.phase.counts)
        ends = np.union1d(ends, phase_ends)
        turns = rf.phase.values[np.searchsorted(phase_ends, ends)]
    magnitude = rf.magnitude.values[np.searchsorted(np.cumsum(rf.magnitude.counts), ends)]
    sign = 1.0 if phase_sign == "pulseq" else -1.0
    values = magnitude * np.exp(sign * 2j * math.pi * turns)
    starts = np.flatnonzero(np.concatenate([[True], np.abs(np.diff(values)) > 0]))
    counts = np.add.reduceat(np.diff(ends, prepend=0), starts)
    return counts * rf.raster_s, values[starts]


def _merged(blocks: list[Block]) -> Iterator[Block]:
    """Blocks with recoveries in a row united."""
    waiting = 0.0
    for block in blocks:
        if isinstance(block, Recovery):
            waiting += block.duration_s
            continue
        if waiting:
            yield Recovery(waiting)
        waiting = 0.0
        yield block


@dataclass(frozen=True)
class Prepared:
    """What one volume of a sequence is prepared with, derived from its RF events.

    Of a preparation in parts only the last, from one spoiler to the next, is described.

    Attributes
    ----------
    offset_ppm : float
        Of the longest pulse; NaN without RF.
    n_pulses : int
        Pulses like the longest.
    n_others : int
        Pulses that are neither like it nor tips around one; B1 is not that of these.
    pulse_duration_s, pulse_delay_s : float
        Of these pulses, and the longest time from one's end to the next one's start.
    b1_peak_ut, b1_mean_ut, b1_rms_ut : float
        Peak, mean (flip angle) and root mean square (power) of one of these pulses.
    b1_cwpe_ut : float
        Root mean square over the train, from the first such pulse to the end of the last.
    tip_deg : float
        Flip angle of the tips around each of these pulses if they are spin-locked, else 0.
    duration_s : float
        From the start of the first such pulse to the end of the last.
    lead_s, after_s : float
        From the start of the preparation to the first such pulse, and from the last to the readout.
    gap_spread_s : float
        Difference of the longest and the shortest time between such pulses.
    """

    offset_ppm: float
    n_pulses: int
    n_others: int
    pulse_duration_s: float
    pulse_delay_s: float
    b1_peak_ut: float
    b1_mean_ut: float
    b1_rms_ut: float
    b1_cwpe_ut: float
    tip_deg: float
    duration_s: float
    lead_s: float
    after_s: float
    gap_spread_s: float


NOTHING = Prepared(math.nan, 0, 0, *[0.0] * 11)


def prepared(protocol: Protocol) -> tuple[Prepared, ...]:
    """Pulse trains of a protocol as played, a volume each."""
    return tuple(
        _prepared(volume.preparation, protocol.frequency_mhz) for volume in protocol.volumes
    )


def _prepared(preparation: tuple[Block, ...], frequency_mhz: float) -> Prepared:
    starts: list[float] = []
    pulses: list[Pulse] = []
    now, spoiled = 0.0, False
    for block in preparation:
        if isinstance(block, Pulse):
            if spoiled:
                starts, pulses, spoiled = [], [], False
            starts.append(now)
            pulses.append(block)
            now += block.waveform.duration_s
        elif isinstance(block, Recovery):
            now += block.duration_s
        else:
            spoiled = True
    if not pulses:
        return NOTHING
    longest = max(pulses, key=lambda q: q.waveform.duration_s)
    like = [
        i
        for i, q in enumerate(pulses)
        if q.waveform == longest.waveform and q.b1_ut == longest.b1_ut
    ]
    length = longest.waveform.duration_s
    gaps = [starts[j] - starts[i] - length for i, j in pairwise(like)]
    span = starts[like[-1]] + length - starts[like[0]]
    power = len(like) * length * (longest.b1_ut * longest.waveform.rms) ** 2
    tip_deg = _tips(pulses, like, frequency_mhz)
    return Prepared(
        offset_ppm=longest.offset_ppm,
        n_pulses=len(like),
        n_others=0 if tip_deg else len(pulses) - len(like),
        pulse_duration_s=length,
        pulse_delay_s=max(gaps, default=0.0),
        b1_peak_ut=longest.b1_ut,
        b1_mean_ut=longest.b1_ut * longest.waveform.mean,
        b1_rms_ut=longest.b1_ut * longest.waveform.rms,
        b1_cwpe_ut=math.sqrt(power / span),
        tip_deg=tip_deg,
        duration_s=span,
        lead_s=starts[like[0]],
        after_s=now - starts[like[-1]] - length,
        gap_spread_s=max(gaps, default=0.0) - min(gaps, default=0.0),
    )


#: How far real tips may be from the tilt of the effective field they serve: a share of it, and
#: what the digits of a file amount to where it is small.
_TIP_TOLERANCE, _TIP_DIGITS_DEG = 0.05, 0.05


def _tips(pulses: list[Pulse], like: list[int], frequency_mhz: float) -> float:
    """Flip angle (degrees) of the tips if every long pulse stands between two that lock it."""
    enclosed = all(
        0 < i < len(pulses) - 1 and i - 1 not in like and i + 1 not in like for i in like
    )
    if not enclosed:
        return 0.0
    lock = pulses[like[0]]
    tilt = _degrees(lock.b1_ut * GAMMA_HZ_PER_UT, lock.offset_ppm * frequency_mhz)
    angles = [_flip_deg(pulses[i + side]) for i in like for side in (-1, 1)]
    tolerance = _TIP_TOLERANCE * tilt + _TIP_DIGITS_DEG
    matches = all(abs(angle - tilt) < tolerance for angle in angles)
    return float(np.mean(angles)) if matches and tilt > 2 * _TIP_DIGITS_DEG else 0.0


def _degrees(w1_hz: float, offset_hz: float) -> float:
    return math.degrees(math.atan2(w1_hz, abs(offset_hz)))


def _flip_deg(pulse: Pulse) -> float:
    turns = pulse.b1_ut * pulse.waveform.mean * GAMMA_HZ_PER_UT * pulse.waveform.duration_s
    return 360.0 * turns


#: Definitions a sequence may hold of what its events play: name, what of `Prepared` it may mean
#: (B1rms is found both with and without the duty cycle), unit.
_DEFINED = (
    ("B1", ("b1_peak_ut",), "uT"),
    ("B1rms", ("b1_cwpe_ut", "b1_rms_ut"), "uT"),
    ("B1cwpe", ("b1_cwpe_ut",), "uT"),
    ("n_pulses", ("n_pulses",), "pulses"),
    ("tp", ("pulse_duration_s",), "s"),
    ("Tsat", ("duration_s",), "s"),
)
_DISAGREEMENT = 0.01


def contradictions(sequence: PulseqSequence, protocol: Protocol) -> tuple[str, ...]:
    """Definitions of a sequence that its RF events contradict, a sentence each."""
    found = []
    volumes = prepared(protocol)
    definitions = sequence.definitions
    count = definitions.get("num_meas")
    if isinstance(count, tuple) and count[0] != len(volumes):
        found.append(f"num_meas is {count[0]:g}, but there are {len(volumes)} readouts")
    own = frequency_of(sequence)
    if own is not None and abs(own / protocol.frequency_mhz - 1) > 1e-4:
        found.append(
            f"written for {own:.6g} MHz, simulated at {protocol.frequency_mhz:.6g} MHz: RF keeps "
            "its Hz, so its ppm change"
        )
    for name, attributes, unit in _DEFINED:
        value = definitions.get(name)
        if isinstance(value, tuple):
            meanings = [[float(getattr(q, a)) for q in volumes] for a in attributes]
            sentences = [_contradicted(name, value, m, volumes, unit) for m in meanings]
            found += sentences[0] if all(sentences) else []
    offsets = definitions.get("offsets_ppm")
    if isinstance(offsets, tuple):
        scale = protocol.frequency_mhz / (own or protocol.frequency_mhz)
        played = [q.offset_ppm * scale for q in volumes]
        found += _contradicted("offsets_ppm", offsets, played, volumes, "ppm")
    return tuple(found)


def _contradicted(
    name: str,
    stated: tuple[float, ...],
    played: list[float],
    volumes: tuple[Prepared, ...],
    unit: str,
) -> list[str]:
    """A sentence where the statement fails for some volumes with RF."""
    wrong = []
    for i, (value, volume) in enumerate(zip(played, volumes, strict=True)):
        want = stated[i if len(stated) == len(played) else 0]
        if volume.n_pulses and abs(value - want) > max(_DISAGREEMENT * abs(want), 1e-3):
            wrong.append((i, want, value))
    if not wrong:
        return []
    i, want, value = wrong[-1]
    rest = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return [f"{name} is {want:g} {unit}, but volume {i + 1}{rest} plays {value:.6g} {unit}"]


#: Difference (s) of times that count as equal, and digits kept of times: sums are off by 1e-17.
_SAME_S, _DIGITS = 1e-7, 12


def simplified(protocol: Protocol) -> Protocol:
    """The same protocol in the form that the fewest solvers refuse; exact.

    Volumes of a single rectangular pulse become saturations: the phase of a pulse that starts from
    longitudinal magnetisation does not matter.  The spoiler moves to the end of a saturation:
    without RF transverse magnetisation has no effect on longitudinal.
    """
    return _with_preparations(protocol, (_simplified(v.preparation) for v in protocol.volumes))


def _simplified(preparation: tuple[Block, ...]) -> tuple[Block, ...]:
    first, *rest = preparation or (Spoil(),)
    if any(isinstance(block, Pulse | Saturation) for block in rest):
        return preparation
    if isinstance(first, Pulse) and first.waveform.is_rectangular:
        b1_ut = first.b1_ut * float(abs(first.waveform.envelope[0]))
        first = Saturation(first.offset_ppm, b1_ut, first.waveform.duration_s)
    if not isinstance(first, Saturation):
        return preparation
    after = sum(block.duration_s for block in rest if isinstance(block, Recovery))
    return first, Spoil(), Recovery(round(after, _DIGITS))


def idealised(protocol: Protocol) -> Protocol:
    """The same protocol with ideal tips in place of the real ones, which take time and relax.

    Trains that `prepared` recognises as rectangular and spin-locked become saturations of the same
    offset, B1 and timing; what the tips took becomes recovery.  Other volumes stay.

    Raises
    ------
    ValueError
        If such a train is not of equal pulses at equal distances; the volume is named.
    """
    preparations = []
    pairs = zip(protocol.volumes, prepared(protocol), strict=True)
    for number, (volume, train) in enumerate(pairs, start=1):
        try:
            preparations.append(_idealised(volume.preparation) if train.tip_deg > 0 else None)
        except ValueError as exc:
            raise ValueError(f"volume {number}: {exc}; its tips cannot be made ideal") from None
    volumes = zip(protocol.volumes, preparations, strict=True)
    return _with_preparations(
        protocol, (v.preparation if ideal is None else ideal for v, ideal in volumes)
    )


def _idealised(preparation: tuple[Block, ...]) -> tuple[Block, ...] | None:
    """A preparation that ends in a spin-locked train; None if its pulses are not rectangular."""
    last = max(i for i, block in enumerate(preparation) if isinstance(block, Pulse))
    spoils = [i for i, block in enumerate(preparation[:last]) if isinstance(block, Spoil)]
    first = spoils[-1] + 1 if spoils else 0
    train = _locked(preparation[first : last + 1])
    return train and (*preparation[:first], *train, *preparation[last + 1 :])


def _locked(train: tuple[Block, ...]) -> tuple[Recovery, Saturation, Recovery] | None:
    """A spin-locked train of pulses and recoveries with ideal tips; None unless rectangular."""
    starts: list[float] = []
    pulses: list[Pulse] = []
    now = 0.0
    for block in train:
        if isinstance(block, Pulse):
            starts.append(now)
            pulses.append(block)
            now += block.waveform.duration_s
        elif isinstance(block, Recovery):
            now += block.duration_s
    lock = max(pulses, key=lambda q: q.waveform.duration_s)
    if not lock.waveform.is_rectangular:
        return None
    like = [(q.waveform, q.b1_ut, q.offset_ppm) for q in pulses[1::3]]
    if 3 * len(like) != len(pulses) or set(like) != {(lock.waveform, lock.b1_ut, lock.offset_ppm)}:
        raise ValueError("its long pulses are not equal, each between two tips of its own")
    length = lock.waveform.duration_s
    gaps = [b - a - length for a, b in pairwise(starts[1::3])] or [0.0]
    if max(gaps) - min(gaps) > _SAME_S:
        raise ValueError(f"its pulse delays are not equal ({min(gaps):g} to {max(gaps):g} s)")
    return (
        Recovery(round(starts[1], _DIGITS)),
        Saturation(
            offset_ppm=lock.offset_ppm,
            b1_ut=lock.b1_ut * float(abs(lock.waveform.envelope[0])),
            pulse_duration_s=round(length, _DIGITS),
            n_pulses=len(like),
            pulse_delay_s=round(sum(gaps) / len(gaps), _DIGITS),
            spin_lock="ideal",
        ),
        Recovery(round(now - starts[-2] - length, _DIGITS)),
    )


def _with_preparations(protocol: Protocol, preparations: Iterable[tuple[Block, ...]]) -> Protocol:
    """A protocol with the preparation of every volume replaced."""
    blocks: list[Block] = []
    for volume, preparation in zip(protocol.volumes, preparations, strict=True):
        spoil = [Spoil()] if preparation else []
        blocks += [Recovery(volume.recovery_s), *preparation, *spoil, volume.readout]
    return replace(protocol, blocks=tuple(_merged(blocks)))
