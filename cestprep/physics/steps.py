"""Preparations as sequences of elementary steps, and what several of them have in common.

Pure bookkeeping in float64, done once per protocol.  Magnetisation is followed in a frame that
turns with the carrier during pulses and with the scanner frequency otherwise; `Step.turn_rad` is
the angle between the frames of a step and the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.physics.protocol import (
    Block,
    CarrierPhase,
    Pulse,
    Readout,
    Recovery,
    Saturation,
    Spoil,
)
from cestprep.physics.waveforms import Waveform

Kind = Literal["pulse", "free", "relax", "spoil"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Step:
    """One elementary step of a preparation.

    Attributes
    ----------
    kind : {"pulse", "free", "relax", "spoil"}
        ``relax`` is a recovery without transverse magnetisation.
    waveform, spin_lock
        Of a pulse; ``spin_lock``: enclosed by ideal tips.
    duration_s : float
        Of a recovery.
    b1_ut, offset_ppm : float
        Of a pulse.
    turn_rad : float
        Rotation about z before the step.
    """

    kind: Kind
    waveform: Waveform | None = None
    spin_lock: bool = False
    duration_s: float = 0.0
    b1_ut: float = 0.0
    offset_ppm: float = 0.0
    turn_rad: float = 0.0

    @property
    def shape(self) -> tuple[object, ...]:
        """What steps must share to be computed together."""
        return self.kind, self.waveform, self.spin_lock


def steps_of(
    preparation: Sequence[Block], frequency_mhz: float, carrier_phase: CarrierPhase = "exact"
) -> tuple[Step, ...]:
    """Elementary steps of a preparation that starts from longitudinal magnetisation."""
    steps: list[Step] = []
    spoiled, frame = True, 0.0
    for block, spin_lock in _elementary(preparation, frequency_mhz):
        if isinstance(block, Pulse):
            turn = 0.0 if spoiled else _wrapped(frame - block.phase_rad)
            steps.append(
                Step(
                    "pulse",
                    block.waveform,
                    spin_lock,
                    b1_ut=block.b1_ut,
                    offset_ppm=block.offset_ppm,
                    turn_rad=turn,
                )
            )
            turns = block.offset_ppm * frequency_mhz * block.waveform.duration_s
            frame, spoiled = block.phase_rad + _carrier(turns, carrier_phase), False
        elif isinstance(block, Recovery):
            if block.duration_s:
                kind: Kind = "relax" if spoiled else "free"
                steps.append(Step(kind, duration_s=block.duration_s))
        else:
            steps.append(Step("spoil"))
            spoiled = True
    return tuple(steps)


def _carrier(turns: float, carrier_phase: CarrierPhase) -> float:
    """Phase (rad) a carrier gains in a number of turns."""
    if carrier_phase == "exact":
        return 2 * math.pi * turns
    return math.radians(math.trunc(math.fmod(360 * turns, 360)))


def _wrapped(angle: float) -> float:
    return math.remainder(angle, 2 * math.pi)


def _elementary(
    preparation: Sequence[Block], frequency_mhz: float
) -> Iterator[tuple[Pulse | Recovery | Spoil, bool]]:
    """Blocks with trains played out, each with whether ideal tips enclose it."""
    for block in preparation:
        if not isinstance(block, Saturation):
            assert not isinstance(block, Readout)
            yield block, False
            continue
        waveform = Waveform.rectangular(block.pulse_duration_s)
        period = block.pulse_duration_s + block.pulse_delay_s
        for i in range(block.n_pulses):
            # the carrier runs on between the pulses
            phase = 2 * math.pi * block.offset_ppm * frequency_mhz * i * period
            pulse = Pulse(waveform, block.b1_ut, block.offset_ppm, _wrapped(phase))
            yield pulse, block.spin_lock == "ideal"
            if i < block.n_pulses - 1:
                yield Recovery(block.pulse_delay_s), False


@dataclass(frozen=True)
class Played:
    """Steps of several preparations of one shape; arrays are indexed by preparation last.

    Attributes
    ----------
    elements : tuple of Step
        Distinct steps; only what makes their shape counts.
    b1_ut, offset_ppm, duration_s : ndarray, shape (n_elements, S)
        Of each distinct step.
    order : tuple of int
        Place of each step among ``elements``.
    turns_rad : ndarray, shape (n_steps, S)
    """

    elements: tuple[Step, ...]
    b1_ut: np.ndarray
    offset_ppm: np.ndarray
    duration_s: np.ndarray
    order: tuple[int, ...]
    turns_rad: np.ndarray


def play_together(preparations: Sequence[tuple[Step, ...]]) -> Played:
    """Line up preparations whose steps have the same shapes."""
    places: dict[tuple[object, ...], int] = {}
    order = []
    columns = list(zip(*preparations, strict=True))
    for column in columns:
        fields = tuple((s.b1_ut, s.offset_ppm, s.duration_s) for s in column)
        order.append(places.setdefault((column[0].shape, fields), len(places)))
    elements = [columns[order.index(i)] for i in range(len(places))]
    return Played(
        elements=tuple(column[0] for column in elements),
        b1_ut=np.array([[s.b1_ut for s in column] for column in elements]),
        offset_ppm=np.array([[s.offset_ppm for s in column] for column in elements]),
        duration_s=np.array([[s.duration_s for s in column] for column in elements]),
        order=tuple(order),
        turns_rad=np.array([[s.turn_rad for s in column] for column in columns]),
    )


@dataclass(frozen=True)
class Repeat:
    """``order[start : start + period]`` played ``count`` times."""

    start: int
    period: int
    count: int


def repeats(order: Sequence[int]) -> tuple[Repeat, ...]:
    """Cover a sequence by repeated stretches, the longest first at each place."""
    found, at = [], 0
    while at < len(order):
        best = Repeat(at, 1, 1)
        for period in range(1, (len(order) - at) // 2 + 1):
            count = 1
            while order[at + count * period : at + (count + 1) * period] == order[at : at + period]:
                count += 1
            if count > 1 and count * period > best.count * best.period:
                best = Repeat(at, period, count)
        found.append(best)
        at += best.period * best.count
    return tuple(found)


def grouped(
    items: Sequence[Item],
    key: Callable[[Item], Hashable],
    compute: Callable[[list[Item]], Array],
) -> Array:
    """Results for all items, computed group by group; their axis is the last but one."""
    groups: dict[Hashable, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(key(item), []).append(i)
    results = [compute([items[i] for i in places]) for places in groups.values()]
    if len(results) == 1:
        return results[0]
    order = np.argsort(np.concatenate(list(groups.values())))
    return jnp.concatenate(results, axis=-2)[..., order, :]
