"""Acquisition protocols as lists of blocks, independent of any file format.

A `Protocol` is what was played out, in order.  Magnetisation is at equilibrium before the first
block; each `Readout` yields one volume: the longitudinal water magnetisation before its first shot.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from cestprep.physics.waveforms import Waveform


@dataclass(frozen=True)
class Recovery:
    """Nothing is played: free precession, relaxation and exchange, in s."""

    duration_s: float

    def __post_init__(self) -> None:
        if not self.duration_s >= 0:
            raise ValueError("a recovery must not be negative")


@dataclass(frozen=True)
class Saturation:
    """A train of equal rectangular pulses at one offset.

    Attributes
    ----------
    offset_ppm : float
        RF minus scanner frequency, positive downfield.
    b1_ut : float
        Nominal amplitude during a pulse, in uT.
    pulse_duration_s : float
        Length of one pulse, in s.
    n_pulses : int
        Number of pulses; 1 is continuous-wave saturation.
    pulse_delay_s : float
        From the end of a pulse to the start of the next, in s.
    spin_lock : {"ideal", "none"}
        ``ideal``: each pulse is enclosed by perfect tips onto water's effective field.
    """

    offset_ppm: float
    b1_ut: float
    pulse_duration_s: float
    n_pulses: int = 1
    pulse_delay_s: float = 0.0
    spin_lock: Literal["ideal", "none"] = "none"

    def __post_init__(self) -> None:
        if self.n_pulses < 1 or self.pulse_duration_s <= 0:
            raise ValueError("a saturation needs at least one pulse of positive duration")
        if self.pulse_delay_s < 0 or self.b1_ut < 0:
            raise ValueError("pulse delay and B1 must not be negative")

    @property
    def train(self) -> tuple[int, float, float, str]:
        """What distinguishes pulse trains irrespective of offset and amplitude."""
        return self.n_pulses, self.pulse_duration_s, self.pulse_delay_s, self.spin_lock


@dataclass(frozen=True)
class Pulse:
    """One RF pulse of any shape, with the phase the scanner gives it.

    Attributes
    ----------
    waveform : Waveform
        Envelope relative to its peak.
    b1_ut : float
        Nominal peak amplitude in uT.
    offset_ppm : float
        RF minus scanner frequency, positive downfield.
    phase_rad : float
        Phase at its start against an oscillator that runs on at the scanner frequency.
    """

    waveform: Waveform
    b1_ut: float
    offset_ppm: float
    phase_rad: float = 0.0


@dataclass(frozen=True)
class Spoil:
    """All transverse magnetisation is destroyed."""


@dataclass(frozen=True)
class Readout:
    """Sampling of one volume by ``n_shots`` flips, each followed by ``shot_interval_s``.

    ``reset``: None where magnetisation carries on into the next volume; else everything is put
    back to this multiple of equilibrium (simulators do, scanners do not), and so starts the first.
    ``sampled`` is False where the volume is played but its image is not used.
    """

    flip_angle_deg: float
    n_shots: int = 1
    shot_interval_s: float = 0.0
    reset: float | None = None
    sampled: bool = True

    def __post_init__(self) -> None:
        if self.n_shots < 1 or self.shot_interval_s < 0:
            raise ValueError("a readout needs at least one shot and no negative interval")


CarrierPhase = Literal["exact", "whole_degrees"]
Block: TypeAlias = Recovery | Saturation | Pulse | Spoil | Readout


@dataclass(frozen=True)
class Volume:
    """The blocks that end in one readout.

    Attributes
    ----------
    recovery_s : float
        Relaxation before anything is played.
    preparation : tuple of Saturation, Pulse, Recovery or Spoil
        What is played from then on; the spoiler at its end is not listed.
    readout : Readout
    """

    recovery_s: float
    preparation: tuple[Block, ...]
    readout: Readout

    @property
    def saturation(self) -> Saturation | None:
        """The saturation, where it is all there is."""
        only = self.preparation[0] if len(self.preparation) == 1 else None
        return only if isinstance(only, Saturation) else None


@dataclass(frozen=True)
class Protocol:
    """Blocks of a series and the frequency its ppm refer to.

    Attributes
    ----------
    blocks : tuple of Block
    frequency_mhz : float
        Spectrometer frequency in MHz.
    is_m0 : tuple of bool
        Per volume that is sampled, whether it is an unsaturated reference.
    carrier_phase : {"exact", "whole_degrees"}
        How the phase a carrier gains during a pulse is counted where the next pulse has a phase
        of its own; the C++ simulator of Pulseq-CEST truncates it to whole degrees.
    """

    blocks: tuple[Block, ...]
    frequency_mhz: float
    is_m0: tuple[bool, ...]
    carrier_phase: CarrierPhase = "exact"

    def __post_init__(self) -> None:
        if not self.frequency_mhz > 0:
            raise ValueError("the spectrometer frequency must be positive")
        if sum(self.sampled) != len(self.is_m0):
            raise ValueError("is_m0 needs one entry per readout")

    @property
    def n_volumes(self) -> int:
        """Number of volumes that are sampled."""
        return len(self.is_m0)

    @property
    def sampled(self) -> tuple[bool, ...]:
        """Per volume that is played, whether it is sampled."""
        return tuple(v.readout.sampled for v in self.volumes)

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """Blocks grouped by readout.

        Raises
        ------
        ValueError
            If a readout finds transverse magnetisation that was not spoiled, or the protocol does
            not end with a readout.
        """
        volumes: list[Volume] = []
        preparation: list[Block] = []
        recovery, spoiled = 0.0, True
        for block in self.blocks:
            if isinstance(block, Readout):
                if not spoiled:
                    raise ValueError(
                        f"volume {len(volumes) + 1}: no spoiler between the last pulse and the "
                        "readout"
                    )
                volumes.append(Volume(recovery, _without_last_spoil(preparation), block))
                recovery, preparation = 0.0, []
            elif isinstance(block, Recovery) and not preparation:
                recovery += block.duration_s
            elif not (isinstance(block, Spoil) and spoiled):
                preparation.append(block)
                spoiled = isinstance(block, Spoil) or (spoiled and isinstance(block, Recovery))
        if recovery or preparation:
            raise ValueError("the protocol must end with a readout")
        return tuple(volumes)


def without_volumes(protocol: Protocol, lost: Collection[int]) -> Protocol:
    """The protocol as it is played, with some volumes (by index) not sampled."""
    blocks, number = list(protocol.blocks), 0
    for i, block in enumerate(blocks):
        if isinstance(block, Readout):
            blocks[i] = replace(block, sampled=block.sampled and number not in lost)
            number += 1
    is_m0 = tuple(m0 for i, m0 in enumerate(protocol.is_m0) if i not in lost)
    return replace(protocol, blocks=tuple(blocks), is_m0=is_m0)


def _without_last_spoil(preparation: list[Block]) -> tuple[Block, ...]:
    last = preparation[-1:] and isinstance(preparation[-1], Spoil)
    return tuple(preparation[:-1] if last else preparation)
