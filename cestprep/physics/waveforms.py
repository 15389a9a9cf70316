"""Envelopes of RF pulses, and how finely they must be sampled.

An envelope is piecewise constant: a rectangular pulse of 15 s is one run, however fine the raster
of the file it came from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

#: T2 (s) of a broad semisolid line: an upper bound of how fast it feels B1 squared.
_SEMISOLID_T2_S = 5e-5
#: Frequencies around the carrier (rad/s) at which pools may sit.
_SPREAD_RAD_S = (-3e3, 0.0, 3e3)
_MOST_OFFSETS = 16


@dataclass(frozen=True, eq=False)
class Waveform:
    """Complex envelope of a pulse relative to its peak, piecewise constant.

    Attributes
    ----------
    durations_s : ndarray, shape (n,)
        Lengths of the runs in s, positive.
    envelope : ndarray of complex, shape (n,)
        Value of each run; the angle is the phase of B1 against the carrier, counted like
        frequencies: a rising angle is a higher frequency.
    """

    durations_s: np.ndarray
    envelope: np.ndarray
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        durations = np.array(self.durations_s, np.float64, ndmin=1)
        envelope = np.array(self.envelope, np.complex128, ndmin=1)
        if durations.ndim != 1 or durations.shape != envelope.shape or not durations.size:
            raise ValueError("a waveform needs as many durations as values, at least one")
        if not (np.isfinite(durations).all() and np.isfinite(envelope).all()):
            raise ValueError("a waveform must be finite")
        if (durations <= 0).any():
            raise ValueError("durations of a waveform must be positive")
        for array in (durations, envelope):
            array.setflags(write=False)
        digest = hashlib.sha256(durations.tobytes() + envelope.tobytes()).digest()
        for name, value in (
            ("durations_s", durations),
            ("envelope", envelope),
            ("digest", digest),
        ):
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Waveform) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def rectangular(cls, duration_s: float) -> Waveform:
        """Constant envelope."""
        return cls(np.array([duration_s]), np.array([1.0]))

    @property
    def is_rectangular(self) -> bool:
        """Whether amplitude and phase are constant."""
        return self.durations_s.size == 1

    @property
    def duration_s(self) -> float:
        """Length of the pulse in s."""
        return float(self.durations_s.sum())

    @property
    def mean(self) -> float:
        """Magnitude of the mean over the pulse, relative to the peak (sets the flip angle)."""
        return float(abs(self.durations_s @ self.envelope) / self.duration_s)

    @property
    def rms(self) -> float:
        """Root mean square over the pulse, relative to the peak (sets the power)."""
        return float(np.sqrt(self.durations_s @ np.abs(self.envelope) ** 2 / self.duration_s))

    def averaged(self, count: int) -> Waveform:
        """The same pulse as ``count`` equal runs, each the mean over its time."""
        edges = np.concatenate([[0.0], np.cumsum(self.durations_s)])
        integral = np.concatenate([[0.0], np.cumsum(self.durations_s * self.envelope)])
        fine = np.linspace(0.0, edges[-1], count + 1)
        at = np.interp(fine, edges, integral.real) + 1j * np.interp(fine, edges, integral.imag)
        step = edges[-1] / count
        return Waveform(np.full(count, step), np.diff(at) / step)


@lru_cache(maxsize=256)
def sampled(
    waveform: Waveform, peak_rad_s: float, offsets_rad_s: tuple[float, ...], tolerance: float
) -> Waveform:
    """The coarsest sampling of a pulse whose effect is known to be within a tolerance.

    Powers of two of equal runs are tried from fine to coarse against the pulse as stored, on the
    rotation of a free spin at a range of offsets and on the saturation of a semisolid pool; the
    first that fails ends the search, so a smaller tolerance never gives a coarser sampling.

    Parameters
    ----------
    waveform : Waveform
    peak_rad_s : float
        Largest actual peak amplitude.
    offsets_rad_s : tuple of float
        RF offsets from water at which the pulse is played.
    tolerance : float
        Largest error of a component of unit magnetisation, per pulse.
    """
    runs = waveform.durations_s.size
    offsets = np.unique(offsets_rad_s)
    if offsets.size > _MOST_OFFSETS:
        offsets = offsets[np.linspace(0, offsets.size - 1, _MOST_OFFSETS).round().astype(int)]
    offsets = np.add.outer(offsets, _SPREAD_RAD_S).ravel()
    exact = None
    best = waveform
    for power in range(int(np.log2(runs)) if runs > 1 else 0, -1, -1):
        candidate = waveform.averaged(2**power)
        if exact is None:
            exact = _rotation(waveform, peak_rad_s, offsets)
        error = _distance(exact, _rotation(candidate, peak_rad_s, offsets))
        if error + _power_error(waveform, candidate, peak_rad_s) > tolerance:
            break
        best = candidate
    return best


def _power_error(waveform: Waveform, coarse: Waveform, peak_rad_s: float) -> float:
    lost = waveform.rms**2 - coarse.rms**2
    return _SEMISOLID_T2_S * peak_rad_s**2 * waveform.duration_s * abs(lost)


def _rotation(waveform: Waveform, peak_rad_s: float, offsets: np.ndarray) -> np.ndarray:
    """Cayley-Klein parameters of a pulse at each offset, shape (2, offsets)."""
    parts = [_spinor(waveform, peak_rad_s, offset) for offset in offsets]
    return np.stack(parts, axis=1)


def _spinor(waveform: Waveform, peak_rad_s: float, offset: float) -> np.ndarray:
    w = peak_rad_s * waveform.envelope
    effective = np.sqrt(np.abs(w) ** 2 + offset**2)
    half = 0.5 * effective * waveform.durations_s
    sine = np.sin(half) / np.where(effective > 0, effective, 1.0)
    a, b = np.cos(half) + 1j * offset * sine, -1j * w * sine
    while a.size > 1:
        if a.size % 2:
            a, b = np.append(a, 1.0), np.append(b, 0.0)
        a, b = (
            a[1::2] * a[::2] - np.conj(b[1::2]) * b[::2],
            b[1::2] * a[::2] + np.conj(a[1::2]) * b[::2],
        )
    return np.array([a[0], b[0]])


def _distance(exact: np.ndarray, other: np.ndarray) -> float:
    """Largest error of a rotated unit vector's components, near enough twice the spinors'."""
    both = [np.linalg.norm(exact - sign * other, axis=0) for sign in (1, -1)]
    return 2.0 * float(np.minimum(*both).max())
