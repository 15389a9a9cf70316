"""Acquisition protocols as lists of blocks, independent of any file format.

A `Protocol` is what was played out, in order.  Magnetisation is at equilibrium before the first
block; each `Readout` yields one volume: the longitudinal water magnetisation before its first shot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Recovery:
    """Free relaxation, in s."""

    duration_s: float


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
class Spoil:
    """All transverse magnetisation is destroyed."""


@dataclass(frozen=True)
class Readout:
    """Sampling of one volume by ``n_shots`` flips, each followed by ``shot_interval_s``."""

    flip_angle_deg: float
    n_shots: int = 1
    shot_interval_s: float = 0.0

    def __post_init__(self) -> None:
        if self.n_shots < 1 or self.shot_interval_s < 0:
            raise ValueError("a readout needs at least one shot and no negative interval")


Block: TypeAlias = Recovery | Saturation | Spoil | Readout


@dataclass(frozen=True)
class Volume:
    """The blocks that end in one readout."""

    recovery_s: float
    saturation: Saturation | None
    readout: Readout


@dataclass(frozen=True)
class Protocol:
    """Blocks of a series and the frequency its ppm refer to.

    Attributes
    ----------
    blocks : tuple of Block
    frequency_mhz : float
        Spectrometer frequency in MHz.
    is_m0 : tuple of bool
        Per volume, whether it is an unsaturated reference.
    """

    blocks: tuple[Block, ...]
    frequency_mhz: float
    is_m0: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.frequency_mhz > 0:
            raise ValueError("the spectrometer frequency must be positive")
        if len(self.volumes) != len(self.is_m0):
            raise ValueError("is_m0 needs one entry per readout")

    @property
    def n_volumes(self) -> int:
        """Number of volumes."""
        return len(self.is_m0)

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """Blocks grouped by readout.

        Raises
        ------
        ValueError
            If between two readouts the blocks are not recoveries, at most one saturation, and a
            spoiler after it.
        """
        volumes: list[Volume] = []
        recovery, saturation, spoiled = 0.0, None, True
        for block in self.blocks:
            if isinstance(block, Recovery) and saturation is None:
                recovery += block.duration_s
            elif isinstance(block, Saturation) and saturation is None:
                saturation, spoiled = block, False
            elif isinstance(block, Spoil):
                spoiled = True
            elif isinstance(block, Readout) and spoiled:
                volumes.append(Volume(recovery, saturation, block))
                recovery, saturation, spoiled = 0.0, None, True
            else:
                raise ValueError(
                    f"volume {len(volumes) + 1}: unsupported block order at {block}; expected "
                    "recovery, saturation, spoil, readout"
                )
        if recovery or saturation is not None:
            raise ValueError("the protocol must end with a readout")
        return tuple(volumes)
