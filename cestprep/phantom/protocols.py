"""Sequences of synthetic sessions."""

from __future__ import annotations

import numpy as np

from cestprep.physics.protocol import Block, Protocol, Readout, Recovery, Saturation, Spoil

#: Readout of scans of the head: degrees, shots, s between shots.
READOUT = Readout(15.0, 45, 0.02837)
#: WASABI: offsets (ppm), length (s) and amplitude (uT) of the pulse, offset of the reference.
WASABI_OFFSETS_PPM = tuple(np.linspace(-1.8, 1.8, 24).round(6).tolist())
WASABI_PULSE, WASABI_M0_PPM = (0.005, 3.7), -300.0
#: Saturation recovery: s from saturation to readout; T2 preparation: its length in s.
RECOVERY_S = (10.0, 6.0, 4.0, 3.0, 2.2, 1.6, 1.2, 0.9, 0.6, 0.4, 0.2, 0.1)
T2_PREPARATION_S = (0.0, 0.02, 0.04, 0.06, 0.09, 0.13, 0.18, 0.25, 0.4, 0.6, 1.0)


def fingerprinting_protocol(offsets_ppm: tuple[float, float], frequency_mhz: float, pulsed: bool,
                            n_saturated: int = 30) -> Protocol:  # fmt: skip
    """An M0 volume and a varied saturation schedule, in the manner of published protocols.

    Offsets (low, high) and amplitudes up to 4 uT follow van der Corput sequences, so nothing is
    copied and nothing is random.
    """
    readout = READOUT if pulsed else Readout(90.0)
    blocks: list[Block] = [Recovery(15.0), readout]
    low, high = offsets_ppm
    for i in range(n_saturated):
        offset = low if low == high else round(low + (high - low) * _radical_inverse(i + 1, 3), 1)
        b1 = round(0.3 + 3.7 * _radical_inverse(i + 1, 2), 1)
        if pulsed:
            saturation = Saturation(offset, b1, 0.1, 13, 0.1, "ideal")
        else:
            saturation = Saturation(offset, b1, 2.5)
        blocks += [Recovery(15.0 if i == 0 else 1.0), saturation, Spoil(), readout]
    return Protocol(tuple(blocks), frequency_mhz, (True, *(False,) * n_saturated))


def _radical_inverse(index: int, base: int) -> float:
    value, scale = 0.0, 1.0 / base
    while index:
        value += scale * (index % base)
        index //= base
        scale /= base
    return value


def wasabi_protocol(frequency_mhz: float) -> Protocol:
    """WASABI after a far reference (Schuenke et al., Magn. Reson. Med. 77 (2017) 571)."""
    duration_s, b1_ut = WASABI_PULSE
    blocks: list[Block] = []
    for i, offset in enumerate((WASABI_M0_PPM, *WASABI_OFFSETS_PPM)):
        pulse = Saturation(offset, b1_ut, duration_s)
        blocks += [Recovery(12.0 if i < 2 else 3.0), pulse, Spoil(), READOUT]
    is_m0 = (True, *(False,) * len(WASABI_OFFSETS_PPM))
    return Protocol(tuple(blocks), frequency_mhz, is_m0)
